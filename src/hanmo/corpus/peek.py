"""A bounded look into files: the first megabyte or so of some of each kind. See `inspection`."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from hanmo.corpus import archives
from hanmo.corpus.formats import IDS, format_of, read
from hanmo.corpus.hubfile import HubFile
from hanmo.corpus.readers.jsons import sniff_json
from hanmo.corpus.records import Bad, Opened, open_bytes
from hanmo.corpus.stream import FileFault, detect_encoding, pieces
from hanmo.errors import HanmoError

#: Of the files of one kind in one folder, all up to the first number are looked into, else as many as the second.
ALL, _SOME = 32, 8
#: Files looked into in all.
_FILES = 160
#: Of one file, at most so many records and bytes (unpacked).
_RECORDS = 300
_BYTES = 2 << 20
#: Files of lines are read through to count them, as long as they take fewer bytes than these in all.
_THROUGH = 64 << 20
#: Of an archive, at most so many members are listed, and members above so many bytes are not looked into.
_MEMBERS, _MEMBER = 5000, 32 << 20
#: Bytes of a file that are read at once: how much was read tells how much a document takes.
_STEP = 16 << 10
#: A text file above this (bytes) is hardly one document.
_ONE_DOCUMENT = 2 << 20
PLAIN = ("txt", "md")
#: Formats whose bytes are text in some encoding; the others are told by their readers.
_TEXTUAL = (*PLAIN, "jsonl", "json", "csv", "tsv")


class _Counted:
    """A path whose file counts the bytes that are read of it, in small steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.path, name)

    def __str__(self) -> str:
        return str(self.path)

    def open(self, mode: str = "rb") -> IO[bytes]:
        return cast(IO[bytes], _CountedFile(self))


class _CountedFile(io.RawIOBase):
    def __init__(self, counted: _Counted) -> None:
        self._counted = counted
        self._file = counted.path.open("rb")

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_STEP if size < 0 else min(size, _STEP))
        self._counted.taken += len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass
