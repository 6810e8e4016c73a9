"""Before and after: a bounded, even sample of what each rule changed, as excerpts for people to judge.

In stats.json every source has `changes`, a list of::

    {"rule": "navigation", "where": "news/a.html:12", "before": "…", "after": "…"}

`where` is the file and line of the document, as in a document's `meta.at`; `before` and `after` are the surroundings
of the rule's first change in that document, begun and ended at the same places: a diff of the two shows the change.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any

import xxhash

#: Samples of one rule and source.
SAMPLES = 5
_BEFORE = 40
_WINDOW = 200
_BEHIND = 40


class Changes:
    """Keeps, of all documents that a rule changed, those whose places have the smallest hashes.

    So the sample is even, and the same however the documents are divided among workers.
    """

    def __init__(self, size: int = SAMPLES) -> None:
        self.size = size
        self._kept: dict[str, list[tuple[int, str, str, str]]] = {}
        self._where = ""
        self._rank: int | None = None

    def begin(self, where: str) -> None:
        """Name the document that is cleaned next."""
        self._where, self._rank = where, None

    def wants(self, rule: str) -> bool:
        """Whether this document is a sample of the rule, if the rule changes it."""
        if self._rank is None:
            self._rank = _rank(self._where)
        kept = self._kept.get(rule, [])
        return len(kept) < self.size or self._rank < kept[-1][0]

    def add(self, rule: str, before: str, after: str) -> None:
        """Keep what became of an excerpt; only the first of a rule and document."""
        self._insert(rule, (_rank(self._where), self._where, before, after))

    def compare(self, rule: str, before: str, after: str) -> None:
        """Keep the surroundings of the first difference, if they are wanted."""
        if self.wants(rule):
            self.add(rule, *excerpts(before, after))

    def _insert(self, rule: str, item: tuple[int, str, str, str]) -> None:
        kept = self._kept.setdefault(rule, [])
        if all(item[:2] != other[:2] for other in kept):
            kept.append(item)
            kept.sort()
            del kept[self.size :]

    def merge(self, items: list[dict[str, str]]) -> None:
        """Add what another sample gave by `as_list`."""
        for item in items:
            self._insert(item["rule"], (_rank(item["where"]), item["where"], item["before"], item["after"]))

    def as_list(self) -> list[dict[str, Any]]:
        """The samples by rule."""
        return [
            {"rule": rule, "where": where, "before": before, "after": after}
            for rule, kept in sorted(self._kept.items())
            for _, where, before, after in kept
        ]


def _rank(where: str) -> int:
    return xxhash.xxh3_64_intdigest(where.encode())


def excerpts(before: str, after: str) -> tuple[str, str]:
    """The surroundings of the first place where two texts differ, in both, ended at the same place."""
    first = _same(before, after)
    start = max(first - _BEFORE, 0)
    old, new = before[start : first + _WINDOW], after[start : first + _WINDOW]
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    behind = [block for block in blocks if block.a + block.size > first - start and block.size >= 8]
    if behind:
        # Behind the first change only; the next one may have the rest of the window.
        block = next((block for block in behind if block.a >= first - start), behind[-1])
        size = min(block.size, _BEHIND)
        old, new = old[: block.a + size], new[: block.b + size]
    return old, new


def _same(before: str, after: str) -> int:
    """The length of the common beginning."""
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        if before[low:middle] == after[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
