"""Spaces between Han, repeated punctuation, half-width punctuation, hard line breaks, and character entities."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from html.entities import html5
from unicodedata import east_asian_width

import numpy as np

from hanmo.corpus.cleaning.characters import (
    CLASSES,
    CLOSER,
    DASH,
    DIVIDER,
    GARBLED,
    HAN,
    HAN_CLASS,
    HAN_PIVOT,
    MARKS,
    OPENER,
    SPACE,
    Scan,
)
from hanmo.corpus.cleaning.code import Code, looks_like_code

_HAN = f"[{HAN_CLASS}]"

# Character entities -------------------------------------------------------------------------------------------------

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_ONLY_ENTITIES = re.compile(rf"(?:{_ENTITY.pattern}|\s)*")
_SPAN = re.compile(r"(`+)(?:(?!\1).)+?\1")


def entities(text: str, code: Code) -> str:
    """Character entities (&nbsp; &ldquo; &#x4f60;) as what they stand for, outside of code, until none is left.

    Those of a Markdown or HTML page stand for a character; those in code blocks, `code spans` and lines that look like
    code are meant as they are.
    """
    pieces, at = [], 0
    hit = _ENTITY.search(text)
    while hit is not None:
        start = text.rfind("\n", 0, hit.start()) + 1
        end = text.find("\n", hit.start())
        end = len(text) if end < 0 else end
        line = text[start:end]
        if not code.holds(start) and (_ONLY_ENTITIES.fullmatch(line) or not looks_like_code(_ENTITY.sub("", line))):
            pieces += [text[at:start], _unescape(line)]
            at = end
        hit = _ENTITY.search(text, end)
    return "".join([*pieces, text[at:]])


def _unescape(line: str) -> str:
    if "`" in line:
        pieces, at = [], 0
        for span in _SPAN.finditer(line):
            pieces += [_unescape_all(line[at : span.start()]), span.group()]
            at = span.end()
        return "".join([*pieces, _unescape_all(line[at:])])
    return _unescape_all(line)


def _unescape_all(text: str) -> str:
    while True:
        better = _ENTITY.sub(lambda entity: _character(entity.group()), text)
        if better == text:
            return text
        text = better


def _character(entity: str) -> str:
    if entity[1] != "#":
        return html5.get(entity[1:], entity)
    char = html.unescape(entity)
    return char if char and char != "\ufffd" and (char.isprintable() or char.isspace()) else entity


# Punctuation --------------------------------------------------------------------------------------------------------

_REPEATED = re.compile(r"([！？。，；、…—])\1+")
_DIVIDERS = bytes((DIVIDER, DIVIDER))
_DASHES = bytes((DASH, DASH, DASH))
_SHORT = 600
_BEARERS = re.compile(rf"[A-Za-z0-9{HAN_CLASS}]")


def repeated(scan: Scan) -> bool:
    """Whether there may be such runs."""
    if _DASHES in scan.classes:
        return True
    if _DIVIDERS not in scan.classes:
        return False
    if len(scan.text) < _SHORT:
        return _REPEATED.search(scan.text) is not None
    return bool(((scan.codes[1:] == scan.codes[:-1]) & (scan.kinds[1:] == DIVIDER)).any())


def repeats(text: str, code: Code) -> str:
    """Runs of one punctuation mark as people write it: ！！！！ becomes ！, 。。。 becomes ……, —————— becomes ——.

    Doubled ！！ and ？？ are a style and stay; so do runs in code and in lines that hold nothing else (rulers).
    """
    return _in_prose(text, ((*run.span(), _once(run)) for run in _REPEATED.finditer(text)), code)


def _once(run: re.Match[str]) -> str:
    mark, length = run.group(1), len(run.group())
    match mark:
        case "…" | "—":
            return mark * 2
        case "！" | "？":
            return run.group() if length == 2 else mark
        case "。":
            return "。" if length == 2 else "……"
    return mark


_HALF = re.compile(rf"[,;:?!](?<={_HAN}.)(?:(?={_HAN})|(?<!:)(?=[”’」』）》]?(?:\n|\Z)))")
_FULL = str.maketrans(",;:?!", "，；：？！")


def punctuation(text: str, code: Code) -> str:
    """Half-width , ; : ? ! between Han, or between Han and the line's end, as full width.

    Lines that look like code or rows of values (several commas and no full-width mark) stay.
    """
    marks = ((*mark.span(), mark.group().translate(_FULL)) for mark in _HALF.finditer(text))
    return _in_prose(text, marks, code, lambda line: line.count(",") < 3 or _FULL_MARK.search(line) is not None)


_FULL_MARK = re.compile("[，。；：？！]")


def _in_prose(
    text: str,
    edits: Iterable[tuple[int, int, str]],
    code: Code,
    takes: Callable[[str], bool] = lambda line: True,
) -> str:
    """Apply (start, end, what stands there then), in order, in lines that are prose and outside of `code spans`."""
    pieces, at, until, prose = [], 0, -1, False
    spans: list[tuple[int, int]] = []
    for start, end, new in edits:
        if start >= until:
            begun = text.rfind("\n", 0, start) + 1
            until = text.find("\n", start)
            until = len(text) if until < 0 else until
            line = text[begun:until]
            prose = (
                _BEARERS.search(line) is not None
                and not code.holds(begun)
                and not looks_like_code(line)
                and takes(line)
            )
            spans = [span.span() for span in _SPAN.finditer(text, begun, until)] if prose and "`" in line else []
        if prose and not any(first < end and start < last for first, last in spans):
            pieces += [text[at:start], new]
            at = end
    return "".join([*pieces, text[at:]]) if pieces else text


# Spaces -------------------------------------------------------------------------------------------------------------

_ALL_MARKS = "".join(MARKS[kind] for kind in (DIVIDER, OPENER, CLOSER))
#: 你 好 世 界: single characters, each with one space behind it.
_SPREAD = re.compile(rf"(?<![^\s{_ALL_MARKS}]){_HAN}(?: {_HAN}){{3,}}(?![^\s{_ALL_MARKS}])")
#: A text cut into words: one of these stands alone between spaces.
_LONE = re.compile(r" [的了是在和不也就有我他她这那说](?= )")
_BETWEEN = re.compile(rf" (?<={_HAN} )(?={_HAN})")
_HAN_KINDS = bytes((HAN, HAN_PIVOT, GARBLED))
_ONE_HAN = bytes.maketrans(_HAN_KINDS, bytes((HAN,)) * 3)
_BESIDE = tuple(bytes(pair) for pair in ((DIVIDER, SPACE), (OPENER, SPACE), (SPACE, DIVIDER), (SPACE, CLOSER)))
_LONELY = bytes((HAN, SPACE, HAN, SPACE, HAN))
#: By class, what may stand before and behind a space that goes: 1 Han or a mark, 3 a mark that divides them already.
_BEFORE, _BEHIND = np.zeros(CLASSES, np.uint8), np.zeros(CLASSES, np.uint8)
for _kind in (*_HAN_KINDS, DIVIDER, OPENER, CLOSER):
    _BEFORE[_kind] = 3 if _kind in (DIVIDER, OPENER) else 1
    _BEHIND[_kind] = 3 if _kind in (DIVIDER, CLOSER) else 1


def han_spaces(scan: Scan) -> str:
    """Spaces that divide nothing go: beside full-width punctuation, in 你 好 世 界, and in texts cut into words.

    A space that stands for a mark stays: 第一条 总则, 北京 上海, two halves of a verse; also before an opening bracket
    and behind a closing one (第七条 《报告书》应当…).
    """
    text = scan.text
    if not scan.holds(SPACE):
        return text
    code = Code(text)
    gone: list[tuple[int, int]] = []
    if any(pair in scan.classes for pair in _BESIDE):
        gone = _beside_marks(scan)
        if gone and not code.empty:
            gone = [span for span in gone if not code.holds(span[0])]
    classes = scan.classes.translate(_ONE_HAN)
    place = classes.find(_LONELY)
    while place >= 0:
        start = text.rfind("\n", 0, place) + 1
        end = text.find("\n", place)
        end = len(text) if end < 0 else end
        if not code.holds(start) and not looks_like_code(text[start:end]) and "`" not in text[start:end]:
            gone += _spread(text, start, end)
        place = classes.find(_LONELY, end)
    if not gone:
        return text
    gone = sorted(set(gone))
    ends = [0, *(end for _, end in gone)]
    starts = [*(start for start, _ in gone), len(text)]
    return "".join([text[start:end] for start, end in zip(ends, starts, strict=True)])


def _beside_marks(scan: Scan) -> list[tuple[int, int]]:
    """The runs of spaces between Han and a mark that divides them already."""
    spaces = np.flatnonzero(scan.codes == 0x20)
    begins = np.ones(len(spaces), bool)
    begins[1:] = spaces[1:] - spaces[:-1] != 1
    first = np.flatnonzero(begins)  # of each run, among the spaces
    starts = spaces[first]
    sizes = np.append(first[1:], len(spaces)) - first
    left = scan.kinds.take(starts - 1, mode="wrap")
    right = scan.kinds.take(starts + sizes, mode="wrap")
    before, behind = _BEFORE.take(left), _BEHIND.take(right)
    blank = (left == OPENER) & (right == CLOSER)  # （  ）, to be filled in
    goes = (before > 0) & (behind > 0) & (before + behind > 2) & (starts > 0) & ~blank
    return list(zip(starts[goes].tolist(), (starts + sizes)[goes].tolist(), strict=True))


def _spread(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The spaces that go in a line that is cut into words or characters."""
    line = text[start:end]
    gaps = line.count(" ")
    between = [hit.start() for hit in _BETWEEN.finditer(line)]
    words = gaps >= 5 and len(_LONE.findall(line)) >= 2 and len(between) * 5 >= gaps * 4 and len(line) <= 4 * (gaps + 1)
    runs = [run.span() for run in _SPREAD.finditer(line)]
    taken = [place + start for place in between if words or any(first <= place < last for first, last in runs)]
    return [(place, place + 1) for place in taken]


# Hard line breaks ---------------------------------------------------------------------------------------------------

#: A text is wrapped when so large a share of its lines is as wide as any, and none is wider than this margin allows.
_FULL_SHARE = 0.3
_MARGIN = 6
_NARROWEST = 50
_FEWEST = 6
_BEGINS = re.compile(
    r"\s|[#>|*+\-=<`\\]|\d+[.、)）]|[（(【]?[一二三四五六七八九十百\d]+[)）】、.]|第[一二三四五六七八九十百千零〇\d]+[章节回卷篇条部集]|[●■◆◎○※□·•①-⑳]"
)
_ENDS = "。！？…”’」』；：—）】!?;:.\"'"


def rejoin(text: str) -> str:
    """Paragraphs that were wrapped to a fixed width, in one line again.

    A text is taken for wrapped when many of its lines are nearly as wide as the widest and most of these break off
    inside of a sentence, which verse, code and lists do not do. Then a full line is joined with the next, unless that
    one begins with an indentation, a heading or a list mark.
    """
    lines = text.split("\n")
    widths = [_width(line.rstrip()) for line in lines]
    told = sorted(width for width in widths if width)
    if len(told) < _FEWEST:
        return text
    widest = told[-1 - len(told) // 50]
    full = [line.rstrip() for line, width in zip(lines, widths, strict=True) if width >= widest - _MARGIN]
    broken = sum(line[-1] not in _ENDS for line in full)
    if widest < _NARROWEST or len(full) < max(_FULL_SHARE * len(told), _FEWEST) or broken < 0.5 * len(full):
        return text
    joined = [lines[0]]
    for index in range(1, len(lines)):
        line, last = lines[index], joined[-1].rstrip()
        if widths[index - 1] >= widest - _MARGIN and line.strip() and not _BEGINS.match(line):
            between = " " if last[-1].isascii() and line[0].isascii() and last[-1] != "-" else ""
            joined[-1] = last + between + line
        else:
            joined.append(line)
    return "\n".join(joined)


def _width(line: str) -> int:
    """Columns of a terminal that the line takes."""
    if line.isascii():
        return len(line)
    return sum(2 if east_asian_width(char) in "WFA" else 1 for char in line)
