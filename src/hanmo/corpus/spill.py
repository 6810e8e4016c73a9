"""Documents between the two passes, on disk, ordered by nothing yet but findable by their hash.

The first pass deals every document into one of B buckets by the first bits of its hash; the second takes one bucket
after the other. A task of the first pass writes two files, however many buckets there are:

    NNNNNN.bin    compressed blocks, each with documents of one bucket
    NNNNNN.npy    one row per block, by bucket: bucket, offset in .bin, bytes there, bytes unpacked   (int64)

A document in a block is a header of fixed length (`HEADER`) and its finished JSON line, which the second pass copies
without parsing it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

from hanmo.files import atomic_write

#: hash (16 bytes), source, bytes of the text in UTF-8, characters, Han characters, bytes of the JSON line.
HEADER = struct.Struct("<16sHIIII")
#: Documents are collected up to this many bytes before blocks are written.
BUFFER = 32 << 20


class Spilled(NamedTuple):
    """One document as the second pass sees it."""

    key: bytes
    source: int
    bytes: int
    chars: int
    han: int
    line: bytes


def bucket_of(key: bytes, buckets: int) -> int:
    """The bucket of a hash: its first 32 bits, scaled. Buckets in their order hold the hashes in theirs."""
    return int.from_bytes(key[:4], "big") * buckets >> 32


class SpillWriter:
    """Writes one task's documents; the index, which makes them visible, comes last and at once.

    Args:
        stem: path without suffix.
        buckets: how many there are.
    """

    def __init__(self, stem: Path, buckets: int) -> None:
        self._stem = stem
        self._buckets = buckets
        self._held: dict[int, list[bytes]] = {}
        self._size = 0
        self._rows: list[tuple[int, int, int, int]] = []
        self._offset = 0
        self._pack = zstandard.ZstdCompressor(level=1).compress
        self._context = atomic_write(stem.with_suffix(".bin"), "wb")

    def __enter__(self) -> SpillWriter:
        self._file = self._context.__enter__()
        return self

    def write(self, document: Spilled) -> None:
        """Add one document."""
        key, source, size, chars, han, line = document
        head = HEADER.pack(key, source, size, chars, han, len(line))
        self._held.setdefault(bucket_of(document.key, self._buckets), []).extend((head, document.line))
        self._size += len(document.line) + HEADER.size
        if self._size >= BUFFER:
            self._flush()

    def _flush(self) -> None:
        for bucket, parts in sorted(self._held.items()):
            block = b"".join(parts)
            packed = self._pack(block)
            self._file.write(packed)
            self._rows.append((bucket, self._offset, len(packed), len(block)))
            self._offset += len(packed)
        self._held.clear()
        self._size = 0

    def __exit__(self, *error) -> None:
        try:
            if error[0] is None:
                self._flush()
        except BaseException as failed:
            self._context.__exit__(type(failed), failed, failed.__traceback__)
            raise
        self._context.__exit__(*error)
        if error[0] is None:
            rows = np.array(sorted(self._rows), np.int64).reshape(-1, 4)
            with atomic_write(self._stem.with_suffix(".npy"), "wb") as file:
                np.save(file, rows)


def blocks_of(stem: Path, bucket: int) -> np.ndarray:
    """The index rows [n, 4] of one bucket in one task's spill, in the order of writing."""
    rows = np.load(stem.with_suffix(".npy"), mmap_mode="r")
    first, last = np.searchsorted(rows[:, 0], (bucket, bucket + 1))
    return np.array(rows[first:last])


def documents_of(stem: Path, rows: np.ndarray) -> Iterator[Spilled]:
    """The documents in those blocks, in the order of writing."""
    unpack = zstandard.ZstdDecompressor()
    with stem.with_suffix(".bin").open("rb") as file:
        for _, offset, length, unpacked in rows.tolist():
            file.seek(offset)
            block = unpack.decompress(file.read(length), max_output_size=unpacked)
            position = 0
            while position < len(block):
                key, source, bytes_, chars, han, size = HEADER.unpack_from(block, position)
                position += HEADER.size
                yield Spilled(key, source, bytes_, chars, han, block[position : position + size])
                position += size
