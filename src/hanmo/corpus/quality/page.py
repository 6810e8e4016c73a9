"""A document as the rules see it: what its characters add up to, its lines, its symbols; each worked out once."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from hanmo.corpus.quality import repetition
from hanmo.corpus.quality.characters import COLUMN, classes_of, codes_of, sums, table


class Page:
    """One text.

    Args:
        text: the clean text.
        codes: its code points [chars] uint32, where the caller has them.
    """

    def __init__(self, text: str, codes: np.ndarray | None = None) -> None:
        self.text = text
        self.codes = codes_of(text) if codes is None else codes
        self.classes = classes_of(self.codes)
        self.sums = sums(self.classes)

    def count(self, name: str) -> float:
        """How many characters count in a column of `characters.NAMES`."""
        return self.sums[name]

    @cached_property
    def solid(self) -> int:
        """Characters that are not white space."""
        return len(self.codes) - int(self.count("space"))

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not empty."""
        return [line for line in self.text.split("\n") if line]

    @cached_property
    def _edges(self) -> np.ndarray:
        """The places of the newlines, and those before and behind the text where there would be more."""
        ends = np.flatnonzero(self.classes == table().newline)
        edges = np.empty(len(ends) + 2, np.int64)
        edges[0], edges[1:-1], edges[-1] = -1, ends, len(self.codes)
        return edges

    @cached_property
    def lengths(self) -> np.ndarray:
        """Characters of every line that is not empty, [lines] int64."""
        lengths = np.diff(self._edges) - 1
        return lengths[lengths > 0]

    def lines_at(self, edge: int, name: str) -> float:
        """Share of the lines whose first (edge 0) or last (1) character counts in a column."""
        edges = self._edges
        full = np.diff(edges) > 1
        places = edges[1:][full] - 1 if edge else edges[:-1][full] + 1
        marked = table().matrix[:, COLUMN[name]].take(self.classes.take(places))
        return np.count_nonzero(marked) / len(marked)

    @cached_property
    def symbols(self) -> list[np.ndarray]:
        """The letters, digits and Han alone, in blocks for counting repetitions."""
        return repetition.blocks(self.codes[table().letters.take(self.classes)])

    @cached_property
    def repeated_lines(self) -> float:
        """Share of the characters that stand in lines which occurred before."""
        whole = len(self.codes) - int(self.count("newline"))
        return 1 - sum(map(len, set(self.lines))) / whole if whole else 0.0
