"""A server program as a child of ours: started, asked over loopback, started again when it dies, ended with us.

It listens on a free port of loopback and wants a key that only we know, since other users of the machine could reach
the port, too. It runs behind `leash.py`, so that it never outlives us, and in a session of its own, so that Ctrl-C in
the terminal does not end it before the answers that it is giving.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, Any

import h11
import orjson

from hanmo.errors import HanmoError
from hanmo.serve.engines.base import EngineDown

_log = logging.getLogger("hanmo.serve")
#: Between two looks at whether a client has left or the program has ended, seconds.
_LOOK = 0.05
#: Pauses before a dead program is started again: the first, and the longest, seconds.
_PAUSES = 0.5, 30.0
#: A program that lived so long died of something new, seconds.
_STEADY = 60.0


class Refused(HanmoError):
    """The program answered with an error status; `reason` has its words."""

    def __init__(self, name: str, status: int, reason: str) -> None:
        super().__init__(f"{name} refuses the request ({status}: {reason})")
        self.status, self.reason = status, reason


class ServerProcess:
    """Keeps a server program alive.

    Args:
        name: what it is called in messages.
        command: port -> the command and its arguments.
        key_variable: the environment variable by which it takes its key.
        patience: seconds it may take to be ready.

    Raises:
        HanmoError: it does not start; its own words are in the message.
    """

    def __init__(
        self, name: str, command: Callable[[int], Sequence[str]], *, key_variable: str, patience: float = 600.0
    ) -> None:
        self._name, self._command, self._patience = name, command, patience
        self._key = secrets.token_urlsafe(32)
        self._environment = {**os.environ, key_variable: self._key}
        self._closing = threading.Event()
        self._ready = threading.Event()
        self.restarts = 0
        self._process, self._log = self._start()
        try:
            self._await()
        except BaseException:
            self._end()
            raise
        self._keeper = threading.Thread(target=self._keep, name=f"keeper of {name}", daemon=True)
        self._keeper.start()

    @property
    def address(self) -> tuple[str, str]:
        """Its URL at the moment, and the key that it wants."""
        return f"http://127.0.0.1:{self._port}", self._key

    @property
    def ready(self) -> bool:
        """Whether it is there and has loaded its model."""
        return self._ready.is_set()

    def _start(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        leash = [sys.executable, "-S", "-E", str(Path(__file__).with_name("leash.py"))]
        try:
            process = subprocess.Popen(
                [*leash, *self._command(self._port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            log.close()
            raise HanmoError(f"{self._name} cannot be started ({error.strerror or error})") from None
        return process, log

    def _await(self) -> None:
        """Return when it is ready.

        Raises:
            HanmoError: it ended, or took too long.
        """
        end = time.monotonic() + self._patience
        while not self._closing.is_set():
            if self._process.poll() is not None:
                raise HanmoError(f"{self._name} ended while it was starting ({self._words()})")
            if time.monotonic() > end:
                raise HanmoError(f"{self._name} was not ready after {self._patience:g} s ({self._words()})")
            with contextlib.suppress(OSError, HanmoError):
                list(self._ask("GET", "/health", b"", threading.Event()))
                self._ready.set()
                return
            self._closing.wait(_LOOK)

    def _words(self) -> str:
        """What it said last, in one line."""
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        wrong = [line for line in lines if "error" in line.lower() or "failed" in line.lower()] or lines[-1:]
        return " ".join(wrong[0].split())[:300] if wrong else f"status {self._process.poll()}"

    def _keep(self) -> None:
        pause = _PAUSES[0]
        while True:
            began = time.monotonic()
            self._process.wait()
            self._ready.clear()
            if self._closing.is_set():
                return
            _log.warning("%s has ended (%s); it is started again", self._name, self._words())
            pause = _PAUSES[0] if time.monotonic() - began > _STEADY else min(2 * pause, _PAUSES[1])
            while not self._closing.wait(pause):
                self._end()
                with contextlib.suppress(HanmoError):
                    self._process, self._log = self._start()
                    self.restarts += 1
                    self._await()
                    break
                pause = min(2 * pause, _PAUSES[1])

    def ask(self, path: str, body: Any, cancel: threading.Event) -> Generator[bytes]:
        """POST `body` as JSON and yield the answer's bytes as they come; ends early when `cancel` is set.

        Leaving the iterator hangs up, by which the program knows that nobody wants the rest.

        Raises:
            EngineDown: it is not there, or ended meanwhile.
            Refused: it answered with an error.
        """
        if not self.ready:
            raise self._down()
        try:
            yield from self._ask("POST", path, orjson.dumps(body), cancel)
        except OSError:
            raise self._down() from None

    def _down(self) -> EngineDown:
        return EngineDown(f"{self._name} has ended unexpectedly and is being started again; try again in a moment")

    def _ask(self, method: str, path: str, body: bytes, cancel: threading.Event) -> Generator[bytes]:
        http = h11.Connection(h11.CLIENT)
        request = h11.Request(
            method=method,
            target=path,
            headers=[
                ("host", "localhost"),
                ("authorization", f"Bearer {self._key}"),
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ],
        )
        with socket.create_connection(("127.0.0.1", self._port), timeout=5) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.sendall(b"".join(filter(None, map(http.send, (request, h11.Data(data=body), h11.EndOfMessage())))))
            line.settimeout(_LOOK)
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
            raise Refused(self._name, status, _complaint(wrong))

    def _end(self) -> None:
        """End the program and free what belongs to it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # the leash lets go
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def close(self) -> None:
        """End the program; more than once does no harm."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._ready.clear()
        self._end()
        self._keeper.join()


def _complaint(body: bytes) -> str:
    try:
        error = orjson.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = body.decode("utf-8", "replace")
    return " ".join(str(text).split())[:500] or "no reason given"
