"""Where a document holds code: rules that change what people wrote must not change what machines read."""

from __future__ import annotations

import re
from bisect import bisect_right

_FENCE = re.compile(r"[ \t>]*(`{3,}|~{3,})")
_FRONT = re.compile(r"\A---[ \t]*\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_HAN = re.compile("[\u4e00-\u9fff]")
#: Signs that prose hardly has and code can hardly do without.
_SIGNS = re.compile(r"[{}=;<>\\$()\[\]]|::|\"\s*:")


class Code:
    """The fenced blocks and the front matter of a text (CommonMark), found when it is first asked."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts: list[int] | None = None
        self._ends: list[int] = []

    def holds(self, place: int) -> bool:
        """Whether the character at `place` is inside of a block."""
        if self.empty:
            return False
        assert self._starts is not None
        index = bisect_right(self._starts, place) - 1
        return index >= 0 and place < self._ends[index]

    @property
    def empty(self) -> bool:
        """Whether there is no block at all."""
        if self._starts is None:
            self._starts = []
            self._find()
        return not self._starts

    def _find(self) -> None:
        text, starts = self._text, self._starts
        assert starts is not None
        if text.startswith("---") and (front := _FRONT.match(text)):
            starts.append(0)
            self._ends.append(front.end())
        opened = ""
        for place in sorted([*_places(text, "```"), *_places(text, "~~~")]):
            start = text.rfind("\n", 0, place) + 1
            fence = _FENCE.match(text, start)
            if fence is None or fence.start(1) != place:
                continue
            mark = fence.group(1)
            if not opened:
                opened = mark
                starts.append(max(start, self._ends[-1] if self._ends else 0))
            elif mark[0] == opened[0] and len(mark) >= len(opened):
                opened = ""
                self._ends.append(fence.end())
        if opened:
            self._ends.append(len(text))


def _places(text: str, mark: str) -> list[int]:
    """Where runs of the mark begin."""
    places, at = [], text.find(mark)
    while at >= 0:
        places.append(at)
        at += len(mark)
        while text.startswith(mark[0], at):
            at += 1
        at = text.find(mark, at)
    return places


def looks_like_code(line: str) -> bool:
    """Whether a line outside of any block is code or a table's row, as far as one line tells."""
    if line.startswith(("    ", "\t")) and len(_HAN.findall(line)) * 3 < len(line.strip()):
        return True
    begun = line.lstrip()
    if begun.startswith(("|", "+-", "+=", "//", "/*", "<!--", ">>>", "$ ")) or "\t" in begun:
        return True
    return _HAN.search(line) is None and _SIGNS.search(line) is not None
