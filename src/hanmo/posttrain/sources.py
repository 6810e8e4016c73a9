"""Record files: JSON lines, JSON arrays and parquet, plain or compressed, read with the line of each record.

The container is told by the file's first character, not by its suffix: many published `.json` files hold JSON lines.
"""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import zstandard

from hanmo.errors import HanmoError
from hanmo.files import open_binary
from hanmo.posttrain.faults import Fault, kind_of

_COMPRESSED = (".gz", ".zst", ".xz")
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
_TORN = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)


class Place(NamedTuple):
    """Where a record stands: its file and its line (parquet: its row), from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def is_record_file(path: Path) -> bool:
    """Whether a file's name is one of a record file."""
    plain = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    return plain.suffix.lower() in _SUFFIXES


def files_of(path: Path, made_here: str) -> list[Path]:
    """The record files meant by a path: itself, a stage's `made_here`, or all record files in a folder.

    Raises:
        HanmoError: there is none, or the file's name says it is something else.
    """
    if path.is_file():
        if not is_record_file(path):
            raise HanmoError(f"{path}: not a record file; expected .json, .jsonl or .parquet, maybe .gz, .zst or .xz")
        return [path]
    if not path.is_dir():
        raise HanmoError(f"{path}: no such file or folder")
    made = [file for suffix in ("", *_COMPRESSED) if (file := path / f"{made_here}{suffix}").is_file()]
    if made:
        return made
    if (path / "manifest.json").is_file():
        raise HanmoError(f"{path}: that stage made no {made_here}; name the record files themselves")
    files = sorted(file for file in path.iterdir() if file.is_file() and is_record_file(file))
    if not files:
        raise HanmoError(f"{path}: no .json, .jsonl or .parquet file in that folder")
    return files


def read_records(path: Path) -> Iterator[tuple[Place, Any]]:
    """Yield (place, record) of a file; a line that cannot be read is yielded as a `Fault` in the record's stead.

    Raises:
        HanmoError: the file as a whole cannot be read (torn, an array that does not parse, not UTF-8).
    """
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path)
            return
        with open_binary(path) as file:
            head = file.readline()
            while head and not head.strip(b" \t\r\n\xef\xbb\xbf"):
                head = file.readline()
        if not head:
            raise HanmoError(f"{path}: the file is empty; records are needed")
        first = head.lstrip(b" \t\r\n\xef\xbb\xbf")[:1]
        if first == b"[":
            yield from _array(path)
        elif head.strip(b" \t\r\n\xef\xbb\xbf") == b"{" and path.suffix.lower() != ".jsonl":
            raise HanmoError(f"{path}: one object over many lines; expected an array [...] or one record per line")
        else:
            yield from _lines(path)
    except _TORN as error:
        raise HanmoError(f"{path}: the compressed file is torn ({error}); fetch it again") from None


def _record(value: Any) -> Any:
    return value if isinstance(value, dict) else Fault("", f"is {kind_of(value)} instead of an object with fields")


def _lines(path: Path) -> Iterator[tuple[Place, Any]]:
    with open_binary(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                reason = "not UTF-8" if "UTF-8" in str(error) else "not JSON"
                detail = "; save the file as UTF-8" if reason == "not UTF-8" else f" ({error})"
                yield Place(path, number), Fault("", reason, detail)
                continue
            yield Place(path, number), _record(value)


def _array(path: Path) -> Iterator[tuple[Place, Any]]:
    """Elements of a JSON array one by one, so that the line of each is known and a fault has its place."""
    with open_binary(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HanmoError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    line, counted = text.count("\n", 0, position) + 1, position

    def skip(position: int) -> int:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        return position

    position = skip(position)
    if text[position : position + 1] == "]":
        raise HanmoError(f"{path}: the array is empty; records are needed")
    while True:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise HanmoError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
        yield Place(path, line), _record(value)
        position = skip(position)
        mark = text[position : position + 1]
        if mark == "]":
            return
        if mark != ",":
            line += text.count("\n", counted, position)
            what = f"{mark!r} instead of ',' or ']'" if mark else "the array has no end; is the file cut off?"
            raise HanmoError(f"{path}:{line}: not JSON ({what})")
        position = skip(position + 1)


def _parquet(path: Path) -> Iterator[tuple[Place, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1024):
                for record in batch.to_pylist():
                    number += 1
                    yield Place(path, number), record
    except (pa.ArrowInvalid, OSError) as error:
        raise HanmoError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
