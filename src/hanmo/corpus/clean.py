"""Cleaning: what a document's characters become, rule by rule, each counted.

Single characters are looked up in two tables over all code points (what class a character is of, what it becomes),
for a whole document at once in numpy; a document in which every character stays is not touched further. The rules:

========== =============================================================================================================
nfc        composed as Unicode's NFC says
half_width full-width letters and digits become ASCII; full-width and Chinese punctuation is never touched
newlines   CRLF, CR, U+0085, U+2028, U+2029, VT and FF become one line feed
spaces     no-break and typographic spaces become a space. The ideographic space (U+3000) is paragraph indentation at
           the start of a line and goes; elsewhere it divides words (第一条　总则) and a run of it becomes one space
controls   other control characters, object replacement, interlinear marks and noncharacters go
invisible  zero-width spaces, byte order marks, soft hyphens, direction marks and language tags go; joiners (U+200C,
           U+200D) stay where they join something: not beside Han characters, ASCII or nothing
private    private-use characters that GB18030 once used for a character become that character; the others become □, as
           they look to any reader without the font they were made for
unpadded   white space at line ends goes, more than one empty line becomes one, empty lines around the text go
simplified traditional characters to simplified by OpenCC's t2s (phrases included), if asked for
========== =============================================================================================================
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np

from hanmo.corpus.settings import CleanSettings

_SIZE = 0x110000
_GONE = 0xFFFFFFFF

# Classes of characters; those up to _REPLACED never change by themselves.
_OTHER, _HAN, _SPACE, _REPLACED, _WIDE, _NEWLINE, _ODD_SPACE, _IDEOGRAPHIC, _CONTROL, _INVISIBLE, _JOINER, _PRIVATE = (
    range(12)
)
_CLASSES = 12
#: Rules that are one lookup per character, and the class each is counted by.
_BY_CHARACTER = {
    "half_width": _WIDE,
    "newlines": _NEWLINE,
    "spaces": _ODD_SPACE,
    "controls": _CONTROL,
    "invisible": _INVISIBLE,
    "private": _PRIVATE,
}

#: Han: radicals, 々〇, numerals of Suzhou, the unified and the compatibility ideographs (Unicode Script=Han, 17.0).
HAN_RANGES = (
    (0x2E80, 0x2FD5),
    (0x3005, 0x3005),
    (0x3007, 0x3007),
    (0x3021, 0x3029),
    (0x3038, 0x303B),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAD9),
    (0x20000, 0x323AF),
    (0x323B0, 0x3347F),
)

#: Characters that GB18030-2000 and GBK had to place in the private use area, by what they are in later standards
#: (GB18030-2022, and the mapping of the WHATWG Encoding Standard for the ideographic space).
_GB_PRIVATE = {
    0xE5E5: 0x3000,
    **dict(zip(range(0xE78D, 0xE797), (0xFE10, 0xFE12, 0xFE11, *range(0xFE13, 0xFE1A)), strict=True)),
    0xE7C7: 0x1E3F,
    0xE816: 0x20087,
    0xE817: 0x20089,
    0xE818: 0x200CC,
    0xE81E: 0x9FB4,
    0xE826: 0x9FB5,
    0xE82B: 0x9FB6,
    0xE82C: 0x9FB7,
    0xE831: 0x215D7,
    0xE832: 0x9FB8,
    0xE83B: 0x2298F,
    0xE843: 0x9FB9,
    0xE854: 0x9FBA,
    0xE855: 0x241FE,
    0xE864: 0x9FBB,
}


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """(class of every code point, uint8; what it becomes, uint32 with `_GONE` for nothing)."""
    kind = np.zeros(_SIZE, np.uint8)
    become = np.arange(_SIZE, dtype=np.uint32)

    def mark(first: int, last: int, of: int, to: int | None = None) -> None:
        kind[first : last + 1] = of
        if to is not None:
            become[first : last + 1] = to

    for first, last in HAN_RANGES:
        mark(first, last, _HAN)
    mark(0x00, 0x1F, _CONTROL, _GONE)
    mark(0x7F, 0x9F, _CONTROL, _GONE)
    for code in (0x09, 0x0A, 0x20):
        mark(code, code, _SPACE)
        become[code] = code
    for code in (0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029):
        mark(code, code, _NEWLINE, 0x0A)
    mark(0x2000, 0x200A, _ODD_SPACE, 0x20)
    for code in (0xA0, 0x1680, 0x202F, 0x205F):
        mark(code, code, _ODD_SPACE, 0x20)
    mark(0x3000, 0x3000, _IDEOGRAPHIC)
    for first, last in ((0x200B, 0x200B), (0x200E, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F)):
        mark(first, last, _INVISIBLE, _GONE)
    for code in (0xAD, 0x180E, 0xFEFF):
        mark(code, code, _INVISIBLE, _GONE)
    mark(0xE0000, 0xE007F, _INVISIBLE, _GONE)
    mark(0x200C, 0x200D, _JOINER)
    mark(0xFFF9, 0xFFFC, _CONTROL, _GONE)
    for first, last in ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD)):
        mark(first, last, _PRIVATE, 0x25A1)
    for code, to in _GB_PRIVATE.items():
        become[code] = to
    mark(0xFDD0, 0xFDEF, _CONTROL, _GONE)
    for plane in range(0, _SIZE, 0x10000):
        mark(plane + 0xFFFE, plane + 0xFFFF, _CONTROL, _GONE)
    mark(0xFFFD, 0xFFFD, _REPLACED)
    for base, to in ((0xFF10, "09"), (0xFF21, "AZ"), (0xFF41, "az")):
        length = ord(to[1]) - ord(to[0])
        mark(base, base + length, _WIDE)
        become[base : base + length + 1] = np.arange(ord(to[0]), ord(to[1]) + 1)
    return kind, become


class Counts(NamedTuple):
    """Characters of a text, by what a filter asks for."""

    chars: int
    han: int
    space: int
    damaged: int  # private-use characters and replacement marks, before cleaning


class Cleaner:
    """Applies the rules above.

    Args:
        settings: which of the rules apply that can be turned off; the others always do.
    """

    def __init__(self, settings: CleanSettings) -> None:
        self.nfc = settings.nfc
        self._kind, self._become = _tables()
        if not settings.half_width:
            self._kind, self._become = self._kind.copy(), self._become.copy()
            for first, last in ((0xFF10, 0xFF19), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)):
                self._kind[first : last + 1] = _OTHER
                self._become[first : last + 1] = np.arange(first, last + 1)
        self._convert = _opencc() if settings.simplify else None

    def __call__(self, text: str, changed: Counter[str]) -> tuple[str, Counts, Counts]:
        """Clean `text` (which holds no surrogates), adding to `changed` how many characters each rule changed.

        Returns:
            the clean text, the counts before and the counts after.
        """
        codes = _codes(text)
        kinds = self._kind.take(codes)
        before = _counts(kinds)
        clean = text
        if self.nfc and not unicodedata.is_normalized("NFC", clean):
            composed = unicodedata.normalize("NFC", clean)
            changed["nfc"] += _difference(clean, composed)
            clean = composed
            codes = _codes(clean)
            kinds = self._kind.take(codes)
        if len(kinds) and kinds.max() > _REPLACED:
            clean = self._by_character(clean, codes, np.bincount(kinds, minlength=_CLASSES), changed)
            if self.nfc:  # what stood between a letter and its accent may be gone
                clean = unicodedata.normalize("NFC", clean)
        clean = _unpad(clean, changed)
        if self._convert is not None:
            simple = self._convert(clean)
            if simple != clean:
                changed["simplified"] += _difference(clean, simple)
                clean = simple
        return clean, before, before if clean is text else _counts(self._kind.take(_codes(clean)))

    def _by_character(self, text: str, codes: np.ndarray, tally: np.ndarray, changed: Counter[str]) -> str:
        for rule, kind in _BY_CHARACTER.items():
            if tally[kind]:
                changed[rule] += int(tally[kind])
        if tally[_NEWLINE] and "\r\n" in text:
            codes = _codes(text.replace("\r\n", "\n"))
        codes = self._become.take(codes)
        text = codes[codes != _GONE].astype("<u4").tobytes().decode("utf-32-le")
        # Only now do the neighbours of the others stand beside them.
        if tally[_JOINER]:
            length = len(text)
            text = _IDLE_JOINER.sub("", text)
            if len(text) != length:
                changed["invisible"] += length - len(text)
        if "\u3000" in text:
            changed["spaces"] += text.count("\u3000")
            text = _IDEOGRAPHIC_RUN.sub(" ", "\n".join(map(_unindent, text.split("\n"))))
        return text


# Patterns that begin with a literal are searched for ten times as fast as those that begin with a repetition.
_IDEOGRAPHIC_RUN = re.compile("\u3000\u3000*")
_EMPTY_LINES = re.compile(r"\n\n\n\n*")
#: A joiner at the text's edge, or beside white space, ASCII or Han, where there is nothing that it could join.
_PLAIN = r"[\x00-\x7f\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]"
_IDLE_JOINER = re.compile(rf"(?:(?<={_PLAIN})|\A)[\u200c\u200d]++|[\u200c\u200d]++(?={_PLAIN}|\Z)")


def measure(text: str) -> Counts:
    """The counts of a text as it is."""
    return _counts(_tables()[0].take(_codes(text)))


def _unindent(line: str) -> str:
    """The line without an indentation that holds an ideographic space."""
    begun = line.lstrip(" \t")
    return begun.lstrip(" \t\u3000") if begun.startswith("\u3000") else line


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _counts(kinds: np.ndarray) -> Counts:
    """Counts from the class of every character [chars] uint8."""
    if len(kinds) and kinds.max() <= _SPACE:  # the common case, with few and fast passes
        return Counts(len(kinds), int(np.count_nonzero(kinds == _HAN)), int(np.count_nonzero(kinds == _SPACE)), 0)
    tally = np.bincount(kinds, minlength=_CLASSES)
    space = tally[_SPACE] + tally[_NEWLINE] + tally[_ODD_SPACE] + tally[_IDEOGRAPHIC]
    return Counts(len(kinds), int(tally[_HAN]), int(space), int(tally[_PRIVATE] + tally[_REPLACED]))


def _difference(before: str, after: str) -> int:
    """How many characters of `before` are not in `after` any more."""
    return (Counter(before) - Counter(after)).total()


def _unpad(text: str, changed: Counter[str]) -> str:
    length = len(text)
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    if "\n\n\n" in text:
        text = _EMPTY_LINES.sub("\n\n", text)
    text = text.strip("\n").rstrip()
    if len(text) != length:
        changed["unpadded"] += length - len(text)
    return text


def _opencc():
    import opencc

    return opencc.OpenCC("t2s").convert
