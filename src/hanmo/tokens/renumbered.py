"""Shards of several tokens folders read as one: their sources are numbered on from folder to folder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hanmo.tokens.shards import Shard


class Renumbered(Shard):
    """A shard whose sources have other numbers: of several tokens folders one after the other, the first is `first`."""

    def __init__(self, shard: Shard, first: int) -> None:
        super().__init__(shard.path, shard.dtype, {"tokens": len(shard), "documents": shard.documents}, shard._fetch)
        self._own, self._first = shard, first

    @property
    def source(self) -> NDArray[np.uint16]:  # type: ignore[override]
        """Index into the sources of all folders [documents]."""
        return self._own.source + np.uint16(self._first)

    @property
    def has_pinyin(self) -> bool:
        """Whether there are pinyin ids beside the tokens."""
        return self._own.has_pinyin

    @property
    def amounts(self) -> dict[int, tuple[int, int]]:  # type: ignore[override]
        """Index of each source that it has documents of -> (documents, tokens)."""
        return {index + self._first: amount for index, amount in self._own.amounts.items()}

    def forget(self) -> None:
        """Let go of what is mapped; it is mapped again when it is needed."""
        super().forget()
        self._own.forget()
