"""The bytes of a file that lies on a hub: streamed where it is read from its start, in parts where a reader seeks.

A connection that breaks is taken up again where it broke (HTTP `Range`), so that a file of many gigabytes survives a
poor line; after `ATTEMPTS` tries without a single new byte the file is a `FileFault`, which the corpus stage counts or
stops at like any other file that cannot be read to its end. Nothing is kept on disk unless `cache` is asked for.

The client is our own over httpx, and not `huggingface_hub.HfFileSystem`, for three reasons found in its source
(`HfFileSystemStreamFile`, version 2.4): it takes up a torn connection only once, it appends the whole file again where
a mirror ignores `Range`, and it knows one hub. Blocks of a file that is read in parts are held by fsspec's cache.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import httpx

from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError

Kind = Literal["hf", "ms"]
#: Tries without a new byte before a file is given up, and the seconds before the second one (doubled for each further).
ATTEMPTS = 6
WAIT = 1.0
#: A server may ask by Retry-After for a longer wait than ours; it is granted up to so many seconds.
LONGEST_WAIT = 120.0
TIMEOUT = httpx.Timeout(60, connect=15)
#: Bytes of one part, and how many parts are held, where a file is not read from start to end (Parquet).
BLOCK = 4 << 20
BLOCKS = 8
#: What a connection that breaks, and a server that is busy, look like; both are worth another try.
_BROKEN = (httpx.TransportError, httpx.StreamError)
_BUSY = frozenset((408, 429, 500, 502, 503, 504))
#: The reason of files whose connection could not be taken up again.
TORN = "torn_download"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a fixed revision. It has the part of `pathlib.Path` that readers of files use."""

    kind: Kind
    url: str
    address: str  # how it is called to the user
    path: str  # in the repository
    size: int  # bytes
    revision: str
    changed: int = 0  # seconds since 1970 of its last commit, where the hub says
    cache: Path | None = None  # where its bytes are kept, if they are

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    @property
    def folder(self) -> Path:
        """The folder in the repository."""
        return Path(self.kind, PurePosixPath(self.path).parent)

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    def is_file(self) -> bool:
        return True

    def stat(self) -> os.stat_result:
        """Size and time as a local file has them, for plans that notice a changed file."""
        return os.stat_result((0o100444, 0, 0, 0, 0, 0, self.size, self.changed, self.changed, self.changed))

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open for reading bytes.

        Raises (here or while reading):
            FileFault: the file is not there, access is refused, or the connection breaks for good.
        """
        if mode != "rb":
            raise ValueError(f"a file on a hub is only read ('rb'), not '{mode}'")
        if self.cache is not None:
            return self.kept().open("rb")
        return _Reader(self)  # type: ignore[return-value]

    def kept(self) -> Path:
        """The file's copy on disk, fetched on the first use; processes that want the same one wait for each other.

        Raises:
            HanmoError: no copy was asked for.
        """
        from filelock import FileLock

        from hanmo.files import atomic_write

        if self.cache is None:
            raise HanmoError(f"{self}: an archive on a hub is read from a copy on disk: set cache: true")
        if not self.cache.is_file() or self.cache.stat().st_size != self.size:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.cache}.lock"):
                if not self.cache.is_file() or self.cache.stat().st_size != self.size:
                    with _Reader(self) as source, atomic_write(self.cache, "wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)  # type: ignore[arg-type]
            Path(f"{self.cache}.lock").unlink(missing_ok=True)
        return self.cache


def headers_of(kind: Kind) -> dict[str, str]:
    """What a hub is told with every request: who asks, and the user's token where there is one.

    Bodies are asked for as they are, since positions in a compressed body would not be positions in the file.
    """
    headers = {"accept-encoding": "identity", "user-agent": "hanmo"}
    if kind == "hf":
        from huggingface_hub import get_token

        if token := get_token():
            headers["authorization"] = f"Bearer {token}"
    elif token := os.environ.get("MODELSCOPE_API_TOKEN"):
        headers["cookie"] = f"m_session_id={token}"  # as ModelScope's own client sends it
    return headers


def client(kind: Kind) -> httpx.Client:
    """An HTTP client for one hub; it leaves the token behind where it is sent on to another host."""
    if kind == "hf" and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise HanmoError("HF_HUB_OFFLINE is set, so nothing is fetched from a hub: unset it, or name local files")
    return httpx.Client(headers=headers_of(kind), follow_redirects=True, timeout=TIMEOUT, verify=_certificates())


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes longer than to fetch a small file."""
    return httpx.create_ssl_context()


def wait_for(attempt: int, response: httpx.Response | None) -> None:
    """Sleep before try number `attempt` + 1: doubling, or as long as the server asks for."""
    asked = response.headers.get("retry-after", "") if response is not None else ""
    seconds = float(asked) if asked.isdigit() else WAIT * 2 ** (attempt - 1)
    time.sleep(min(seconds, LONGEST_WAIT))


def again(what: Callable[[], httpx.Response]) -> httpx.Response:
    """The response of a request, tried again while the hub is busy or cannot be reached.

    Raises:
        httpx.TransportError: it cannot be reached, with the last try's cause.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            response = what()
        except _BROKEN:
            # A name that is not known or a port where nobody listens will not change within seconds.
            if attempt >= 3:
                raise
            response = None
        if response is not None and response.status_code not in _BUSY:
            return response
        wait_for(attempt, response)
    return what()


def cause_of(error: Exception) -> str:
    """A transport's error in a few words."""
    return " ".join(str(error).split()) or type(error).__name__


