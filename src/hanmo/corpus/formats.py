"""From a file to its records: one reader per format, all streaming, all saying where a record stands and what is wrong.

A reader yields `Record`s, and `Bad` ones for what it can pass over (a torn JSON line); it raises `FileFault` where it
can go no further. Lines are numbered from 1 as an editor does; a record of a JSON array has the line it begins in, a
Parquet row its row number.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from hanmo.corpus.stream import (
    SAMPLE,
    FileFault,
    Oversize,
    describe_bytes,
    detect_encoding,
    lines,
    pieces,
    transcode,
)

#: How much of a record that is passed over is kept for looking at (bytes).
EXCERPT = 400

#: Formats whose lines are records, so that one file can be shared out among tasks.
BY_LINE = ("jsonl",)


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


def read(file: Opened) -> Iterator[Record | Bad]:
    """Read a file's records.

    Raises:
        FileFault: the file cannot be read (further).
        OSError: it cannot be opened.
    """
    match file.format:
        case "parquet":
            return _parquet(file)
        case "jsonl":
            return _jsonl(file)
        case "json":
            return _json_array(file)
        case "csv" | "tsv":
            return _csv(file)
        case _ if file.split == "file":
            return _whole(file)
        case _:
            return _lines_of_text(file)


def sniff_json(path: Path, encoding: str) -> str:
    """Tell what a .json file is: "json" (an array) or "jsonl" (one object a line).

    Raises:
        FileFault: it is neither.
    """
    source, _ = _open_text(path, encoding)
    first = b""
    for piece in source:
        first += piece
        if len(first) > SAMPLE or b"\n" in first.strip():
            break
    first = first.lstrip()
    if not first or first.startswith(b"["):
        return "json"
    line = first.split(b"\n", 1)[0]
    if isinstance(_loads(line), dict):
        return "jsonl"
    raise FileFault("unknown_format", "it is neither a JSON array of records nor one JSON record a line", 1)


# Opening ------------------------------------------------------------------------------------------------------------


def _open_bytes(path: Path, encoding: str) -> tuple[Iterator[bytes], str]:
    """The file's pieces without a byte order mark, and its encoding (detected where "auto").

    Encodings in which a newline byte may be part of another character (UTF-16, ...) come transcoded to UTF-8.
    """
    source = pieces(path)
    head = b""
    for piece in source:
        head += piece
        if encoding != "auto" or len(head) >= SAMPLE:
            break
    if encoding == "auto":
        encoding = detect_encoding(head[:SAMPLE])
    if encoding == "utf-8":
        head = head.removeprefix(b"\xef\xbb\xbf")
    source = chain([head], source) if head else source
    if encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
        return transcode(source, encoding), "utf-8"
    return source, encoding


def _open_text(path: Path, encoding: str) -> tuple[Iterator[bytes], str]:
    """Like `_open_bytes`, always in UTF-8 (not checked where the file is in UTF-8 already)."""
    source, encoding = _open_bytes(path, encoding)
    return (source, encoding) if encoding == "utf-8" else (transcode(source, encoding), encoding)


# Plain text ---------------------------------------------------------------------------------------------------------


def _whole(file: Opened) -> Iterator[Record | Bad]:
    source, encoding = _open_bytes(file.path, file.encoding)
    held, size = [], 0
    for piece in source:
        size += len(piece)
        if size > file.limit:
            yield _oversize(1, None, (held[0] if held else piece)[:EXCERPT], file, encoding)
            return
        held.append(piece)
    data = b"".join(held)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileFault("bad_encoding", describe_bytes(data, error.start, encoding), line) from None
    yield Record(1, {"text": text}, size)


def _lines_of_text(file: Opened) -> Iterator[Record | Bad]:
    source, encoding = _open_bytes(file.path, file.encoding)
    numbered = lines(source, file.limit, file.stripe, file.stripes)
    if file.split == "line":
        for number, line in numbered:
            if isinstance(line, Oversize):
                yield _oversize(number, line.length, line.head, file, encoding)
            elif line.strip():
                yield _text_record(number, line, encoding)
        return
    held: list[bytes] = []
    first = size = 0
    too_long = False
    for number, line in chain(numbered, [(0, b"")]):
        blank = not isinstance(line, Oversize) and not line.strip()
        if not blank:
            if not held:
                first = number
            size += line.length if isinstance(line, Oversize) else len(line) + 1
            too_long = too_long or size > file.limit
            if not held or not too_long:
                held.append(line.head if isinstance(line, Oversize) else line)
        elif held:
            if too_long:
                yield _oversize(first, size, held[0][:EXCERPT], file, encoding)
            else:
                yield _text_record(first, b"\n".join(held), encoding)
            held, size, too_long = [], 0, False


def _text_record(number: int, data: bytes, encoding: str) -> Record | Bad:
    try:
        return Record(number, {"text": data.decode(encoding)}, len(data))
    except UnicodeDecodeError as error:
        line = number + data.count(b"\n", 0, error.start)
        return Bad(line, "bad_encoding", describe_bytes(data, error.start, encoding), _excerpt(data, encoding))


# JSON ---------------------------------------------------------------------------------------------------------------


def _jsonl(file: Opened) -> Iterator[Record | Bad]:
    source, encoding = _open_bytes(file.path, file.encoding)
    for number, line in lines(source, file.limit, file.stripe, file.stripes):
        if isinstance(line, Oversize):
            yield _oversize(number, line.length, line.head, file, encoding)
        elif line.strip():
            yield _json_record(number, line, encoding)


def _json_record(number: int, data: bytes, encoding: str) -> Record | Bad:
    if encoding != "utf-8":
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            return Bad(number, "bad_encoding", describe_bytes(data, error.start, encoding), _excerpt(data, encoding))
        data = text.encode()
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            data.decode()
        except UnicodeDecodeError as wrong:
            return Bad(number, "bad_encoding", describe_bytes(data, wrong.start, "utf-8"), _excerpt(data, "utf-8"))
        value = _loads(data)
        if value is None:
            # The message ends in a position ("line 1 column 7 (char 6)"); the line is ours to say.
            cause = re.sub(r": line \d+ (column \d+) .*", r" at \1", str(error))
            return Bad(number, "not_json", f"not JSON ({cause})", _excerpt(data, "utf-8"))
    if not isinstance(value, dict):
        return Bad(
            number, "not_json", f"a JSON {type(value).__name__}, not a record of fields", _excerpt(data, "utf-8")
        )
    return Record(number, value, len(data))


def _loads(data: bytes) -> Any:
    """Parse JSON that orjson may refuse: Python writes NaN, and strings may hold half of a surrogate pair. None
    if torn.
    """
    try:
        value = json.loads(data)
        orjson.dumps(value)  # refuses half pairs, which are not text
    except (ValueError, TypeError, RecursionError):
        return None
    return value


_STRUCTURE = re.compile(rb'["{}\[\],]')
_STRING_END = re.compile(rb'["\\]')


def _json_array(file: Opened) -> Iterator[Record | Bad]:
    """The elements of an array, cut out one by one and parsed alone, so that an array of any length is a stream."""
    source, _ = _open_text(file.path, file.encoding)
    line = 1
    first = 1  # line of the element's first byte
    depth = 0
    in_string = escaped = opened = ended = False
    held: list[bytes] = []
    size = 0

    def element() -> Iterator[Record | Bad]:
        data = b"".join(held).strip()
        if size > file.limit:
            yield _oversize(first, size, data[:EXCERPT], file, "utf-8")
        elif data:
            yield _json_record(first, data, "utf-8")

    def hold(data: bytes) -> None:
        nonlocal size, first
        if not size:
            stripped = data.lstrip()
            first = line + data.count(b"\n", 0, len(data) - len(stripped))
            data = stripped
        size += len(data)
        if data and (size <= file.limit or not held):
            held.append(data)

    for piece in source:
        position = start = 0
        if not opened:
            blank = len(piece) - len(piece.lstrip())
            line += piece.count(b"\n", 0, blank)
            if blank == len(piece):
                continue
            if piece[blank : blank + 1] != b"[":
                raise FileFault("unknown_format", "the file's outermost value is not an array of records", line)
            opened = True
            position = start = blank + 1
        while position < len(piece):
            if escaped:
                escaped = False
                position += 1
                continue
            match = (_STRING_END if in_string else _STRUCTURE).search(piece, position)
            if match is None:
                break
            position = match.end()
            char = match.group()
            if ended:
                raise FileFault("not_json", "something stands behind the end of the array", line)
            if in_string:
                escaped = char == b"\\"
                in_string = escaped
            elif char == b'"':
                in_string = True
            elif char in b"{[":
                depth += 1
            elif depth == 0 and char in b",]":
                hold(piece[start : position - 1])
                yield from element()
                line += piece.count(b"\n", start, position)
                held, size = [], 0
                start = position
                ended = char == b"]"
            elif char in b"}]":
                depth -= 1
                if depth < 0:
                    raise FileFault("not_json", "a bracket closes what was never opened", line)
        rest = piece[start:]
        if ended and rest.strip():
            raise FileFault("not_json", "something stands behind the end of the array", line)
        hold(rest)
        line += rest.count(b"\n")
    if opened and not ended:
        raise FileFault("torn_json", "the array never ends: the file is cut off, or a quote is missing", line)


# Tables -------------------------------------------------------------------------------------------------------------


def _csv(file: Opened) -> Iterator[Record | Bad]:
    source, encoding = _open_bytes(file.path, file.encoding)
    csv.field_size_limit(file.limit)
    rows = csv.reader(_text_lines(source, encoding, file.limit), delimiter="\t" if file.format == "tsv" else ",")
    header: list[str] = []
    before = 0
    try:
        for row in rows:
            number, before = before + 1, rows.line_num
            if not any(row):
                continue
            if not header:
                header = [name.strip() for name in row]
            elif len(row) != len(header):
                detail = f"{len(row)} cells under a header of {len(header)}"
                yield Bad(number, "bad_row", detail, " ".join(row)[:EXCERPT])
            else:
                yield Record(number, dict(zip(header, row, strict=True)), sum(map(len, row)))
    except csv.Error as error:
        raise FileFault("not_csv", f"{error}: perhaps a quote that is never closed", before + 1) from None


def _text_lines(source: Iterable[bytes], encoding: str, limit: int) -> Iterator[str]:
    for number, line in lines(source, limit):
        if isinstance(line, Oversize):
            raise FileFault("too_big", f"a line of {line.length / 1e6:.0f} MB is above max_document_mb", number)
        try:
            yield line.decode(encoding) + "\n"
        except UnicodeDecodeError as error:
            raise FileFault("bad_encoding", describe_bytes(line, error.start, encoding), number) from None


def _parquet(file: Opened) -> Iterator[Record | Bad]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Reading through a buffer, not ahead: a row group may be larger than the memory of a worker.
        with pq.ParquetFile(file.path, buffer_size=1 << 20, pre_buffer=False) as table:
            columns = list(file.columns) or None
            row = 0
            for group in range(table.num_row_groups):
                if group % file.stripes != file.stripe:
                    row += table.metadata.row_group(group).num_rows
                    continue
                for batch in table.iter_batches(batch_size=64, row_groups=[group], columns=columns, use_threads=False):
                    for fields in batch.to_pylist():
                        row += 1
                        yield Record(row, fields, 0)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FileFault("not_parquet", f"not a whole Parquet file ({str(error).splitlines()[0]})") from None


# --------------------------------------------------------------------------------------------------------------------


def _oversize(number: int, length: int | None, head: bytes, file: Opened, encoding: str) -> Bad:
    long = f"{length / 1e6:.1f} MB" if length else f"more than {file.limit / 1e6:.0f} MB"
    detail = f"{long} in one record, above max_document_mb"
    if file.format in ("txt", "md") and file.split == "file":
        detail += "; set split: line or blank_line if the file holds many documents"
    return Bad(number, "too_big", detail, _excerpt(head, encoding))


def _excerpt(data: bytes, encoding: str) -> str:
    return data[:EXCERPT].decode(encoding, "replace")
