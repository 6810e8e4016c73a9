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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from hanmo.errors import HanmoError
from hanmo.serve.engines.asking import LOOK, Server
from hanmo.serve.engines.base import EngineDown

_log = logging.getLogger("hanmo.serve")
#: Pauses before a dead program is started again: the first, and the longest, seconds.
_PAUSES = 0.5, 30.0
#: A program that lived so long died of something new, seconds.
_STEADY = 60.0


class ServerProcess(Server):
    """Keeps a server program alive.

    Args:
        name: what it is called in messages.
        command: port -> the command and its arguments.
        key_variable: the environment variable by which it takes its key.
        environment: more variables for it.
        patience: seconds it may take to be ready.

    Raises:
        HanmoError: it does not start; its own words are in the message.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        key_variable: str,
        environment: Mapping[str, str] | None = None,
        patience: float = 600.0,
    ) -> None:
        super().__init__(name)
        self._command, self._patience = command, patience
        self._key = secrets.token_urlsafe(32)
        self._environment = {**os.environ, **(environment or {}), key_variable: self._key}
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
        return f"http://127.0.0.1:{self._port}", self._key

    @property
    def ready(self) -> bool:
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
            raise HanmoError(f"{self.name} cannot be started ({error.strerror or error})") from None
        return process, log

    def _await(self) -> None:
        """Return when it is ready.

        Raises:
            HanmoError: it ended, or took too long.
        """
        end = time.monotonic() + self._patience
        while not self._closing.is_set():
            if self._process.poll() is not None:
                raise HanmoError(f"{self.name} ended while it was starting ({self._words()})")
            if time.monotonic() > end:
                raise HanmoError(f"{self.name} was not ready after {self._patience:g} s ({self._words()})")
            with contextlib.suppress(OSError, HanmoError):
                self.get("/health")
                self._ready.set()
                return
            self._closing.wait(LOOK)

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
            _log.warning("%s has ended (%s); it is started again", self.name, self._words())
            pause = _PAUSES[0] if time.monotonic() - began > _STEADY else min(2 * pause, _PAUSES[1])
            while not self._closing.wait(pause):
                self._end()
                with contextlib.suppress(HanmoError):
                    self._process, self._log = self._start()
                    self.restarts += 1
                    self._await()
                    break
                pause = min(2 * pause, _PAUSES[1])

    def _down(self) -> EngineDown:
        return EngineDown(f"{self.name} has ended unexpectedly and is being started again; try again in a moment")

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
        if self._closing.is_set():
            return
        self._closing.set()
        self._ready.clear()
        self._end()
        self._keeper.join()
