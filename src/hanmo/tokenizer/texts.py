"""Text for tokenizers to learn from or be measured on: a corpus folder's documents, or those of plain files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hanmo.errors import HanmoError
from hanmo.files import TORN, open_binary, read_jsonl

#: Characters of plain text that count as one document.
_BLOCK = 1 << 16


class Document(NamedTuple):
    """A document and what it is counted under: its corpus's `source`, else the file's name."""

    source: str
    text: str


def documents(path: Path) -> Iterator[Document]:
    """The documents of a corpus folder, of a folder of files, of JSON lines with a field `text`, or of a plain file.

    Compressed files (.zst, .gz, .xz) are read as what they hold.

    Raises:
        HanmoError: nothing to read there, a record without text, or a file that is not UTF-8.
    """
    if path.is_dir():
        parts = sorted((path / "train").glob("*.jsonl.zst")) + sorted((path / "heldout").glob("*.jsonl.zst"))
        files = parts or sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
        if not files:
            raise HanmoError(f"{path}: no files there; give a corpus folder, text files or .jsonl files with a 'text'")
        for item in files:
            yield from _file(item, "" if parts else source_name(item))
    else:
        yield from _file(path, source_name(path))


def source_name(path: Path) -> str:
    """A file's name without its endings."""
    return path.name.split(".")[0] or path.name


def sample(paths: Sequence[Path], limit: int, chunk: int = 1 << 20) -> Iterator[str]:
    """About `limit` bytes of text of all the paths, each path an equal share, in strings of about `chunk` characters.

    Raises:
        HanmoError: see `documents`; or there is no text at all.
    """
    held: list[str] = []
    length = taken = 0
    for number, path in enumerate(paths):
        left = (limit - taken) // (len(paths) - number)
        for document in documents(path):
            if left <= 0:
                break
            text = document.text[: max(1, left // 2)]
            size = len(text.encode())
            left, taken, length = left - size, taken + size, length + len(text)
            held.append(text)
            if length >= chunk:
                yield "\n".join(held)
                held, length = [], 0
    if held:
        yield "\n".join(held)
    if not taken:
        raise HanmoError(f"{paths[0]}: no text there")


def _file(path: Path, source: str) -> Iterator[Document]:
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix not in (".zst", ".gz", ".xz")), "")
    if kind in (".jsonl", ".json", ".ndjson"):
        for number, record in read_jsonl(path):
            text = record.get("text") if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise HanmoError(f"{path}:{number}: no field 'text'; make a corpus of it with `hanmo corpus` first")
            yield Document(source or str(record.get("source") or path.name), text)
        return
    held: list[str] = []
    length = number = 0
    try:
        with open_binary(path) as file:
            for line in file:
                held.append(line.decode())
                number += 1
                length += len(held[-1])
                if length >= _BLOCK:
                    yield Document(source, "".join(held))
                    held, length = [], 0
    except FileNotFoundError:
        raise HanmoError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        line = f"{path}:{number + 1}: not UTF-8; make a corpus of it with `hanmo corpus` first, which knows encodings"
        raise HanmoError(line) from None
    except TORN as error:
        raise HanmoError(f"{path}: the compressed file is torn after line {number} ({error}); fetch it again") from None
    if held:
        yield Document(source, "".join(held))
