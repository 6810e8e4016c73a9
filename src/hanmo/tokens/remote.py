"""Token shards at a URL (s3://…, any fsspec file system), trained from without a copy of them all.

What is small comes at once: tokens.json, the tokenizer and the held-out split. Shards of the training split are fetched
when the order of rows comes to them, the next ones beforehand on threads, and removed when it has left them and the
room is needed. Every file is held against the size and hash that tokens.json has of it.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.files import read_json
from hanmo.tokens.order import WINDOW
from hanmo.tokens.shards import PINYIN, TRAINING, Shard, Split

#: Seconds to wait before another try, when the network failed.
WAITS = (1.0, 2.0, 4.0, 8.0)
_THREADS = 4


class RemoteFolder:
    """Fetches files of a folder at `url` into a folder here."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url.rstrip("/"), folder
        fsspec = need("fsspec", "s3")
        try:
            self._fs, self._root = fsspec.url_to_fs(self.url)
        except ImportError as error:
            raise HanmoError(f'{url}: {error}; pip install "hanmo[s3]"') from None
        except ValueError as error:
            raise HanmoError(f"{url}: no address that can be read ({error})") from None
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopped.set()

    def fetch(self, name: str, known: list[Any] | None = None) -> None:
        """Fetch one file, if it is not there; `known` are its size and hash."""
        path = self.folder / name
        if known and path.is_file() and _facts(path) == known:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")

        def get() -> None:
            try:
                self._fs.get_file(f"{self._root}/{name}", str(temporary))
                found = _facts(temporary) if known else None
                if found != known:
                    raise _Differs(f"{self.url}/{name}: not what tokens.json says of it ({found}, not {known})")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

        try:
            self._try(get)
        except _Differs as error:
            raise HanmoError(f"{error}; copy the folder there once more") from None

    def _try(self, action: Callable[..., Any], *given: Any) -> Any:
        """Do something with the network, several times if need be."""
        for wait in (*WAITS, None):
            try:
                return action(*given)
            except FileNotFoundError as error:
                raise HanmoError(f"{self.url}: no such file there ({error}); give a folder of `hanmo tokens`") from None
            except PermissionError as error:
                raise HanmoError(f"{self.url}: no permission ({error}); check the credentials") from None
            except OSError as error:
                if error.errno is not None and error.filename is not None:
                    raise  # a fault of the disk here
                last: Exception = error
            except Exception as error:  # every file system has exceptions of its own for a network that fails
                last = error
            if wait is None or self._stopped.is_set():
                break
            console.print(f"{self.url}: {_line(last)}; trying again", markup=False, soft_wrap=True)
            self._stopped.wait(wait)
        if isinstance(last, _Differs):
            raise last
        raise HanmoError(
            f"{self.url}: cannot be read, {len(WAITS) + 1} tries failed ({_line(last)}); see to the network, the same "
            "command goes on"
        )


