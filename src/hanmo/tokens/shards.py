"""Token shards on disk, in datatrove's format, with what an exact measure needs beside each document.

A split is a folder with, for every shard:

    NNNNN.ds            all token ids, little-endian uint16 (vocabulary up to 65,536) or uint32, documents end with eos
    NNNNN.ds.index      the exclusive end of every document, in tokens of this shard, little-endian uint64
    NNNNN.bytes.npy     uint32 [documents]: bytes of the document's text in UTF-8 (eos has none)
    NNNNN.source.npy    uint16 [documents]: index into `sources` of tokens.json
    NNNNN.pinyin.npy    uint16 [tokens]: pinyin id of each token, where the tokenizer has pinyin
    NNNNN.json          tokens, documents and bytes by source; size and hash of the files above
    NNNNN.ds.metadata   "tokenizer|bytes per token", number of tokens, the same for people; written last

The first, second and last are what `datatrove.pipeline.tokens.TokenizedFile` writes and `DatatroveFolderDataset` reads.
What the .json say is also in tokens.json, so that whoever has that one file knows all shards.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from hanmo.console import human_count
from hanmo.errors import HanmoError
from hanmo.files import atomic_write, read_json, write_json

#: What a shard's order and rows are made of.
TRAINING = (".ds", ".ds.index", ".source.npy")
#: Where tokens have pinyin ids (`hanmo.tokenizer.forms.pinyin`): a stream beside the tokens, equally long.
PINYIN = ".pinyin.npy"


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
        self._hash = xxhash.xxh3_128()
        self._ends: list[NDArray[np.uint64]] = []
        self._bytes: list[NDArray[np.uint32]] = []
        self._source: list[NDArray[np.uint16]] = []
        self._pinyin: _Column | None = None

    def __enter__(self) -> ShardWriter:
        self._file = self._context.__enter__()
        return self

    def write(
        self,
        ids: NDArray[np.integer],
        ends: NDArray[np.integer],
        text_bytes: Sequence[int] | NDArray[np.integer],
        source: Sequence[int] | NDArray[np.integer],
        pinyin: NDArray[np.uint16] | None = None,
    ) -> None:
        """Append documents.

        Args:
            ids: [tokens] all their ids, eos included.
            ends: [documents] the exclusive end of each in `ids`.
            text_bytes, source: [documents].
            pinyin: [tokens] their pinyin ids, for all documents of a shard or for none.
        """
        if pinyin is not None:
            if self._pinyin is None:
                self._pinyin = _Column(beside(self._path, PINYIN))
            self._pinyin.write(pinyin)
        data = np.ascontiguousarray(ids, self._dtype).data
        self._file.write(data)
        self._hash.update(data)
        self._ends.append(np.asarray(ends, np.uint64) + np.uint64(self._total))
        self._bytes.append(np.asarray(text_bytes, np.uint32))
        self._source.append(np.asarray(source, np.uint16))
        self._total += len(ids)

    def __exit__(self, *error) -> None:
        self._context.__exit__(*error)
        if self._pinyin is not None:
            self._pinyin.close(*error)
        if error[0] is not None:
            return
        ends, sizes, source = _joined(self._ends, "<u8"), _joined(self._bytes, "<u4"), _joined(self._source, "<u2")
        files = {".ds": [self._total * self._dtype.itemsize, self._hash.hexdigest()]}
        for suffix, data in ((".ds.index", ends.tobytes()), (".bytes.npy", _npy(sizes)), (".source.npy", _npy(source))):
            with atomic_write(beside(self._path, suffix), "wb") as file:
                file.write(data)
            files[suffix] = [len(data), xxhash.xxh3_128_hexdigest(data)]
        if self._pinyin is not None:
            files[PINYIN] = self._pinyin.facts()
        amounts = [np.bincount(source, w).astype(np.int64).tolist() for w in (None, np.diff(ends, prepend=0), sizes)]
        by_source = {str(index): [n, *rest] for index, (n, *rest) in enumerate(zip(*amounts, strict=True)) if n}
        value = {"documents": len(ends), "tokens": self._total, "by_source": by_source, "files": files}
        write_json(beside(self._path, ".json"), value)
        with atomic_write(beside(self._path, ".ds.metadata")) as file:
            file.write(f"{self._tokenizer}|{self._dtype.itemsize}\n{self._total}\n{human_count(self._total)}T")


class _Column:
    """A .npy file of uint16 that is written piece by piece: its header, which holds the length, comes last."""

    _HEADER = 128

    def __init__(self, path: Path) -> None:
        self._path = path
        self._context = atomic_write(path, "wb")
        self._file = self._context.__enter__()
        self._file.write(bytes(self._HEADER))
        self._length = 0

    def write(self, values: NDArray[np.uint16]) -> None:
        self._file.write(np.ascontiguousarray(values, "<u2").data)
        self._length += len(values)

    def close(self, *error) -> None:
        if error[0] is None:
            about = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({self._length},), }}"
            self._file.seek(0)
            # Version 1.0 of the format: magic, version, length of the rest, and the rest padded with spaces.
            rest = about.ljust(self._HEADER - 11) + "\n"
            self._file.write(b"\x93NUMPY\x01\x00" + len(rest).to_bytes(2, "little") + rest.encode("ascii"))
        self._context.__exit__(*error)

    def facts(self) -> list[Any]:
        """[size, hash] of the file."""
        digest = xxhash.xxh3_128()
        with self._path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return [self._path.stat().st_size, digest.hexdigest()]


def _joined(parts: Sequence[NDArray], dtype: str) -> NDArray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


def _npy(values: NDArray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def beside(path: Path, suffix: str) -> Path:
    """The file with another suffix that belongs to a shard's .ds."""
    return path.with_name(path.stem + suffix)


