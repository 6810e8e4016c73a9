"""Settings of the quality rules, by language."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from hanmo.stage import Settings, factory, setting


def _sizes(value: Any) -> Any:
    """Limits by n: n from 1 to 20, the limit a share."""
    if isinstance(value, dict):
        for size, limit in value.items():
            if not 1 <= size <= 20 or not 0 <= limit <= 1:
                raise ValueError(f"{size}: {limit}: give n from 1 to 20 and a share from 0 to 1")
    return value


class ChineseRules(Settings):
    """Rules for Chinese documents; a limit of 1 (for what is at most) or 0 (at least) turns one off."""

    from_chars: int = setting(100, "documents of fewer characters (white space aside) are not judged by these", ge=1)
    max_digits: float = setting(0.75, "largest share of digits", ge=0, le=1)
    max_symbols: float = setting(
        0.35, "largest share of symbols (marks, emoji, box drawing; not punctuation)", ge=0, le=1
    )
    max_rare: float = setting(
        0.25, "largest share of Han outside the common ones (GB 2312 level 1, Big5 level 1)", ge=0, le=1
    )
    min_stop: float = setting(0.04, "least share of function characters (的一是不了之以而) among Han", ge=0, le=1)
    min_prose: float = setting(0.1, "the same in a list of short items, such as keywords", ge=0, le=1)
    min_sentences: float = setting(0.3, "least sentence ends (。！？…) per 1,000 Han, modern Chinese only", ge=0)
    sentences_from: int = setting(500, "documents of fewer Han are not judged by their sentence ends", ge=1)
    min_words: float = setting(
        0.0, 'least share of Han in dictionary words (needs jieba: pip install "hanmo[words]"); 0: off', ge=0, le=1
    )
    from_lines: int = setting(20, "documents of fewer lines are not judged by their lines", ge=1)
    max_bullets: float = setting(0.95, "largest share of lines that are items of a list", ge=0, le=1)
    max_ellipsis: float = setting(0.5, "largest share of lines that end in an ellipsis", ge=0, le=1)
    short_line: int = setting(8, "lines of fewer characters are short", ge=1)
    max_short_lines: float = setting(
        0.8, "largest share of short lines, where few lines end in punctuation", ge=0, le=1
    )
    min_line_ends: float = setting(
        0.1, "share of lines that end in punctuation from which short ones are kept", ge=0, le=1
    )
    min_line: float = setting(4.0, "least length of a line on average (characters)", ge=0)
    max_repeated_lines: float = setting(0.6, "largest share of the text in lines that came before", ge=0, le=1)
    max_top: dict[int, float] = factory(
        lambda: {2: 0.35, 4: 0.45}, "by n: largest share of the text in its commonest n characters"
    )
    max_repeated: dict[int, float] = factory(
        lambda: {5: 0.75, 10: 0.6}, "by n: largest share of runs of n characters that came before in the document"
    )

    _check = field_validator("max_top", "max_repeated")(_sizes)


class EnglishRules(Settings):
    """Rules for English documents; the limits are those of Gopher, C4 and FineWeb."""

    min_words: int = setting(50, "shorter documents are rejected (words)", ge=1)
    max_words: int = setting(100_000, "longer documents are rejected (words)", ge=1)
    word_length: tuple[float, float] = setting((3.0, 10.0), "mean length of a word, from and to (characters)")
    max_symbols: float = setting(0.1, "most hash signs, and most ellipses, per word", ge=0)
    min_alphabetic: float = setting(0.8, "least share of words with a letter", ge=0, le=1)
    min_stop: int = setting(2, "of `the be to of and that have with`, so many must occur", ge=0, le=8)
    placeholder: bool = setting(True, "reject what holds 'lorem ipsum'")
    max_bullets: float = setting(0.9, "largest share of lines that are items of a list", ge=0, le=1)
    max_ellipsis: float = setting(0.3, "largest share of lines that end in an ellipsis", ge=0, le=1)
    min_line_ends: float = setting(0.12, "least share of lines that end in punctuation", ge=0, le=1)
    short_line: int = setting(30, "lines of at most so many characters are short", ge=0)
    max_short_lines: float = setting(0.67, "largest share of short lines", ge=0, le=1)
    max_line_ratio: float = setting(0.3, "most lines per word", ge=0)
    max_repeated_lines: float = setting(
        0.3, "largest share of lines, of paragraphs, or of their text, that came before", ge=0, le=1
    )
    max_top: dict[int, float] = factory(
        lambda: {2: 0.2, 3: 0.18, 4: 0.16}, "by n: largest share of the text in its commonest n words"
    )
    max_repeated: dict[int, float] = factory(
        lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1},
        "by n: largest share of the text in runs of n words that came before",
    )

    _check = field_validator("max_top", "max_repeated")(_sizes)
