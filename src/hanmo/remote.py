"""Files that are elsewhere: `s3://bucket/folder`, `https://…` and whatever else fsspec knows, handled as paths.

A remote path is a `UPath` of universal-pathlib, which has pathlib's methods, so that the readers and writers of the
house take it as it is; it travels to workers. What differs is here:

* object storage has no rename: a file is written on this machine and then sent, and appears when all of it is there;
* it has no folders to lock or to map into memory: what a stage needs only while it works lies in `work_of` its result,
  on this machine (or, for several machines, where `HANMO_CACHE` says, on a file system that they share);
* a server may refuse or vanish: every such fault becomes one line.

Where servers and keys are is said as everywhere: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_PROFILE and so on.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from hanmo.errors import HanmoError
from hanmo.extras import need

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
#: What `hanmo.run` itself writes beside a result.
_RUNNER = ("stage.json", "manifest.json")
#: Bytes that are sent in one request; a longer file goes in parts, which the server joins when the last one is there.
_ONE_REQUEST = 16 << 20
#: Packages whose exceptions say that a server or the way to it is at fault.
CLIENTS = frozenset(("aiobotocore", "aiohttp", "botocore", "gcsfs", "s3fs"))


def is_url(text: str) -> bool:
    """Whether that names something elsewhere."""
    return bool(_URL.match(text))


def is_remote(path: Any) -> bool:
    """Whether that path (of `as_path`) is elsewhere."""
    return type(path).__module__.partition(".")[0] == "upath"


def as_path(where: str | Path) -> Path:
    """A path for a name or URL; one that is a path already stays.

    Raises:
        HanmoError: the URL's kind is not known, or its package is not installed.
    """
    if not isinstance(where, str) or not is_url(where):
        return Path(where) if isinstance(where, str) else where
    upath = need("upath", "s3")
    try:
        # What other processes write must be seen, so no listing is kept.
        path = upath.UPath(where, use_listings_cache=False)
        _ = path.fs
    except ImportError as error:
        extra = ': pip install "hanmo[s3]"' if where.startswith(("s3://", "http")) else ""
        raise HanmoError(f"{where}: {error}{extra}") from None
    except ValueError as error:
        raise HanmoError(f"{where}: no such kind of address ({error}); s3:// and https:// are") from None
    return cast(Path, path)


def describe(error: BaseException, where: str) -> str | None:
    """One line for a fault of a server or the way to it, else None."""
    said = " ".join(str(error).split())[:200]
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"{where}: not there ({said}): look at the bucket's and the object's name"
    if isinstance(error, PermissionError):
        return f"{where}: the server refuses it ({said}): these keys may not read or write there"
    if "Credential" in name or "ProfileNotFound" in name:
        return (
            f"{where}: no keys for it ({said}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE "
            "(and AWS_ENDPOINT_URL for a server that is not Amazon's)"
        )
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in CLIENTS:
        return (
            f"{where}: the server does not answer as it should ({name}: {said}): once it does, run the same command "
            "again (it goes on where it was)"
        )
    return None


@contextlib.contextmanager
def faults(path: Path) -> Iterator[None]:
    """Make one line of what goes wrong with a remote path in the block; nothing is changed for one of this machine."""
    try:
        yield
    except HanmoError:
        raise
    except Exception as error:
        line = describe(error, str(path)) if is_remote(path) else None
        if line is None:
            raise
        raise HanmoError(line) from None


class _Reader(io.RawIOBase):
    """A remote file, each fault of which is one line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with faults(path):
            self._file = path.open("rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        with faults(self._path):
            block = self._file.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_read(path: Path) -> IO[bytes]:
    """Open a file, of this machine or elsewhere, for reading its bytes as a stream.

    Raises:
        HanmoError: a remote one cannot be read, here or later.
        OSError: as `Path.open` does, for one of this machine.
    """
    return io.BufferedReader(_Reader(path), 1 << 20) if is_remote(path) else path.open("rb")


@contextlib.contextmanager
def sent(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which becomes `path` when the block ends well: until then, and else, `path` is as it was.

    Raises:
        HanmoError: the server refuses or vanishes.
    """
    # Without a name of its own, it is gone with the process even if that is killed.
    with tempfile.TemporaryFile(dir=cache_folder("outgoing")) as file:
        yield file
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with faults(path):
            system, name = cast(Any, path).fs, cast(Any, path).path
            if size <= _ONE_REQUEST:
                system.pipe_file(name, file.read())
                return
            target = system.open(name, "wb", block_size=_ONE_REQUEST)
            try:
                shutil.copyfileobj(file, target, _ONE_REQUEST)
            except BaseException:
                target.discard()
                target.closed = True  # else its finalizer would commit what was sent
                raise
            target.close()


def version_of(path: Path) -> list[Any]:
    """What tells that a file has changed: its size and the time of its change, or what the server calls its version."""
    if not is_remote(path):
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns]
    with faults(path):
        return _version(cast(Any, path).fs.info(cast(Any, path).path))


def _version(info: dict[str, Any]) -> list[Any]:
    # Some web servers do not say how long a file is.
    size = info.get("size")
    return [
        1 if size is None else size,
        str(next((info[key] for key in ("ETag", "LastModified", "mtime") if key in info), "")),
    ]


def files_below(path: Path) -> list[tuple[Path, str]]:
    """(path, name below `path`) of all files below a folder, by name."""
    with faults(path):
        if is_remote(path):
            root = cast(Any, path)
            base = root.path.rstrip("/") + "/"
            names = [name.removeprefix(base) for name in root.fs.find(root.path)]
            return [(path / name, name) for name in sorted(names) if name and not name.endswith("/")]
        return [(p, p.relative_to(path).as_posix()) for p in sorted(path.rglob("*")) if p.is_file()]


def versions_below(path: Path) -> dict[str, list[Any]]:
    """What `version_of` says of a remote file ("") or of all files below a remote folder, by name, at one request."""
    with faults(path):
        place = cast(Any, path)
        base = place.path.rstrip("/") + "/"
        found = place.fs.find(place.path, detail=True)
        return {"" if name == place.path else name.removeprefix(base): _version(found[name]) for name in sorted(found)}


def matching(path: Path) -> list[tuple[Path, str]]:
    """(path, name) of all remote files that a file's or a folder's URL or a pattern means, by name.

    Names are below the folder, or below the part before the pattern.
    """
    with faults(path):
        if not glob.has_magic(str(path)):
            return [(path, path.name)] if path.is_file() else files_below(path)
        place = cast(Any, path)
        parts = place.path.split("/")
        depth = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        base = "/".join(parts[:depth]) + "/"
        root = str(path)[: len(str(path)) - len(place.path.removeprefix(base))]
        names = [
            name.removeprefix(base)
            for name, info in sorted(place.fs.glob(place.path, detail=True).items())
            if info["type"] == "file"
        ]
        return [(as_path(root + name), name) for name in names]


def existing(paths: Sequence[Path]) -> set[Path]:
    """Those of the paths that are there; folders elsewhere are listed once."""
    found = {path for path in paths if not is_remote(path) and path.exists()}
    for folder in dict.fromkeys(path.parent for path in paths if is_remote(path)):
        found |= {path for path, _ in files_below(folder)}
    return found


def remove_tree(path: Path) -> None:
    """Remove a folder with all below it, if it is there."""
    if is_remote(path):
        with faults(path), contextlib.suppress(FileNotFoundError):
            cast(Any, path).fs.rm(cast(Any, path).path, recursive=True)
    elif path.exists():
        shutil.rmtree(path)


def home_of(out: Path) -> Path:
    """Where on this machine a result's stage may write: the result's own folder, or one that stands for it."""
    if not is_remote(out):
        return out
    mark = hashlib.sha256(str(out).rstrip("/").encode()).hexdigest()[:12]
    return cache_folder("results") / f"{out.name}-{mark}"


def work_of(out: Path) -> Path:
    """The folder of what a stage needs only while it works."""
    return home_of(out) / "work"


def brought(path: Path) -> Path:
    """A copy on this machine of a remote folder or file, fetched as far as it is not here already.

    Raises:
        HanmoError: it is not there, or the server refuses or vanishes.
    """
    if not is_remote(path):
        return path
    mark = hashlib.sha256(str(path).rstrip("/").encode()).hexdigest()[:12]
    place = cache_folder("copies") / mark / path.name
    found = versions_below(path)
    with faults(path):
        if not found:
            raise FileNotFoundError("nothing of that name")
    fetch(path, found, place)
    return place


def settle(out: Path, key: str) -> Path:
    """The folder on this machine in which a stage makes the result that is then published to `out`.

    It holds what an earlier try for the same key left here, else what was published.
    """
    place = home_of(out)
    if place == out:
        return out
    record = place.with_name(f"{place.name}.key.json")
    from hanmo.files import read_json, write_json

    if not record.is_file() or read_json(record) != key:
        remove_tree(place)
        fetch(out, {name: v for name, v in versions_below(out).items() if name not in _RUNNER}, place)
        write_json(record, key)
    place.mkdir(parents=True, exist_ok=True)
    return place


def fetch(path: Path, versions: dict[str, list[Any]], place: Path) -> None:
    """Make `place` a copy of these files (see `versions_below`); what is there and unchanged stays."""
    from hanmo.files import atomic_write, read_json, write_json

    record = place.with_name(f"{place.name}.copied.json")
    before = read_json(record) if record.is_file() else {}
    if place.is_dir():
        for here, name in files_below(place):
            if name not in versions:
                here.unlink()
    for name, version in versions.items():
        source_path, target = (path / name, place / name) if name else (path, place)
        if before.get(name) != version or not target.is_file():
            with open_read(source_path) as source, atomic_write(target, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
    write_json(record, versions)


def publish(folder: Path, out: Path) -> None:
    """Send all that a stage made in `folder` to `out`, and remove what is there beside it; hidden files and those of
    `hanmo.run` are nobody's result.
    """
    from hanmo.files import atomic_write

    names = set()
    for path, name in files_below(folder):
        if name in _RUNNER or name.startswith("work/") or any(part.startswith(".") for part in name.split("/")):
            continue
        names.add(name)
        with path.open("rb") as source, atomic_write(out / name, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    for path, name in files_below(out):
        if name not in names and name not in _RUNNER:
            with faults(path):
                path.unlink()


def cache_folder(part: str) -> Path:
    """A folder for what may be made again, in `HANMO_CACHE` or the user's own cache; it is made if need be."""
    root = os.environ.get("HANMO_CACHE")
    place = (Path(root) if root else Path.home() / ".cache" / "hanmo") / part
    place.mkdir(parents=True, exist_ok=True)
    return place
