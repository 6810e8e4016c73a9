"""From a file to its records: one reader per format, all streaming, all saying where a record stands and what is wrong.

A reader yields `Record`s, and `Bad` ones for what it can pass over (a torn JSON line); it raises `FileFault` where it
can go no further. Lines are numbered from 1 as an editor does; a record of a JSON array has the line it begins in, a
Parquet row its row number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from hanmo.corpus.records import EXCERPT, Bad, Opened, Record, excerpt, open_bytes, open_text, oversize
from hanmo.corpus.stream import SAMPLE, FileFault, Oversize, describe_bytes, lines
from hanmo.corpus.tables import read_csv, read_parquet


def read(file: Opened) -> Iterator[Record | Bad]:
    """Read a file's records.

    Raises:
        FileFault: the file cannot be read (further).
        OSError: it cannot be opened.
    """
    match file.format:
        case "parquet":
            return read_parquet(file)
        case "jsonl":
            return _jsonl(file)
        case "json":
            return _json_array(file)
        case "csv" | "tsv":
            return read_csv(file)
        case _ if file.split == "file":
            return _whole(file)
        case _:
            return _lines_of_text(file)


def sniff_json(path: Path, encoding: str) -> str:
    """Tell what a .json file is: "json" (an array) or "jsonl" (one object a line).

    Raises:
        FileFault: it is neither.
    """
    source, _ = open_text(path, encoding)
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


# Plain text ---------------------------------------------------------------------------------------------------------


def _whole(file: Opened) -> Iterator[Record | Bad]:
    source, encoding = open_bytes(file.path, file.encoding)
    held, size = [], 0
    for piece in source:
        size += len(piece)
        if size > file.limit:
            yield oversize(1, None, (held[0] if held else piece)[:EXCERPT], file, encoding)
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
    source, encoding = open_bytes(file.path, file.encoding)
    numbered = lines(source, file.limit, file.stripe, file.stripes)
    if file.split == "line":
        for number, line in numbered:
            if isinstance(line, Oversize):
                yield oversize(number, line.length, line.head, file, encoding)
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
                yield oversize(first, size, held[0][:EXCERPT], file, encoding)
            else:
                yield _text_record(first, b"\n".join(held), encoding)
            held, size, too_long = [], 0, False


def _text_record(number: int, data: bytes, encoding: str) -> Record | Bad:
    try:
        return Record(number, {"text": data.decode(encoding)}, len(data))
    except UnicodeDecodeError as error:
        line = number + data.count(b"\n", 0, error.start)
        return Bad(line, "bad_encoding", describe_bytes(data, error.start, encoding), excerpt(data, encoding))


# JSON ---------------------------------------------------------------------------------------------------------------


def _jsonl(file: Opened) -> Iterator[Record | Bad]:
    source, encoding = open_bytes(file.path, file.encoding)
    for number, line in lines(source, file.limit, file.stripe, file.stripes):
        if isinstance(line, Oversize):
            yield oversize(number, line.length, line.head, file, encoding)
        elif line.strip():
            yield _json_record(number, line, encoding)


def _json_record(number: int, data: bytes, encoding: str) -> Record | Bad:
    if encoding != "utf-8":
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            return Bad(number, "bad_encoding", describe_bytes(data, error.start, encoding), excerpt(data, encoding))
        data = text.encode()
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            data.decode()
        except UnicodeDecodeError as wrong:
            return Bad(number, "bad_encoding", describe_bytes(data, wrong.start, "utf-8"), excerpt(data, "utf-8"))
        value = _loads(data)
        if value is None:
            # The message ends in a position ("line 1 column 7 (char 6)"); the line is ours to say.
            cause = re.sub(r": line \d+ (column \d+) .*", r" at \1", str(error))
            return Bad(number, "not_json", f"not JSON ({cause})", excerpt(data, "utf-8"))
    if not isinstance(value, dict):
        return Bad(number, "not_json", f"a JSON {type(value).__name__}, not a record of fields", excerpt(data, "utf-8"))
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
    source, _ = open_text(file.path, file.encoding)
    line = 1
    first = 1  # line of the element's first byte
    depth = 0
    in_string = escaped = opened = ended = False
    held: list[bytes] = []
    size = 0

    def element() -> Iterator[Record | Bad]:
        data = b"".join(held).strip()
        if size > file.limit:
            yield oversize(first, size, data[:EXCERPT], file, "utf-8")
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
