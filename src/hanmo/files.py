"""Files that are either whole or absent, and the two line formats of the house (JSON and JSON lines, maybe compressed).

A result is written beside its final name and moved over it in one step, after its bytes have reached the disk: a killed
process or a full disk leaves the old file, or none, and never half of a new one.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import orjson
import xxhash
import yaml
import zstandard

from hanmo.errors import HanmoError
from hanmo.remote import as_path, faults, is_remote, is_url, open_read, sent, version_of, versions_below

#: Files up to this size are fingerprinted whole, larger ones by evenly spaced samples.
_WHOLE = 64 << 20
_SAMPLE = 256 << 10
#: Compressed bytes taken at a time; small, since each may become thousands.
_BLOCK = 16 << 10
#: What a torn or damaged compressed file raises, whichever its format.
TORN = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)


@contextlib.contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` for writing ("w": UTF-8 text with \\n ends, "wb": bytes).

    On leaving the block the file is flushed to disk and renamed to `path`; on an exception it is removed and `path`
    keeps what it held before. A remote path (see `hanmo.remote`) is whole or as it was, too.
    """
    path = as_path(path)
    if is_remote(path):
        with sent(path) as binary:
            if "b" in mode:
                yield binary
            else:
                text_file = io.TextIOWrapper(binary, encoding="utf-8", newline="\n")
                yield text_file
                text_file.flush()
                text_file.detach()
        return
    if path.is_dir():
        raise HanmoError(f"{path}: a folder stands where a file is wanted; choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two machines may write the same file, each in a process of the same number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    text: dict[str, Any] = {"encoding": "utf-8", "newline": "\n"} if "b" not in mode else {}
    file = temporary.open(mode, **text)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(path: Path, mark: str) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; on leaving the block it becomes `path`, on an exception it is removed.

    A folder that is there already is replaced only if it is empty or holds a file named `mark`, which says that it was
    made in this way.

    Raises:
        HanmoError: `path` holds something else.
    """
    if path.exists() and not path.is_dir():
        raise HanmoError(f"{path}: a file stands there; choose another --out")
    if path.is_dir() and any(path.iterdir()) and not (path / mark).is_file():
        raise HanmoError(f"{path}: the folder is not empty; choose another --out")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or torn one is a `HanmoError` that names it."""
    path = as_path(path)
    try:
        with open_read(path) as file:
            return orjson.loads(file.read())
    except FileNotFoundError:
        raise HanmoError(f"{path}: no such file") from None
    except orjson.JSONDecodeError as error:
        raise HanmoError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None


class _ZstdReader(io.RawIOBase):
    """Decompressed bytes of a .zst file of one or more frames; a file that ends inside a frame is an `EOFError`.

    (The stream reader of `zstandard` takes such a torn file for a whole one.)
    """

    def __init__(self, path: Path) -> None:
        self._file = open_read(path)
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if self._frame.eof:
                block = self._frame.unused_data or self._file.read(_BLOCK)
                if not block:
                    return 0
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            elif not (block := self._file.read(_BLOCK)):
                raise EOFError("it ends in the middle of a frame")
            self._ready = memoryview(self._frame.decompress(block))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def front_matter(text: str) -> dict[str, Any]:
    """The YAML at the head of a Markdown text, as cards have it; {} where there is none or it is torn."""
    found = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", text.replace("\r\n", "\n"), re.S)
    if not found:
        return {}
    try:
        value = yaml.safe_load(found[1])
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def open_binary(path: Path | str) -> IO[bytes]:
    """Open a plain, .gz, .zst or .xz file for reading its decompressed bytes as a stream.

    Raises:
        EOFError: here or while reading, a compressed file ends too early (one of no bytes at all does).
        gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError: while reading, it is damaged.
    """
    path = as_path(path)
    match path.suffix.lower():
        case ".gz" | ".xz" | ".zst" if version_of(path)[0] == 0:
            raise EOFError("it is empty")
        case ".gz":
            return cast(IO[bytes], gzip.open(open_read(path) if is_remote(path) else path, "rb"))
        case ".xz":
            return lzma.open(open_read(path) if is_remote(path) else path, "rb")
        case ".zst":
            return io.BufferedReader(_ZstdReader(path), 1 << 20)
        case _:
            return open_read(path)


def read_jsonl(path: Path | str) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) of a JSON-lines file, plain or compressed; empty lines are passed over.

    Lines end at \\n alone: a string inside a record may hold U+2028 or U+0085, which str.splitlines would cut at.

    Raises:
        HanmoError: the file is missing, its compression is torn, or a line is not JSON (file and line named).
    """
    path = as_path(path)
    number = 0
    try:
        with open_binary(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield number, orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise HanmoError(f"{path}:{number}: not JSON ({error})") from None
    except FileNotFoundError:
        raise HanmoError(f"{path}: no such file") from None
    except TORN as error:
        raise HanmoError(f"{path}: the compressed file is torn after line {number} ({error}); fetch it again") from None


class JsonlZstWriter:
    """Write JSON lines into a zstd file that appears under its name only when the block ends well."""

    def __init__(self, path: Path | str, level: int = 3) -> None:
        self._context = atomic_write(path, "wb")
        self._level = level

    def __enter__(self) -> JsonlZstWriter:
        self._file = self._context.__enter__()
        self._stream = zstandard.ZstdCompressor(level=self._level).stream_writer(self._file, closefd=False)
        return self

    def write(self, value: Any) -> None:
        """Append one record."""
        self.write_line(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))

    def write_line(self, line: bytes) -> None:
        """Append one record that is JSON already and ends in a newline."""
        self._stream.write(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._stream.close()
        except BaseException as failed:
            self._context.__exit__(type(failed), failed, failed.__traceback__)
            raise
        self._context.__exit__(kind, error, trace)


def expand(path: str, folder: Path) -> Path:
    """The absolute path that a person meant: `~` and `$VARIABLES` filled in, a relative path taken from `folder`.

    A variable that leads the path is itself taken from the working folder, where the person who set it stood.

    Raises:
        HanmoError: a variable that is not set.
    """
    if unset := [name for name in re.findall(r"\$\{?(\w+)\}?", path) if name not in os.environ]:
        raise HanmoError(f"{path}: the environment variable {unset[0]} is not set; set it, or write the path out")
    if is_url(os.path.expandvars(path)):
        return as_path(os.path.expandvars(path))
    filled = Path(os.path.expandvars(path)).expanduser()
    return filled.absolute() if path.startswith("$") else (folder / filled).absolute()


def fingerprint_json(value: Any) -> str:
    """A short stable hash of a JSON-able value (key order does not matter)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint_path(path: Path | str) -> str:
    """A short hash of a file's content, or of all the files below a folder with their relative names.

    Files above 64 MiB are hashed by their size and 64 evenly spaced samples of 256 KiB, so that a corpus of hundreds of
    gigabytes costs seconds; an edit that keeps the size and misses every sample is not seen. Remote files are not read:
    what counts is the version that the server tells.
    """
    path = as_path(path)
    with faults(path):
        if not path.exists():
            raise HanmoError(f"{path}: no such file or folder")
    digest = xxhash.xxh3_128()
    if is_remote(path):
        for name, version in versions_below(path).items():
            digest.update(f"{name}\0{version}\0".encode())
        return digest.hexdigest()[:16]
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        if any(part.startswith(".") for part in Path(name).parts):
            continue
        try:
            _fingerprint(file, name, digest)
        except FileNotFoundError:
            raise HanmoError(f"{file}: gone while it was read; name a folder that nothing else works in") from None
    return digest.hexdigest()[:16]


def _fingerprint(file: Path, name: str, digest: xxhash.xxh3_128) -> None:
    size = file.stat().st_size
    digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))  # names that are no UTF-8
    with file.open("rb") as stream:
        if size <= _WHOLE:
            while block := stream.read(1 << 20):
                digest.update(block)
        else:
            for index in range(64):
                stream.seek((size - _SAMPLE) * index // 63)
                digest.update(stream.read(_SAMPLE))
