"""Asking a server program over HTTP, so that leaving hangs up, by which it knows that nobody wants the rest."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import h11
import orjson

from hanmo.errors import HanmoError
from hanmo.serve.engines.base import EngineDown
from hanmo.serve.sampling import Sampling, SamplingError

#: Between two looks at whether a client has left or the program has ended, seconds.
LOOK = 0.05
#: Seconds that a connection, and the answer to a GET, may take.
_CONNECT, _GET = 5, 10


class Refused(HanmoError):
    """The program answered with an error status; `reason` has its words."""

    def __init__(self, name: str, status: int, reason: str) -> None:
        super().__init__(f"{name} refuses the request ({status}: {reason})")
        self.status, self.reason = status, reason


class Server(ABC):
    """A server program that may be asked.

    Args:
        name: what it is called in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def address(self) -> tuple[str, str]:
        """Its URL at the moment, and the key that it wants."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether it is there and has loaded its model."""

    @abstractmethod
    def _down(self) -> EngineDown:
        """What is raised when it is not."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; more than once does no harm."""

    def ask(self, path: str, body: Any, cancel: threading.Event) -> Generator[bytes]:
        """POST `body` as JSON and yield the answer's bytes as they come; ends early when `cancel` is set.

        Raises:
            EngineDown: it is not there, or ended meanwhile.
            Refused: it answered with an error.
        """
        if not self.ready:
            raise self._down()
        try:
            yield from self._exchange("POST", path, orjson.dumps(body), cancel)
        except OSError:
            raise self._down() from None

    def get(self, path: str) -> bytes:
        """What it answers to a GET.

        Raises:
            OSError: it is not there, or says nothing.
            EngineDown, Refused: as for `ask`.
        """
        late = threading.Event()
        timer = threading.Timer(_GET, late.set)
        timer.daemon = True
        timer.start()
        try:
            answer = b"".join(self._exchange("GET", path, b"", late))
        finally:
            timer.cancel()
        if late.is_set():
            raise TimeoutError
        return answer

    def _exchange(self, method: str, path: str, body: bytes, cancel: threading.Event) -> Generator[bytes]:
        url, key = self.address
        place = urlsplit(url)
        http = h11.Connection(h11.CLIENT)
        request = h11.Request(
            method=method,
            target=place.path.rstrip("/") + path,
            headers=[
                ("host", place.netloc),
                *([("authorization", f"Bearer {key}")] if key else []),
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ],
        )
        with _connected(place.scheme, place.hostname or "", place.port) as line:
            line.sendall(b"".join(filter(None, map(http.send, (request, h11.Data(data=body), h11.EndOfMessage())))))
            line.settimeout(LOOK)
            status, wrong = 200, b""
            while not cancel.is_set():
                try:
                    event = http.next_event()
                except h11.RemoteProtocolError:  # the line broke in the middle of an answer
                    raise self._down() from None
                if event is h11.NEED_DATA:
                    with contextlib.suppress(TimeoutError):
                        http.receive_data(line.recv(1 << 16))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    if status == 200:
                        yield bytes(event.data)
                    else:
                        wrong += event.data
                elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                    break
        if status != 200 and not cancel.is_set():
            raise Refused(self.name, status, _complaint(wrong))


@contextlib.contextmanager
def _connected(scheme: str, host: str, port: int | None) -> Iterator[socket.socket]:
    secret = scheme == "https"
    with socket.create_connection((host, port or (443 if secret else 80)), timeout=_CONNECT) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not secret:
            yield line
            return
        with ssl.create_default_context().wrap_socket(line, server_hostname=host) as wrapped:
            yield wrapped


def events(answer: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(kind, value) of the lines of an event stream, without empty ones and comments that keep the line alive."""
    kept = b""
    for data in answer:
        *lines, kept = (kept + data).split(b"\n")
        for line in lines:
            kind, _, value = line.rstrip(b"\r").partition(b": ")
            if kind and value:
                yield kind, value


def complaint_about(sampling: Sampling, error: Refused, who: str) -> HanmoError:
    """`error`; that a schema or grammar was refused is the client's to mend."""
    if error.status == 400 and sampling.bound:
        field = "grammar" if sampling.grammar is not None else "response_format"
        return SamplingError(field, f"{who} cannot use it ({error.reason})")
    return error


def _complaint(body: bytes) -> str:
    try:
        error = orjson.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = body.decode("utf-8", "replace")
    return " ".join(str(text).split())[:500] or "no reason given"