class Look:
    """What one file showed."""

    path: Path
    name: str
    size: int
    kind: str
    compression: str
    encoding: str = ""
    records: list[Mapping[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    whole: bool = False  # read to its end
    read: int = 1  # bytes of the records that were read, unpacked
    unpacked: float = 0.0  # bytes of the whole file
    documents: float = 0.0  # in the whole file
    exact: bool = False  # counted, not estimated
    split: str = "file"
    fault: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(sorted({name for record in self.records for name in record}))


def look_at(found: list[tuple[Path, str]]) -> tuple[list[Look], Counter[str]]:
    """(what some files of each kind show, how many files of which ending no reader is known for)."""
    left_out: Counter[str] = Counter()
    kinds: dict[tuple[str, str, str], list[tuple[Path, str]]] = {}
    for path, name in found:
        kind, compression = kind_of(path)
        if kind is None and len(found) == 1:
            kind = _guess(path)
        if kind is None:
            left_out[path.suffix or path.name] += 1
        else:
            kinds.setdefault((name.rpartition("/")[0], kind, compression), []).append((path, name))
    looks = []
    room, through = _FILES, _THROUGH
    for (_, kind, compression), items in kinds.items():
        # Over a network every look is a question; the files of one kind in one folder are alike there.
        most = 2 if isinstance(items[0][0], HubFile) else ALL
        some = items if len(items) <= most else [items[len(items) * n // _SOME] for n in range(min(most, _SOME))]
        for path, name in some[: max(1, room)]:
            look = _look(path, name, kind, compression, through)
            looks.append(look)
            room -= 1
            if look.exact and not look.whole:
                through -= look.size
    return looks, left_out


def unpacked(found: list[tuple[Path, str]], folder: Path, notes: list[str]) -> list[tuple[Path, str]]:
    """The files, and in the place of an archive copies in `folder` of some of its members, named `a.zip!/inner.txt`."""
    shown: list[tuple[Path, str]] = []
    for number, (path, name) in enumerate(found):
        if not isinstance(path, Path) or not archives.ending_of(name):
            shown.append((path, name))
            continue
        copied = other = 0
        for member in islice(archives.members(path), _MEMBERS):
            if member.fault or format_of(member.name) in (None, *IDS) or member.size > _MEMBER or copied == ALL:
                other += 1
                if member.fault:
                    notes.append(f"{name}!/{member.name}: {member.fault[1]}")
                continue
            copy = folder / str(number) / member.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                with copy.open("wb") as file:
                    for block in archives.blocks(path, member):
                        file.write(block)
            except FileFault as fault:
                notes.append(f"{name}!/{member.name}: {fault.detail}")
                continue
            copied += 1
            shown.append((copy, f"{name}!/{member.name}"))
        notes.append(f"{name}: {copied} members looked into" + (f", {other} not" if other else ""))
    return shown


def kind_of(path: Path) -> tuple[str | None, str]:
    """(format by the file's name or None, its compression's suffix or "")."""
    kind = format_of(path.name)
    return None if kind in IDS else kind, Opened(path=path, format="txt").compression


def _guess(path: Path) -> str | None:
    """The format of a file whose ending says nothing."""
    try:
        head = next(pieces(path), b"")
        detect_encoding(head)
    except FileFault:
        return None
    first = head.lstrip()[:1]
    return "jsonl" if first == b"{" else "json" if first == b"[" else "txt"


def _look(path: Path, name: str, kind: str, compression: str, room: int) -> Look:
    look = Look(path, name, path.stat().st_size, kind, compression)
    try:
        if kind in _TEXTUAL:
            look.encoding = _encoding(look)
        _read(look, room)
    except FileFault as fault:
        look.fault = f"line {fault.line}: {fault.detail}" if fault.line else fault.detail
    except (HanmoError, OSError, ValueError) as error:
        look.fault = " ".join(str(error).split())
    return look


def _encoding(look: Look) -> str:
    """The file's encoding by its first bytes."""
    return open_bytes(Opened(path=look.path, format=look.kind))[1]


def _read(look: Look, room: int) -> None:
    if look.kind == "parquet":
        import pyarrow.parquet as pq

        source = look.path if isinstance(look.path, Path) else look.path.open("rb")
        with pq.ParquetFile(source) as table:
            look.documents, look.exact = table.metadata.num_rows, True
    elif look.kind == "json":
        look.kind = sniff_json(Opened(path=look.path, format="json", encoding=look.encoding))
    if look.kind in PLAIN:
        look.split = _split(look)
    opened = Opened(path=look.path, format=look.kind, encoding=look.encoding or "auto", split=look.split)
    size = 0
    items = read(opened)
    look.whole = True
    for item in islice(items, _RECORDS * 4):
        if isinstance(item, Bad):
            look.bad.append(item)
        else:
            look.records.append(item.fields)
            look.lines.append(item.line)
            size += item.size
        if len(look.records) == _RECORDS or size > _BYTES:
            look.whole = next(items, None) is None
            break
    seen = len(look.records) + len(look.bad)
    look.read = max(1, size + len(look.records))  # a record is a line, or lies between commas
    if look.whole:
        look.documents, look.unpacked, look.exact = seen, look.read, True
    elif look.kind == "parquet":
        look.unpacked = look.read * look.documents / max(1, seen)
    elif look.kind == "jsonl" and look.size <= room and not isinstance(look.path, HubFile):
        look.documents, look.unpacked = _count(look)
        look.exact = True
    else:
        look.unpacked = max(look.read, look.size * _expansion(look))
        look.documents = max(seen, look.unpacked / look.read * seen)


def _count(look: Look) -> tuple[int, int]:
    """(lines, bytes) of a file that is small enough to be read through."""
    lines = size = 0
    last = b""
    for last in pieces(look.path):
        lines += last.count(b"\n")
        size += len(last)
    return lines + (not last.endswith(b"\n")), size


def _expansion(look: Look) -> float:
    """Bytes that a byte of the file unpacks to, by its beginning."""
    if not look.compression:
        return 1.0
    counted = _Counted(look.path)
    size = 0
    for piece in pieces(cast(Path, counted)):
        size += len(piece)
        if size >= _BYTES:
            break
    return size / max(1, counted.taken)


def _split(look: Look) -> str:
    """What seems to be one document of a text file."""
    if look.size < _ONE_DOCUMENT:
        return "file"
    head = next(pieces(look.path), b"")
    rows = head.split(b"\n")
    blank = sum(not row.strip() for row in rows)
    return "blank_line" if blank > 0.02 * len(rows) else "line"
