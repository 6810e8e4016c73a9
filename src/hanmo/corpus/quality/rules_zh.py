"""Rules for Chinese: a document is rejected by the first one that it breaks.

They follow MassiveText (Rae et al., arXiv:2112.11446, appendix A.1) with characters in place of words, and add what
is particular to Chinese: function characters, rare characters, sentence ends, dictionary words. The limits leave law,
classical books, poems, novels, dialogue and technical pages alone (see benchmarks/quality.py for the shares rejected).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from hanmo.corpus.quality import repetition
from hanmo.corpus.quality.characters import COLUMN, table
from hanmo.corpus.quality.language import Language
from hanmo.corpus.quality.page import Page
from hanmo.corpus.quality.settings import ChineseRules
from hanmo.extras import need

#: No prose and no verse: fewer sentence ends than these per 1,000 Han. Short items: of fewer Han than these.
_PROSE, _ITEM = 5, 4.5
_PAIRS = 1 << 22
_ODD = np.uint32(0x9E3779B1)


def fault(page: Page, language: Language, rules: ChineseRules) -> tuple[str, str]:
    """(reason, detail) why a Chinese document is not kept, or empty."""
    if page.solid < rules.from_chars:
        return "", ""
    return _characters(page, language, rules) or _lines(page, rules) or _repetition(page, rules) or ("", "")


def _characters(page: Page, language: Language, rules: ChineseRules) -> tuple[str, str] | None:
    solid, han = page.solid, page.count("han")
    share = page.count("digit") / solid
    if share > rules.max_digits:
        return "digits", f"{share:.2f} of the characters are digits, above max_digits {rules.max_digits:g}"
    share = page.count("symbol") / solid
    if share > rules.max_symbols:
        return "symbols", f"{share:.2f} of the characters are symbols, above max_symbols {rules.max_symbols:g}"
    if han < rules.from_chars:  # the others are shares of Han, and a few of them say little
        return None
    share = page.count("rare") / han
    if share > rules.max_rare:
        return "rare_characters", f"{share:.2f} of the Han are rare characters, above max_rare {rules.max_rare:g}"
    share, ends = page.count("stop") / han, page.count("end")
    if 1000 * ends < _PROSE * han:  # verse has few function characters by right, but its lines end
        items = page.count("separator") + page.count("space")
        few = f"{share:.3f} of the Han are function characters"
        if share < rules.min_prose and items * _ITEM > han:
            return "keyword_list", f"short items, hardly a sentence end, and {few}, below min_prose {rules.min_prose:g}"
        if share < rules.min_stop:
            return "few_stop", f"{few}, below min_stop {rules.min_stop:g}"
    if language.register == "modern" and han >= rules.sentences_from and 1000 * ends < rules.min_sentences * han:
        found = f"{1000 * ends / han:.1f} sentence ends per 1,000 Han"
        return "no_sentences", f"{found}, below min_sentences {rules.min_sentences:g}"
    if rules.min_words and language.script != "Hant":
        share = covered(page)
        if share < rules.min_words:
            return "few_words", f"{share:.2f} of the Han stand in dictionary words, below min_words {rules.min_words:g}"
    return None


def _lines(page: Page, rules: ChineseRules) -> tuple[str, str] | None:
    if page.count("newline") + 1 < rules.from_lines or (lines := len(page.lengths)) < rules.from_lines:
        return None
    # So many marks are not in the whole document as would have to stand at the lines' edges: the common case.
    share = page.lines_at(0, "bullet") if page.count("bullet") > rules.max_bullets * lines else 0.0
    if share > rules.max_bullets:
        return "bullets", f"{share:.2f} of the lines are items of a list, above max_bullets {rules.max_bullets:g}"
    share = page.lines_at(1, "ellipsis") if page.count("ellipsis") > rules.max_ellipsis * lines else 0.0
    if share > rules.max_ellipsis:
        return "ellipsis", f"{share:.2f} of the lines end in an ellipsis, above max_ellipsis {rules.max_ellipsis:g}"
    share = np.count_nonzero(page.lengths < rules.short_line) / lines
    if share > rules.max_short_lines:
        ended = page.lines_at(1, "closing")
        if ended < rules.min_line_ends:
            return (
                "short_lines",
                f"{share:.2f} of the lines are shorter than {rules.short_line} characters, above max_short_lines "
                f"{rules.max_short_lines:g}, and {ended:.2f} end in punctuation, below min_line_ends "
                f"{rules.min_line_ends:g}",
            )
    mean = (len(page.codes) - page.count("newline")) / lines
    if mean < rules.min_line:
        return "short_lines", f"lines of {mean:.1f} characters on average, below min_line {rules.min_line:g}"
    share = page.repeated_lines
    if share > rules.max_repeated_lines:
        return (
            "repeated_lines",
            f"{share:.2f} of the text is in lines that came before, above max_repeated_lines "
            f"{rules.max_repeated_lines:g}",
        )
    return None


def _repetition(page: Page, rules: ChineseRules) -> tuple[str, str] | None:
    found = repetition.fault(page.symbols, rules.max_top, rules.max_repeated)
    if found is None:
        return None
    name, size, share = found
    if name == "top":
        return "top_ngram", f"one {size}-gram covers {share:.2f} of the text, above max_top {rules.max_top[size]:g}"
    limit = f"max_repeated {rules.max_repeated[size]:g}"
    return "repeated_ngrams", f"{share:.2f} of the {size}-grams came before, above {limit}"


def covered(page: Page) -> float:
    """Share of the Han that stand in a dictionary word of two characters (longer words are mostly made of such).

    Raises:
        HanmoError: jieba, whose dictionary it is, is not installed.
    """
    codes = page.codes
    if len(codes) < 2:
        return 0.0
    han = table().matrix[:, COLUMN["han"]].astype(bool).take(page.classes)
    hits = _dictionary().take(_pairs(codes[:-1], codes[1:])) & han[:-1] & han[1:]
    inside = np.zeros(len(codes), bool)
    inside[:-1] |= hits
    inside[1:] |= hits
    return float(np.count_nonzero(inside)) / max(1.0, page.count("han"))


def _pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return ((left * np.uint32(0x10001) + right) * _ODD) >> np.uint32(10)


@cache
def _dictionary() -> np.ndarray:
    """Whether a cell holds a word of two Han characters, [2**22] bool; about one cell of fifty does."""
    words = need("hanmo.corpus.quality.dictionary", "words").pairs()
    cells = np.zeros(_PAIRS, np.bool_)
    codes = np.frombuffer("".join(words).encode("utf-32-le"), "<u4").reshape(-1, 2)
    cells[_pairs(codes[:, 0], codes[:, 1])] = True
    return cells
