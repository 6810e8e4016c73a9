"""JSON: one record a line, or one array of records, however long and however many of them on a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson

from hanmo.corpus.records import EXCERPT, Bad, Opened, Record, excerpt, open_bytes, open_text, oversize
from hanmo.corpus.stream import SAMPLE, FileFault, Oversize, describe_bytes, lines


def sniff_json(file: Opened) -> str:
    """Tell what a .json file is: "json" (an array) or "jsonl" (one object a line).

    Raises:
        FileFault: it is neither.
    """
    source, _ = open_text(file)
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


def read_lines(file: Opened) -> Iterator[Record | Bad]:
    """One JSON record a line."""
    source, encoding = open_bytes(file)
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
_BACKSLASH = 0x5C


def read_array(file: Opened) -> Iterator[Record | Bad]:
    """The elements of an array, cut out one by one and parsed alone, so that an array of any length is a stream.

    Stripes are shares of the elements: finding where they end is several times faster than what follows.
    """
    source, _ = open_text(file)
    line = 1
    first = 1  # line of the element's first byte
    depth = 0
    in_string = opened = ended = False
    odd = False  # whether an odd number of backslashes stands directly before the piece, inside a string
    held: list[bytes] = []
    size = 0
    elements = 0
    beside = (0, 0)  # a line, and the elements that began in it so far

    def element() -> Iterator[Record | Bad]:
        nonlocal elements, beside
        beside = (first, beside[1] + 1 if beside[0] == first else 0)
        elements += 1
        if not file.mine(elements):
            return
        data = b"".join(held).strip()
        if size > file.limit:
            yield replace(oversize(first, size, data[:EXCERPT], file, "utf-8"), nth=beside[1])
        elif data:
            yield replace(_json_record(first, data, "utf-8"), nth=beside[1])

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
            if in_string:
                # To the next quote and back over its backslashes: much faster than stopping at each of these.
                quote = piece.find(b'"', position)
                stop = quote if quote >= 0 else len(piece)
                run = 0
                while stop - run > position and piece[stop - run - 1] == _BACKSLASH:
                    run += 1
                escaped = (run + (odd and run == stop - position)) % 2 == 1
                if quote < 0:
                    odd = escaped
                    break
                odd = False
                in_string = escaped
                position = quote + 1
                continue
            match = _STRUCTURE.search(piece, position)
            if match is None:
                break
            position = match.end()
            char = match.group()
            if ended:
                raise FileFault("not_json", "something stands behind the end of the array", line)
            if char == b'"':
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
