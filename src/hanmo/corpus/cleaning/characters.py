"""Single characters: what class each is of, and what it becomes, in two tables over all code points.

A whole document is looked up at once in numpy; one in which every character stays is not touched further. The classes
also tell the other rules cheaply whether they have anything to do. The rules and their names are listed in
`hanmo.corpus.clean`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np

SIZE = 0x110000
_GONE = 0xFFFFFFFF

# Classes of characters; those up to REPLACED never change by themselves. Pivots are what `hints` looks for.
OTHER, HAN, HAN_PIVOT, PIVOT, DIVIDER, OPENER, CLOSER, DASH, LINE, SPACE, LATIN, GARBLED, REPLACED = range(13)
WIDE, NEWLINE, ODD_SPACE, IDEOGRAPHIC, CONTROL, INVISIBLE, JOINER, PRIVATE = range(13, 21)
RADICAL, FORM, LIGATURE, KANA, SELECTOR = range(21, 26)
CLASSES = 26
#: Full-width punctuation, by what it does to its neighbours.
MARKS = {DIVIDER: "、。！，；：？", OPENER: "〈《「『【〔〖（", CLOSER: "〉》」』】〕〗）", DASH: "…—"}
#: Rules that are one lookup per character, and the class each is counted by.
_BY_CHARACTER = {
    "half_width": WIDE,
    "newlines": NEWLINE,
    "spaces": ODD_SPACE,
    "controls": CONTROL,
    "invisible": INVISIBLE,
    "private": PRIVATE,
    "radicals": RADICAL,
    "forms": FORM,
}
#: Rules that can be left out, by their class: its characters then stay as they are.
SWITCHED = {
    "half_width": WIDE,
    "radicals": RADICAL,
    "forms": FORM,
    "ligatures": LIGATURE,
    "kana": KANA,
    "selectors": SELECTOR,
}

#: The classes that a rule looks for.
KINDS_OF = {
    **{rule: [kind] for rule, kind in _BY_CHARACTER.items()},
    "spaces": [ODD_SPACE, IDEOGRAPHIC],
    "invisible": [INVISIBLE, JOINER],
    "ligatures": [LIGATURE],
    "kana": [KANA],
    "selectors": [SELECTOR],
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
#: The same for a character class of `re`, of what is seen in running text.
HAN_CLASS = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufad9\U00020000-\U0003347f"

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

#: Radicals of the supplement that look like a whole character, as PDFs write 长 and 见 (Unicode's
#: EquivalentUnifiedIdeograph); the parts of characters among them (⺡, ⺮) are meant where they stand.
_RADICALS = dict(
    zip(
        "⺎⺒⺓⺜⺝⺟⺠⺧⺩⺪⺬⺶⺻⺼⺽⻁⻄⻅⻆⻉⻋⻑⻓⻔⻗⻘⻙⻚⻛⻜⻝⻢⻣⻤⻥⻦⻧⻨⻩⻪⻬⻮⻰⻱⻳",
        "兀巳幺日月母民牛王疋示羊聿肉臼虎西见角贝车長长门雨青韦页风飞食马骨鬼鱼鸟卤麦黄黾齐齿龙龜龟",
        strict=True,
    )
)
#: Vertical and small forms of punctuation, half-width punctuation of Japanese; each becomes the full-width character.
#: U+FE30 is a vertical two dot leader by name, and a colon by the use that is made of it.
_FORMS = dict(
    zip(
        "︐︑︒︓︔︕︖︗︘︙︰︱︳︵︶︷︸︹︺︻︼︽︾︿﹀﹁﹂﹃﹄﹇﹈﹐﹑﹔﹕﹖﹗﹙﹚﹛﹜﹝﹞｡｢｣､",
        "，、。：；！？〖〗…：—＿（）｛｝〔〕【】《》〈〉「」『』［］，、；：？！（）｛｝〔〕。「」、",
        strict=True,
    )
)
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}


@cache
def tables(off: frozenset[str] = frozenset(), pivots: str = "") -> tuple[np.ndarray, np.ndarray]:
    """(class of every code point, uint8; what it becomes, uint32 with `_GONE` for nothing).

    Args:
        off: names of `SWITCHED` that are left out.
        pivots: characters to be marked as such.
    """
    kind = np.zeros(SIZE, np.uint8)
    become = np.arange(SIZE, dtype=np.uint32)

    def mark(first: int, last: int, of: int, to: int | None = None) -> None:
        kind[first : last + 1] = of
        if to is not None:
            become[first : last + 1] = to

    for first, last in HAN_RANGES:
        mark(first, last, HAN)
    mark(0xC0, 0xFF, LATIN)
    for code in (0xD7, 0xF7):
        mark(code, code, OTHER)
    for char in garbled():
        mark(ord(char), ord(char), GARBLED)
    for of, marks in MARKS.items():
        for char in marks:
            mark(ord(char), ord(char), of)
    for char in pivots:
        mark(ord(char), ord(char), HAN_PIVOT if kind[ord(char)] in (HAN, HAN_PIVOT, GARBLED) else PIVOT)
    mark(0x00, 0x1F, CONTROL, _GONE)
    mark(0x7F, 0x9F, CONTROL, _GONE)
    for code in (0x09, 0x0A, 0x20):
        mark(code, code, LINE if code == 0x0A else SPACE)
        become[code] = code
    for code in (0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029):
        mark(code, code, NEWLINE, 0x0A)
    mark(0x2000, 0x200A, ODD_SPACE, 0x20)
    for code in (0xA0, 0x1680, 0x202F, 0x205F):
        mark(code, code, ODD_SPACE, 0x20)
    mark(0x3000, 0x3000, IDEOGRAPHIC)
    for first, last in ((0x200B, 0x200B), (0x200E, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F)):
        mark(first, last, INVISIBLE, _GONE)
    for code in (0xAD, 0x180E, 0xFEFF):
        mark(code, code, INVISIBLE, _GONE)
    mark(0xE0000, 0xE007F, INVISIBLE, _GONE)
    mark(0x200C, 0x200D, JOINER)
    mark(0xFFF9, 0xFFFC, CONTROL, _GONE)
    if "radicals" not in off:
        for code in range(0x2F00, 0x2FD6):
            mark(code, code, RADICAL, ord(unicodedata.normalize("NFKC", chr(code))))
        for char, to in _RADICALS.items():
            mark(ord(char), ord(char), RADICAL, ord(to))
    if "forms" not in off:
        for char, to in _FORMS.items():
            mark(ord(char), ord(char), FORM, ord(to))
    for first, last in ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD)):
        mark(first, last, PRIVATE, 0x25A1)
    for code, to in _GB_PRIVATE.items():
        become[code] = become[to]
    mark(0xFDD0, 0xFDEF, CONTROL, _GONE)
    for plane in range(0, SIZE, 0x10000):
        mark(plane + 0xFFFE, plane + 0xFFFF, CONTROL, _GONE)
    mark(0xFFFD, 0xFFFD, REPLACED)
    if "half_width" not in off:
        for base, to in ((0xFF10, "09"), (0xFF21, "AZ"), (0xFF41, "az")):
            length = ord(to[1]) - ord(to[0])
            mark(base, base + length, WIDE)
            become[base : base + length + 1] = np.arange(ord(to[0]), ord(to[1]) + 1)
    if "ligatures" not in off:
        mark(0xFB00, 0xFB06, LIGATURE)
    if "kana" not in off:
        mark(0xFF65, 0xFF9F, KANA)
    if "selectors" not in off:
        mark(0xFE00, 0xFE0F, SELECTOR)
        mark(0xE0100, 0xE01EF, SELECTOR)
    return kind, become


@cache
def garbled() -> str:
    """The characters that the first two bytes of UTF-8 become when they are read as GBK: 浣 of 你, 锛 of ，.

    The first byte is that of a Han character's three (E4 to E9), or of punctuation (E2, E3, EF).
    """
    pairs = [bytes((first, second)) for first in range(0xE4, 0xEA) for second in range(0x80, 0xC0)]
    pairs += [b"\xe2\x80", b"\xe3\x80", b"\xe3\x81", b"\xe3\x82", b"\xe3\x83", b"\xef\xbc", b"\xef\xbd", b"\xef\xbf"]
    return "".join(pair.decode("gbk", "ignore") for pair in pairs)


class Counts(NamedTuple):
    """Characters of a text, by what a filter asks for."""

    chars: int
    han: int
    space: int
    damaged: int  # private-use characters, replacement marks and what cannot be repaired, before cleaning


def codes_of(text: str) -> np.ndarray:
    """The code points of `text` [chars] uint32."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


