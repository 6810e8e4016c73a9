"""Rules for English: a document is rejected by the first one that it breaks.

The rules and limits of MassiveText (Rae et al., "Gopher", arXiv:2112.11446, appendix A.1), of C4 (Raffel et al.,
arXiv:1910.10683: placeholder text) and of FineWeb (Penedo et al., arXiv:2406.17557: lines). Words are what white space
divides; n-grams overlap and are weighed by their characters as Gopher's are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hanmo.corpus.quality import repetition
from hanmo.corpus.quality.page import Page
from hanmo.corpus.quality.settings import EnglishRules

#: Words of which any English text has two (Gopher).
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_TERMINAL = (".", "!", "?", '"', "'", "”", "’", "…", "。", "！", "？", ")")
_ELLIPSES = ("...", "…")


def fault(page: Page, rules: EnglishRules) -> tuple[str, str]:
    """(reason, detail) why an English document is not kept, or empty."""
    words = page.text.split()
    return _words(page, words, rules) or _lines(page, words, rules) or _repetition(words, page, rules) or ("", "")


def _words(page: Page, words: list[str], rules: EnglishRules) -> tuple[str, str] | None:
    proper = [word for word in words if any(map(str.isalnum, word))]
    if len(proper) < rules.min_words:
        return "few_words", f"{len(proper)} words, fewer than min_words {rules.min_words}"
    if len(proper) > rules.max_words:
        return "many_words", f"{len(proper)} words, more than max_words {rules.max_words}"
    mean = sum(map(len, proper)) / len(proper)
    low, high = rules.word_length
    if not low <= mean <= high:
        return "word_length", f"words of {mean:.1f} characters on average, outside word_length {low:g} to {high:g}"
    share = page.text.count("#") / len(words)
    if share > rules.max_symbols:
        return "symbols", f"{share:.2f} hash signs per word, above max_symbols {rules.max_symbols:g}"
    share = sum(map(page.text.count, _ELLIPSES)) / len(words)
    if share > rules.max_symbols:
        return "symbols", f"{share:.2f} ellipses per word, above max_symbols {rules.max_symbols:g}"
    share = sum(any(map(str.isalpha, word)) for word in words) / len(words)
    if share < rules.min_alphabetic:
        return "few_letters", f"{share:.2f} of the words have a letter, below min_alphabetic {rules.min_alphabetic:g}"
    found = len(STOP_WORDS.intersection(words))
    if found < rules.min_stop:
        return "few_stop", f"{found} of the commonest words occur, below min_stop {rules.min_stop}"
    if rules.placeholder and "lorem ipsum" in page.text.lower():
        return "placeholder", "it holds 'lorem ipsum'"
    return None


def _lines(page: Page, words: list[str], rules: EnglishRules) -> tuple[str, str] | None:
    lines = [line.strip() for line in page.lines]
    count = len(lines)
    share = sum(line.startswith(("•", "-", "*")) for line in lines) / count
    if share > rules.max_bullets:
        return "bullets", f"{share:.2f} of the lines are items of a list, above max_bullets {rules.max_bullets:g}"
    share = sum(line.endswith(_ELLIPSES) for line in lines) / count
    if share > rules.max_ellipsis:
        return "ellipsis", f"{share:.2f} of the lines end in an ellipsis, above max_ellipsis {rules.max_ellipsis:g}"
    share = sum(line.endswith(_TERMINAL) for line in lines) / count
    if share < rules.min_line_ends:
        return "line_ends", f"{share:.2f} of the lines end in punctuation, below min_line_ends {rules.min_line_ends:g}"
    share = sum(len(line) <= rules.short_line for line in lines) / count
    if share > rules.max_short_lines:
        limit = f"max_short_lines {rules.max_short_lines:g}"
        return "short_lines", f"{share:.2f} of the lines have at most {rules.short_line} characters, above {limit}"
    share = count / len(words)
    if share > rules.max_line_ratio:
        return "list", f"{share:.2f} lines per word, above max_line_ratio {rules.max_line_ratio:g}"
    for name, parts in (("lines", lines), ("paragraphs", [part for part in page.text.split("\n\n") if part])):
        repeated = list((Counter(parts) - Counter(set(parts))).elements())
        for share in (len(repeated) / len(parts), sum(map(len, repeated)) / len(page.text)):
            if share > rules.max_repeated_lines:
                limit = f"max_repeated_lines {rules.max_repeated_lines:g}"
                return "repeated_lines", f"{share:.2f} of the {name} or of their text came before, above {limit}"
    return None


def _repetition(words: list[str], page: Page, rules: EnglishRules) -> tuple[str, str] | None:
    # The bound on counts is exact if each word weighed the same; the longest word makes it one for characters too.
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    longest, whole = int(lengths.max()), len(page.text)
    symbols = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    symbols = symbols ^ (symbols >> np.uint64(32))
    for size, limit in sorted(rules.max_top.items()):
        if size <= len(words) and repetition.most_times(symbols, size) * size * (longest + 1) > limit * whole:
            grams = Counter(zip(*(words[offset:] for offset in range(size)), strict=False))
            gram, times = grams.most_common(1)[0]
            share = times * len(" ".join(gram)) / whole
            if share > limit:
                return "top_ngram", f"one run of {size} words covers {share:.2f} of the text, above max_top {limit:g}"
    for size, limit in sorted(rules.max_repeated.items()):
        if size <= len(words) and repetition.most_repeated(symbols, size) * size * longest > limit * whole:
            share = _covered(words, size) / whole
            if share > limit:
                found = f"runs of {size} words that came before cover {share:.2f} of the text"
                return "repeated_ngrams", f"{found}, above max_repeated {limit:g}"
    return None


def _covered(words: Sequence[str], size: int) -> int:
    """Characters in runs of `size` words that occurred before, none counted twice."""
    seen: set[tuple[str, ...]] = set()
    covered = place = 0
    while place <= len(words) - size:
        gram = tuple(words[place : place + size])
        if gram in seen:
            covered += sum(map(len, gram))
            place += size
        else:
            seen.add(gram)
            place += 1
    return covered
