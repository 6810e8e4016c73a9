"""Plain text: a document is a whole file, a line, or what stands between blank lines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from hanmo.corpus.records import EXCERPT, Bad, Opened, Record, excerpt, open_bytes, oversize
from hanmo.corpus.stream import FileFault, Oversize, describe_bytes, lines


def read_text(file: Opened) -> Iterator[Record | Bad]:
    """Documents of plain text; see `Opened.split`."""
    return _whole(file) if file.split == "file" else _lines_of_text(file)


def _whole(file: Opened) -> Iterator[Record | Bad]:
    source, encoding = open_bytes(file)
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
    source, encoding = open_bytes(file)
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