_PLAIN_CLASSES = bytes(range(SPACE + 1))
_SHORT = 2000


class Scan:
    """A text as the table sees it.

    Attributes:
        text: the text itself.
        codes, kinds: code points [chars] uint32 and their classes [chars] uint8.
        classes: `kinds` as bytes, to be searched.
        highest: the highest class, or SPACE where it is lower.
    """

    __slots__ = ("classes", "codes", "highest", "kinds", "text")

    def __init__(self, text: str, table: np.ndarray) -> None:
        self.text = text
        self.codes = codes_of(text)
        self.kinds = table.take(self.codes)
        self.classes = self.kinds.tobytes()
        if len(text) < _SHORT:  # where a call of numpy costs more than the work
            odd = self.classes.translate(None, _PLAIN_CLASSES)
            self.highest = max(odd) if odd else SPACE
        else:
            self.highest = int(self.kinds.max())

    def holds(self, kind: int) -> bool:
        """Whether there is a character of a class."""
        return kind in self.classes

    def tally(self) -> np.ndarray:
        """Characters by class [CLASSES]."""
        return np.bincount(self.kinds, minlength=CLASSES)

    def counts(self) -> Counts:
        """What a filter asks for."""
        han, space, damaged = self.count(HAN, HAN_PIVOT), self.count(LINE, SPACE), 0
        if self.highest > SPACE:
            han += self.count(GARBLED, RADICAL)
            space += self.count(NEWLINE, ODD_SPACE, IDEOGRAPHIC)
            damaged = self.count(PRIVATE, REPLACED)
        return Counts(len(self.kinds), han, space, damaged)

    def count(self, *kinds: int) -> int:
        """Characters of some classes."""
        if len(self.classes) < _SHORT:
            return len(self.classes) - len(self.classes.translate(None, bytes(kinds)))
        return sum([int(np.count_nonzero(self.kinds == kind)) for kind in kinds if kind in self.classes])