class Part(Protocol):
    """A stretch of tokens: an array, or a `Shard` that maps one when it is asked."""

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, place: Any, /) -> Any: ...


class Tokens:
    """The tokens of several shards as one sequence; indexed by slices (without a step) and by integers."""

    def __init__(self, parts: Sequence[Part]) -> None:
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


class Shard:
    """One shard. Its files are mapped when they are first asked for, so that thousands of them cost nothing to open.

    Args:
        path: of the .ds.
        dtype: of its ids.
        facts: what its .json says, where that is known already.
        fetch: called before files are mapped; sees to it that they are there.
    """

    def __init__(
        self, path: Path, dtype: np.dtype, facts: dict[str, Any] | None = None, fetch: Callable[[], None] | None = None
    ) -> None:
        self.path, self.dtype, self._facts, self._fetch = path, dtype, facts, fetch
        if facts is None:
            self._size, self.documents = path.stat().st_size // dtype.itemsize, len(self.ends)
            if (int(self.ends[-1]) if self.documents else 0) != self._size:
                raise HanmoError(f"{path}: its index does not end where its tokens do; run the tokens stage again")
        else:
            self._size, self.documents = facts["tokens"], facts["documents"]

    def __len__(self) -> int:
        """Tokens."""
        return self._size

    def __getitem__(self, place: slice | int) -> Any:
        return self.tokens[place]

    @cached_property
    def tokens(self) -> NDArray:
        """All ids [tokens]."""
        return self._mapped(".ds", self.dtype)

    @cached_property
    def ends(self) -> NDArray[np.uint64]:
        """Exclusive ends of the documents [documents], in tokens of this shard."""
        return self._mapped(".ds.index", np.dtype("<u8"))

    @cached_property
    def source(self) -> NDArray[np.uint16]:
        """Index into the sources [documents]."""
        # The values are the end of the file, behind numpy's header.
        return self._mapped(".source.npy", np.dtype("<u2"), self.documents)

    @property
    def has_pinyin(self) -> bool:
        """Whether there are pinyin ids beside the tokens."""
        known = self._facts.get("files") if self._facts is not None else None
        return PINYIN in known if known is not None else beside(self.path, PINYIN).is_file()

    @cached_property
    def pinyin(self) -> NDArray[np.uint16]:
        """The pinyin ids of all tokens [tokens]."""
        found = self._mapped(PINYIN, np.dtype("<u2"), self._size)
        if beside(self.path, PINYIN).stat().st_size != _Column._HEADER + 2 * self._size:
            raise HanmoError(f"{self.path}: its pinyin and its tokens differ in length; run the tokens stage again")
        return found

    @cached_property
    def amounts(self) -> dict[int, tuple[int, int]]:
        """Index of each source that it has documents of -> (documents, tokens)."""
        if self._facts is not None:
            return {int(index): (value[0], value[1]) for index, value in self._facts["by_source"].items()}
        documents = np.bincount(self.source)
        tokens = np.bincount(self.source, np.diff(self.ends, prepend=np.uint64(0)))
        return {int(index): (int(documents[index]), int(tokens[index])) for index in np.flatnonzero(documents)}

    def forget(self) -> None:
        """Let go of what is mapped; it is fetched and mapped again when it is needed."""
        for name in ("tokens", "ends", "source", "pinyin"):
            self.__dict__.pop(name, None)

    def _mapped(self, suffix: str, dtype: np.dtype, last: int | None = None) -> NDArray:
        if self._fetch:
            self._fetch()
        path = beside(self.path, suffix)
        if path.stat().st_size == 0:  # an empty file cannot be mapped
            return np.zeros(0, dtype)
        # numpy's own maps keep their files open, and a corpus has more shards than a process may have files.
        with pa.memory_map(str(path)) as file:
            data = file.read_buffer()
        return np.frombuffer(data, dtype, offset=0 if last is None else len(data) - last * dtype.itemsize)


