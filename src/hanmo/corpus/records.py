"""What readers are asked for (`Opened`) and what they give (`Record`, `Bad`), and how they open a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from hanmo.corpus.archives import Member, blocks
from hanmo.corpus.stream import COMPRESSIONS, SAMPLE, FileFault, blocks_of, detect_encoding, transcode, unpack

#: How much of a record that is passed over is kept for looking at (bytes).
EXCERPT = 400


@dataclass(frozen=True, slots=True)
class Record:
    """What was read: a mapping of fields (or one with the single field "text" for plain text)."""

    line: int  # or the number of the row, record, chapter, ... that it is in the file, from 1
    fields: Mapping[str, Any]
    size: int  # bytes it took in the file, about
    nth: int = 0  # elements of a JSON array that begin in the same line before it

    @property
    def place(self) -> str:
        """Where it stands, unique in its file."""
        return f"{self.line}.{self.nth}" if self.nth else str(self.line)


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that could not be read: why, and its first bytes as text.

    `unwanted` says that it was read well and holds no text (an image in a web archive, a scanned page): it is counted,
    and nothing is wrong with the file.
    """

    line: int
    reason: str
    detail: str
    excerpt: str
    unwanted: bool = False
    nth: int = 0

    @property
    def place(self) -> str:
        """Where it stands, unique in its file."""
        return f"{self.line}.{self.nth}" if self.nth else str(self.line)


@dataclass(frozen=True, slots=True)
class Opened:
    """How to read one file; see `read`."""

    path: Path
    format: str
    member: Member | None = None  # of the archive `path`
    encoding: str = "auto"
    split: str = "file"
    columns: tuple[str, ...] = ()  # parquet and arrow: only these are read; empty: all
    limit: int = 16 << 20  # bytes of one record
    stripe: int = 0
    stripes: int = 1
    tokenizer: str = ""  # a file or folder: what made the ids in files of token ids
    end_id: int | None = None  # the id after each document in such files
    form: str = ""  # of a labelled task (see `hanmo.corpus.tasks`)
    fault: tuple[str, str] | None = None  # (reason, detail) why it cannot be read, found when it was looked at

    @property
    def compression(self) -> str:
        """The suffix of `COMPRESSIONS` by which the file's bytes are packed, or an empty string."""
        suffix = Path(self.member.name if self.member else self.path.name).suffix.lower()
        return suffix if suffix in COMPRESSIONS else ""

    @property
    def where(self) -> str:
        """The file for an error line: `archive.zip!/inner/a.txt` for a member."""
        return f"{self.path}!/{self.member.name}" if self.member and self.member.name else str(self.path)

    def mine(self, number: int) -> bool:
        """Whether the record of this number is in this stripe."""
        return number % self.stripes == self.stripe


def pieces_of(file: Opened) -> Iterator[bytes]:
    """The decompressed content of a file or of an archive's member in pieces of bounded size.

    Raises:
        FileFault: its compression, or the archive, is torn (after the pieces before the tear were given).
        OSError: it cannot be opened.
    """
    raw = blocks(file.path, file.member) if file.member else blocks_of(file.path)
    return unpack(raw, file.compression)


@contextmanager
def on_disk(file: Opened) -> Iterator[Path]:
    """A path at which a file can be read at any place: its own, or a temporary one with what a compression or an
    archive holds, or a hub has (one file at a time, for formats whose index stands at their end).
    """
    if not file.member and not file.compression and isinstance(file.path, Path):
        yield file.path
        return
    with tempfile.TemporaryDirectory(prefix="hanmo-") as folder:
        path = Path(folder) / "member"
        with path.open("wb") as copy:
            for piece in pieces_of(file):
                copy.write(piece)
        yield path


def open_bytes(file: Opened) -> tuple[Iterator[bytes], str]:
    """The file's pieces without a byte order mark, and its encoding (detected where "auto").

    Encodings in which a newline byte may be part of another character (UTF-16, ...) come transcoded to UTF-8.
    """
    encoding = file.encoding
    source = pieces_of(file)
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


def open_text(file: Opened) -> tuple[Iterator[bytes], str]:
    """Like `open_bytes`, always in UTF-8 (not checked where the file is in UTF-8 already)."""
    source, encoding = open_bytes(file)
    return (source, encoding) if encoding == "utf-8" else (transcode(source, encoding), encoding)


def oversize(number: int, length: int | None, head: bytes, file: Opened, encoding: str) -> Bad:
    long = f"{length / 1e6:.1f} MB" if length else f"more than {file.limit / 1e6:.0f} MB"
    detail = f"{long} in one record, above max_document_mb"
    if file.format in ("txt", "md") and file.split == "file":
        detail += "; set split: line or blank_line if the file holds many documents"
    return Bad(number, "too_big", detail, excerpt(head, encoding))


def excerpt(data: bytes, encoding: str) -> str:
    return data[:EXCERPT].decode(encoding, "replace")