class RemoteTokens(RemoteFolder):
    """A tokens folder at a URL, with as much of it as is needed in a folder here. To be closed (it is a context).

    Args:
        url: of the folder.
        folder: for what is fetched; what a killed run left there is used again.
        room: bytes that training shards may take there.

    Raises:
        HanmoError: here or when rows are read: no tokens there, a file that is not what tokens.json says, or a network
            that stays away.
    """

    def __init__(self, url: str, folder: Path, room: int) -> None:
        super().__init__(url, folder)
        self._room = room
        self._lock = threading.RLock()
        self._files: dict[str, dict[str, list[Any]]] = {}
        self._coming: dict[str, Future[None]] = {}
        self._now: dict[str, list[str]] = {}
        self._next: dict[str, list[str]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.rglob(".*.tmp"):
            torn.unlink()
        self.fetch("tokens.json")
        self.info = read_json(folder / "tokens.json")
        if "shards" not in self.info:
            raise HanmoError(f"{self.url}/tokens.json does not list the shards; make it anew with `hanmo tokens`")
        for path in self._try(self._fs.find, f"{self._root}/tokenizer"):
            self.fetch("tokenizer/" + path.rpartition("/")[2])
        for facts in self.info["shards"]["heldout"]:
            for suffix, known in facts["files"].items():
                self.fetch(f"heldout/{facts['name']}{suffix}", known)
        (folder / "train").mkdir(exist_ok=True)
        self._left = {path.name[:-3] for path in (folder / "train").glob("*.ds")}
        self._pool = ThreadPoolExecutor(_THREADS, "shards")
        self.train = Split(list(map(self._shard, self.info["shards"]["train"])), self.info["sources"])
        self._shards = dict(zip(self._files, self.train.shards, strict=True))

    def __exit__(self, *_: Any) -> None:
        super().__exit__()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def remove(self) -> None:
        """Delete the folder here."""
        for shard in self.train.shards:
            shard.forget()
        shutil.rmtree(self.folder, ignore_errors=True)

    def check_room(self, streams: int) -> None:
        """See that there is room for the shards that so many streams read at a time.

        Raises:
            HanmoError: it is less.
        """
        sizes = sorted(map(self._size, self._files))
        least = min(sum(sizes), streams * sum(sizes[-WINDOW:]))
        if self._room < least:
            raise HanmoError(
                f"shard_cache_gb: {self._room / 1e9:.3g} is less than the {least / 1e9:.3g} of the shards read at "
                "a time; give at least that, better twice as much"
            )

    def announce(self, stream: str, now: Sequence[Shard], after: Sequence[Shard]) -> None:
        """Begin to fetch the shards that a stream reads now and, as far as there is room, those it reads next."""
        with self._lock:
            self._now[stream] = [shard.path.stem for shard in now]
            self._next[stream] = [shard.path.stem for shard in after]
            for name in self._now[stream]:
                self._begin(name)
            for name in self._next[stream]:
                if name not in self._coming and not self._make_room(self._size(name), self._next):
                    break
                self._begin(name)

    def _shard(self, facts: dict[str, Any]) -> Shard:
        name = facts["name"]
        self._files[name] = {s: known for s, known in facts["files"].items() if s in (*TRAINING, PINYIN)}
        path = self.folder / "train" / f"{name}.ds"
        return Shard(path, np.dtype(self.info["dtype"]), facts, lambda: self._begin(name).result())

    def _size(self, name: str) -> int:
        return sum(size for size, _ in self._files[name].values())

    def _begin(self, name: str) -> Future[None]:
        with self._lock:
            if name not in self._coming:
                self._left.discard(name)
                self._make_room(self._size(name), {})
                self._coming[name] = self._pool.submit(self._bring, name)
            return self._coming[name]

    def _make_room(self, size: int, spared: dict[str, list[str]]) -> bool:
        """Remove shards that no stream reads now, nor those in `spared`, until `size` bytes are free."""
        kept = {name for names in (*self._now.values(), *spared.values()) for name in names}
        gone = [*sorted(self._left & self._files.keys()), *(name for name, f in self._coming.items() if f.done())]
        here = self._left | self._coming.keys()
        used = sum(self._size(name) for name in here if name in self._files)
        for name in gone:
            if used + size <= self._room:
                break
            if name not in kept:
                self._left.discard(name)
                self._coming.pop(name, None)
                self._shards[name].forget()
                for suffix in self._files[name]:
                    with contextlib.suppress(OSError):  # Windows keeps what is still mapped somewhere
                        (self.folder / "train" / f"{name}{suffix}").unlink(missing_ok=True)
                used -= self._size(name)
        return used + size <= self._room

    def _bring(self, name: str) -> None:
        for suffix, known in self._files[name].items():
            self.fetch(f"train/{name}{suffix}", known)


class _Differs(Exception):
    """A file came otherwise than it was written."""


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def _facts(path: Path) -> list[Any]:
    """[size, hash] of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return [path.stat().st_size, digest.hexdigest()]