class _Readings:
    """The pinyin ids of a shard as a `Part`, mapped when they are asked for."""

    dtype = np.dtype("<u2")

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, place: Any) -> Any:
        return self._shard.pinyin[place]


class Split:
    """One split of a tokens folder. Tokens and ends of documents stay on disk until they are asked for.

    Attributes:
        shards: in their order.
        tokens: all ids, by slices.
        doc_ends: int64 [documents], exclusive ends in `tokens`.
        doc_bytes: uint32 [documents], bytes of text.
        doc_source: uint16 [documents], index into `sources`.
        sources: names.
        pinyin: the pinyin ids of all tokens, by slices as `tokens`; None where the tokenizer has none.
    """

    def __init__(self, shards: Sequence[Shard], sources: Sequence[str]) -> None:
        self.shards = list(shards)
        self.tokens = Tokens(self.shards)
        self.sources = list(sources)

    @cached_property
    def pinyin(self) -> Tokens | None:
        if not self.shards or not all(shard.has_pinyin for shard in self.shards):
            return None
        return Tokens([_Readings(shard) for shard in self.shards])

    @cached_property
    def doc_ends(self) -> NDArray[np.int64]:
        bases = np.cumsum([0, *map(len, self.shards)])
        return _joined([s.ends.astype(np.int64) + b for s, b in zip(self.shards, bases, strict=False)], "<i8")

    @cached_property
    def doc_bytes(self) -> NDArray[np.uint32]:
        return _joined([np.load(beside(shard.path, ".bytes.npy")) for shard in self.shards], "<u4")

    @cached_property
    def doc_source(self) -> NDArray[np.uint16]:
        return _joined([shard.source for shard in self.shards], "<u2")

    def __len__(self) -> int:
        """How many documents there are."""
        return sum(shard.documents for shard in self.shards)

    def document(self, index: int) -> NDArray:
        """The ids of one document, eos included."""
        index = range(len(self))[index]
        start = int(self.doc_ends[index - 1]) if index else 0
        found = self.tokens[start : int(self.doc_ends[index])]
        assert isinstance(found, np.ndarray)
        return found


def split_of(tokens: NDArray, ends: NDArray, source: NDArray | None = None, sources: Sequence[str] = ("",)) -> Split:
    """A split of arrays in memory (see `Split` for them), as one shard."""
    index = np.zeros(len(ends), np.uint16) if source is None else np.asarray(source, np.uint16)
    shard = Shard(Path(), tokens.dtype, {"tokens": len(tokens), "documents": len(ends)})
    amounts = (np.bincount(index, weights) for weights in (None, np.diff(ends, prepend=0)))
    held = {int(i): (int(d), int(t)) for i, (d, t) in enumerate(zip(*amounts, strict=True)) if d}
    vars(shard).update(tokens=tokens, ends=np.asarray(ends, np.uint64), source=index, amounts=held)
    return Split([shard], sources)


def read_info(folder: Path | str) -> dict:
    """tokens.json of a tokens folder: vocab_size, dtype, eos_id, tokenizer (fingerprint), sources, train, heldout, and
    under "shards" what is known of each shard of each split.

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
    paths = sorted((Path(folder) / name).glob("[0-9]*.ds"))
    return Split([Shard(path, np.dtype(info["dtype"])) for path in paths], info["sources"])