def difference(before: str, after: str) -> int:
    """How many characters of `before` are not in `after` any more."""
    return (Counter(before) - Counter(after)).total()


def by_character(scan: Scan, become: np.ndarray, changed: Counter[str]) -> str:
    """Apply the table `become` and the rules that need the neighbours."""
    text, codes, tally = scan.text, scan.codes, scan.tally()
    for rule, kind in _BY_CHARACTER.items():
        if tally[kind]:
            changed[rule] += int(tally[kind])
    stale = False
    if tally[NEWLINE] and "\r\n" in text:
        text, stale = text.replace("\r\n", "\n"), True
    if tally[LIGATURE]:
        changed["ligatures"] += int(tally[LIGATURE])
        for one, letters in _LIGATURES.items():
            text = text.replace(one, letters)
        stale = True
    if tally[KANA]:
        changed["kana"] += int(tally[KANA])
        text, stale = _HALF_KANA.sub(lambda run: unicodedata.normalize("NFKC", run.group()), text), True
    codes = become.take(codes_of(text) if stale else codes)
    text = codes[codes != _GONE].astype("<u4").tobytes().decode("utf-32-le")
    # Only now do the neighbours of the others stand beside them.
    if tally[JOINER]:
        length = len(text)
        text = _IDLE_JOINER.sub("", text)
        if len(text) != length:
            changed["invisible"] += length - len(text)
    if tally[SELECTOR]:
        length = len(text)
        text = _without_selectors(text)
        if len(text) != length:
            changed["selectors"] += length - len(text)
    if "\u3000" in text:
        changed["spaces"] += text.count("\u3000")
        text = _IDEOGRAPHIC_RUN.sub(" ", "\n".join(map(_unindent, text.split("\n"))))
    return text


_HALF_KANA = re.compile("[\uff65-\uff9f]+")
# Patterns that begin with a literal are searched for ten times as fast as those that begin with a repetition.
_IDEOGRAPHIC_RUN = re.compile("\u3000\u3000*")
#: A joiner at the text's edge, or beside white space, ASCII or Han, where there is nothing that it could join.
_PLAIN = r"[\x00-\x7f\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]"
_IDLE_JOINER = re.compile(rf"(?:(?<={_PLAIN})|\A)[\u200c\u200d]++|[\u200c\u200d]++(?={_PLAIN}|\Z)")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
#: Behind these a variation selector picks a glyph and no more; emoji and symbols keep theirs.
_NOT_SELECTED = re.compile(rf"[\s{HAN_CLASS}\u3000-\u303f\uff00-\uffef]")


def _without_selectors(text: str) -> str:
    def keep(run: re.Match[str]) -> str:
        place = run.start()
        if place == 0 or _NOT_SELECTED.match(text, place - 1):
            return ""
        return _IDEOGRAPHIC_SELECTORS.sub("", run.group())

    return _SELECTORS.sub(keep, text)


_IDEOGRAPHIC_SELECTORS = re.compile("[\U000e0100-\U000e01ef]+")


def _unindent(line: str) -> str:
    """The line without an indentation that holds an ideographic space."""
    begun = line.lstrip(" \t")
    return begun.lstrip(" \t\u3000") if begun.startswith("\u3000") else line
