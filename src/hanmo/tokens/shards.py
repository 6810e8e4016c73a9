"""Token shards on disk, in datatrove's format, with what an exact measure needs beside each document.

A split is a folder with, for every shard:

    NNNNN.ds            all token ids, little-endian uint16 (vocabulary up to 65,536) or uint32, documents end with eos
    NNNNN.ds.index      the exclusive end of every document, in tokens of this shard, little-endian uint64
    NNNNN.bytes.npy     uint32 [documents]: bytes of the document's text in UTF-8 (eos has none)
    NNNNN.source.npy    uint16 [documents]: index into `sources` of tokens.json
    NNNNN.ds.metadata   "tokenizer|bytes per token", number of tokens, the same for people; written last

The first, second and last are what `datatrove.pipeline.tokens.TokenizedFile` writes and `DatatroveFolderDataset` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hanmo.console import human_count
from hanmo.errors import HanmoError
from hanmo.files import atomic_write, read_json


def dtype_for(vocab_size: int) -> np.dtype:
    """The narrowest of uint16 and uint32 (little-endian) that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class ShardWriter:
    """Writes one shard; its files appear when the block ends well, the metadata last.

    Args:
        folder, number: of the split and the shard.
        vocab_size: decides the width of ids.
        tokenizer: a name or fingerprint for the metadata.
    """

    def __init__(self, folder: Path, number: int, vocab_size: int, tokenizer: str) -> None:
        self._path = folder / f"{number:05d}.ds"
        self._dtype = dtype_for(vocab_size)
        self._tokenizer = tokenizer
        self._context = atomic_write(self._path, "wb")
        self._total = 0
        self._ends: list[NDArray[np.uint64]] = []
        self._bytes: list[NDArray[np.uint32]] = []
        self._source: list[NDArray[np.uint16]] = []

    def __enter__(self) -> ShardWriter:
        self._file = self._context.__enter__()
        return self

    def write(
        self,
        ids: NDArray[np.integer],
        ends: NDArray[np.integer],
        text_bytes: Sequence[int] | NDArray[np.integer],
        source: Sequence[int] | NDArray[np.integer],
    ) -> None:
        """Append documents.

        Args:
            ids: [tokens] all their ids, eos included.
            ends: [documents] the exclusive end of each in `ids`.
            text_bytes, source: [documents].
        """
        self._file.write(np.ascontiguousarray(ids, self._dtype).data)
        self._ends.append(np.asarray(ends, np.uint64) + np.uint64(self._total))
        self._bytes.append(np.asarray(text_bytes, np.uint32))
        self._source.append(np.asarray(source, np.uint16))
        self._total += len(ids)

    def __exit__(self, *error) -> None:
        self._context.__exit__(*error)
        if error[0] is not None:
            return
        with atomic_write(_beside(self._path, ".ds.index"), "wb") as file:
            file.write(_joined(self._ends, "<u8").tobytes())
        for suffix, parts, dtype in ((".bytes.npy", self._bytes, "<u4"), (".source.npy", self._source, "<u2")):
            with atomic_write(_beside(self._path, suffix), "wb") as file:
                np.save(file, _joined(parts, dtype))
        with atomic_write(_beside(self._path, ".ds.metadata")) as file:
            file.write(f"{self._tokenizer}|{self._dtype.itemsize}\n{self._total}\n{human_count(self._total)}T")


def _joined(parts: Sequence[NDArray], dtype: str) -> NDArray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.stem + suffix)


class Tokens:
    """The tokens of several memory-mapped shards as one sequence; indexed by slices (without a step) and by
    integers.
    """

    def __init__(self, parts: Sequence[NDArray]) -> None:
        self._parts = list(parts)
        self._bounds = np.cumsum([0, *map(len, self._parts)])
        self.dtype = self._parts[0].dtype if self._parts else np.dtype("<u2")

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, place: slice | int) -> NDArray | np.integer:
        """A slice as an array (a view where it lies in one shard), or one id."""
        if not isinstance(place, slice):
            index = range(len(self))[place]
            part = int(np.searchsorted(self._bounds, index, side="right")) - 1
            return self._parts[part][index - self._bounds[part]]
        start, stop, step = place.indices(len(self))
        if step != 1:
            raise ValueError("slices of tokens have no step")
        part = int(np.searchsorted(self._bounds, start, side="right")) - 1
        found = []
        while start < stop:
            end = min(stop, int(self._bounds[part + 1]))
            base = self._bounds[part]
            if end > start:
                found.append(self._parts[part][start - base : end - base])
            start, part = end, part + 1
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.zeros(0, self.dtype)


class Split:
    """One split of a tokens folder; tokens stay on disk, what there is per document is in memory (14 bytes each).

    Attributes:
        tokens: all ids, by slices.
        doc_ends: int64 [documents], exclusive ends in `tokens`.
        doc_bytes: uint32 [documents], bytes of text.
        doc_source: uint16 [documents], index into `sources`.
        sources: names.
    """

    def __init__(self, folder: Path, sources: Sequence[str], dtype: np.dtype) -> None:
        shards = sorted(folder.glob("[0-9]*.ds"))
        parts = [_mapped(path, dtype) for path in shards]
        ends = [np.fromfile(_beside(path, ".ds.index"), "<u8").astype(np.int64) for path in shards]
        for path, part, end in zip(shards, parts, ends, strict=True):
            if (int(end[-1]) if len(end) else 0) != len(part):
                raise HanmoError(f"{path}: its index does not end where its tokens do; run the tokens stage again")
        bases = np.cumsum([0, *map(len, parts)])
        self.tokens = Tokens(parts)
        self.doc_ends: NDArray[np.int64] = _joined([e + b for e, b in zip(ends, bases, strict=False)], "<i8")
        self.doc_bytes: NDArray[np.uint32] = _joined([np.load(_beside(p, ".bytes.npy")) for p in shards], "<u4")
        self.doc_source: NDArray[np.uint16] = _joined([np.load(_beside(p, ".source.npy")) for p in shards], "<u2")
        self.sources = list(sources)

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.doc_ends)

    def document(self, index: int) -> NDArray:
        """The ids of one document, eos included."""
        index = range(len(self))[index]
        start = int(self.doc_ends[index - 1]) if index else 0
        found = self.tokens[start : int(self.doc_ends[index])]
        assert isinstance(found, np.ndarray)
        return found


def _mapped(path: Path, dtype: np.dtype) -> NDArray:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


def read_info(folder: Path | str) -> dict:
    """tokens.json of a tokens folder: vocab_size, dtype, eos_id, tokenizer (fingerprint), sources, train, heldout.

    Raises:
        HanmoError: the folder holds no finished tokens.
    """
    path = Path(folder) / "tokens.json"
    if not path.is_file():
        raise HanmoError(f"{folder}: no tokens.json there; give a folder made by `hanmo tokens`")
    return read_json(path)


def open_split(folder: Path | str, name: str) -> Split:
    """Open the split `name` ("train" or "heldout") of a tokens folder.

    Raises:
        HanmoError: no finished tokens there, or a shard and its index disagree.
    """
    info = read_info(folder)
    return Split(Path(folder) / name, info["sources"], np.dtype(info["dtype"]))
