"""What readers are asked for (`Opened`) and what they give (`Record`, `Bad`), and how they open a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from hanmo.corpus.stream import SAMPLE, FileFault, detect_encoding, pieces, transcode

#: How much of a record that is passed over is kept for looking at (bytes).
EXCERPT = 400


@dataclass(frozen=True, slots=True)
class Record:
    """What was read: a mapping of fields (or one with the single field "text" for plain text)."""

    line: int
    fields: Mapping[str, Any]
    size: int  # bytes it took in the file, about


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that could not be read: why, and its first bytes as text."""

    line: int
    reason: str
    detail: str
    excerpt: str


@dataclass(frozen=True)
class Opened:
    """How to read one file; see `read`."""

    path: Path
    format: str
    encoding: str = "auto"
    split: str = "file"
    columns: tuple[str, ...] = ()  # csv and parquet: only these are read; empty: all
    limit: int = 16 << 20  # bytes of one record
    stripe: int = 0
    stripes: int = 1


def open_bytes(path: Path, encoding: str) -> tuple[Iterator[bytes], str]:
    """The file's pieces without a byte order mark, and its encoding (detected where "auto").

    Encodings in which a newline byte may be part of another character (UTF-16, ...) come transcoded to UTF-8.
    """
    source = pieces(path)
    head = b""
    try:
        for piece in source:
            head += piece
            if encoding != "auto" or len(head) >= SAMPLE:
                break
    except FileFault as fault:
        if not head:
            raise
        source = _fail(fault)  # when its turn comes: what stands before the tear can be read
    if encoding == "auto":
        encoding = detect_encoding(head[:SAMPLE])
    if encoding == "utf-8":
        head = head.removeprefix(b"\xef\xbb\xbf")
    source = chain([head], source) if head else source
    if encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
        return transcode(source, encoding), "utf-8"
    return source, encoding


def _fail(fault: FileFault) -> Iterator[bytes]:
    raise fault
    yield


def open_text(path: Path, encoding: str) -> tuple[Iterator[bytes], str]:
    """Like `open_bytes`, always in UTF-8 (not checked where the file is in UTF-8 already)."""
    source, encoding = open_bytes(path, encoding)
    return (source, encoding) if encoding == "utf-8" else (transcode(source, encoding), encoding)


def oversize(number: int, length: int | None, head: bytes, file: Opened, encoding: str) -> Bad:
    long = f"{length / 1e6:.1f} MB" if length else f"more than {file.limit / 1e6:.0f} MB"
    detail = f"{long} in one record, above max_document_mb"
    if file.format in ("txt", "md") and file.split == "file":
        detail += "; set split: line or blank_line if the file holds many documents"
    return Bad(number, "too_big", detail, excerpt(head, encoding))


def excerpt(data: bytes, encoding: str) -> str:
    return data[:EXCERPT].decode(encoding, "replace")