class _Reader(io.RawIOBase):
    """Reads forward as one response; from the first seek to another place on, by parts with some of them held."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self._client = client(file.kind)
        self._position = 0
        self._tag = ""
        self._fault: FileFault | None = None
        self._open = contextlib.ExitStack()
        self._body: Iterator[bytes] | None = None
        self._rest = memoryview(b"")
        self._blocks: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        target = max(0, start + offset)
        if target != self._position and self._blocks is None:
            from fsspec.caching import BlockCache

            self._drop()
            self._blocks = BlockCache(BLOCK, self._part, self._file.size, BLOCKS)
        self._position = target
        return target

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer but at the file's end. What was read before a fault is given first."""
        if self._fault:
            raise self._fault
        view = memoryview(buffer).cast("B")
        done = 0
        try:
            if self._blocks is not None:
                data = self._blocks._fetch(self._position, min(self._position + len(view), self._file.size))
                view[: len(data)] = data
                done = len(data)
                self._position += done
            else:
                while done < len(view) and (piece := self._next(len(view) - done)):
                    view[done : done + len(piece)] = piece
                    done += len(piece)
        except FileFault as fault:
            if not done:
                raise
            self._fault = fault
        return done

    def close(self) -> None:
        if not self.closed:
            self._drop()
            self._blocks = None
            self._client.close()
        super().close()

    def _drop(self) -> None:
        self._body, self._rest = None, memoryview(b"")
        self._open.close()

    def _next(self, most: int) -> memoryview:
        """The next bytes of the stream, at least one and at most `most`; none at the file's end."""
        attempt = 0
        while not self._rest:
            if self._position >= self._file.size:
                return self._rest
            response = None
            try:
                if self._body is None:
                    response = self._ask(f"bytes={self._position}-" if self._position else None)
                    if response.status_code in _BUSY:
                        raise httpx.TransportError(f"status {response.status_code}")
                    self._body = self._from_here(response)
                self._rest = memoryview(next(self._body, b""))
                if not self._rest:
                    raise httpx.TransportError("the server ended the file too early")
            except _BROKEN as error:
                self._drop()
                attempt += 1
                if attempt == ATTEMPTS:
                    raise self._torn(error) from None
                wait_for(attempt, response)
        piece, self._rest = self._rest[:most], self._rest[most:]
        self._position += len(piece)
        if self._position > self._file.size:
            raise FileFault(TORN, f"the hub sent more than the {self._file.size:,} bytes that it lists; run it again")
        return piece

    def _part(self, start: int, end: int) -> bytes:
        """Bytes `start` to `end` (exclusive), or to the file's end."""
        end = min(end, self._file.size)
        for attempt in range(1, ATTEMPTS + 1):
            response = None
            try:
                response = self._ask(f"bytes={start}-{end - 1}")
                if response.status_code in _BUSY:
                    raise httpx.TransportError(f"status {response.status_code}")
                if response.status_code == 200 and (start or end < self._file.size):
                    raise FileFault(
                        "no_ranges", "this server gives no parts of a file, which this format needs; set cache: true"
                    )
                data = response.read()
                if len(data) != end - start:
                    raise httpx.TransportError(f"{len(data)} bytes came instead of {end - start}")
                return data
            except _BROKEN as error:
                if attempt == ATTEMPTS:
                    self._position = start
                    raise self._torn(error) from None
                wait_for(attempt, response)
            finally:
                self._open.close()
        raise AssertionError("not reached")

    def _ask(self, part: str | None) -> httpx.Response:
        response = self._open.enter_context(
            self._client.stream("GET", self._file.url, headers={"range": part} if part else {})
        )
        status = response.status_code
        if status in (401, 403):
            raise FileFault("no_access", f"the hub refuses access ({status}): {how_to_enter(self._file.kind)}")
        if status >= 400 and status not in _BUSY:
            raise FileFault("not_there", f"the hub answers {status} for this file")
        # The same file must come again after a break. Hugging Face serves a commit, which cannot change (while a
        # mirror's servers may well tag it differently); ModelScope serves a branch. A weak tag or none says nothing.
        tag = response.headers.get("etag", "")
        if self._file.kind == "ms" and status < 400 and tag and not tag.startswith("W/"):
            if self._tag and tag != self._tag:
                raise FileFault("changed", "the file changed on the hub while it was read; run it again")
            self._tag = tag
        return response

    def _from_here(self, response: httpx.Response) -> Iterator[bytes]:
        """The body from our position on; a server that ignores `Range` sends what we have once more."""
        skip = self._position if response.status_code == 200 else 0
        for piece in response.iter_raw():
            if len(piece) > skip:
                yield piece[skip:]
            skip = max(0, skip - len(piece))

    def _torn(self, error: Exception) -> FileFault:
        return FileFault(
            TORN,
            f"the connection broke at byte {self._position:,} of {self._file.size:,} and {ATTEMPTS} tries brought "
            f"nothing more ({cause_of(error)}); run it again later, or set `hub:` to a mirror",
        )


def how_to_enter(kind: Kind) -> str:
    """What gives access to a repository that is not open."""
    if kind == "ms":
        return "set MODELSCOPE_API_TOKEN to your token (modelscope.cn/my/myaccesstoken), after agreeing to its terms"
    return "agree to its terms on its page, then set HF_TOKEN to your token (or run `hf auth login`)"
