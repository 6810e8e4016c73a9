"""How a model reads its documents: from left to right or from right to left, with pinyin or without.

A backward model reads `[c b a eos]` where the text is `[a b c eos]`: tokens in reverse order, the end of the document
where it was. That is a function of the place alone, so that nothing is written anew and rows are as exact as others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.models.presets import preset
from hanmo.tokens.shards import Shard, Split, Tokens


@dataclass(frozen=True)
class Reading:
    """What a model wants of its data.

    Attributes:
        backward: documents from their end.
        pinyin: pinyin ids beside the tokens.
    """

    backward: bool = False
    pinyin: bool = False

    @classmethod
    def of(cls, name: str, given: Path | None) -> Reading:
        """That of the model in the folder `given`, or else of a preset.

        Raises:
            HanmoError: it wants both.
        """
        file = given / "config.json" if given else None
        keys = read_json(file) if file and file.is_file() else {} if given else preset(name).own
        found = cls(bool(keys.get("backward")), bool(keys.get("use_pinyin")))
        if found.backward and found.pinyin:
            raise HanmoError(
                f"{given or name}: backward and use_pinyin: readings follow from the text before a token, which a "
                "backward model does not have; train one of the two"
            )
        return found

    def turned(self, split: Split) -> Split:
        """The split as the model reads it."""
        return Split([ReversedShard(shard) for shard in split.shards], split.sources) if self.backward else split

    def readings(self, split: Split, where: str) -> Tokens | None:
        """The pinyin ids of a split's tokens; None where the model wants none.

        Raises:
            HanmoError: the tokens have none.
        """
        if not self.pinyin:
            return None
        if split.pinyin is None:
            raise HanmoError(
                f"{where}: the model has pinyin and these tokens have none; encode the corpus with a tokenizer that "
                "has pinyin.txt (`hanmo tokenizer --kind pinyin`)"
            )
        return split.pinyin


#: How most models read.
FORWARD = Reading()


class _Reversed:
    """The tokens of a shard, each document but for its end in reverse order (a `Part`)."""

    def __init__(self, shard: Shard) -> None:
        self._shard, self.dtype = shard, shard.dtype

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, slice):
            index = range(len(self))[place]
            return self[index : index + 1][0]
        start, stop, _ = place.indices(len(self))
        if stop <= start:
            return np.zeros(0, self.dtype)
        ends = self._shard.ends
        at = np.arange(start, stop)
        document = np.searchsorted(ends, at.astype(np.uint64), side="right")
        end = ends[document].astype(np.int64)
        begin = np.where(document > 0, ends[np.maximum(document, 1) - 1], 0).astype(np.int64)
        # The mirror of a place lies between the document's first token and the one before its end.
        return self._shard.tokens[np.where(at == end - 1, at, begin + end - 2 - at)]


class ReversedShard(Shard):
    """A shard whose documents are read from their last token to their first; their ends stay where they are."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard.path, shard.dtype, {"tokens": len(shard), "documents": shard.documents}, shard._fetch)
        self._own, self._reversed = shard, _Reversed(shard)

    @property
    def tokens(self) -> Any:  # type: ignore[override]
        """All ids [tokens], by slices."""
        return self._reversed

    @property
    def ends(self) -> NDArray[np.uint64]:  # type: ignore[override]
        """Exclusive ends of the documents [documents]."""
        return self._own.ends

    @property
    def source(self) -> NDArray[np.uint16]:  # type: ignore[override]
        """Index into the sources [documents]."""
        return self._own.source

    @property
    def has_pinyin(self) -> bool:
        """None that would belong to this order."""
        return False

    @property
    def amounts(self) -> dict[int, tuple[int, int]]:  # type: ignore[override]
        """Index of each source that it has documents of -> (documents, tokens)."""
        return self._own.amounts
