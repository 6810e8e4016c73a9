"""The process of a stage, as its runner holds it.

What a stage stands on (torch, transformers, TRL) takes a fresh interpreter seconds to import. Where it is safe, the
runner imports it and forks, so that of a recipe's stages only the first one waits, and a single command starts one
interpreter instead of two. Elsewhere every stage has an interpreter of its own.

A fork copies one thread. It is safe where no other holds a lock and no library keeps threads or a device open: in a
command's own process (a notebook's may have trained before), which computes nothing itself, on Linux (the frameworks of
macOS do not bear it), without an accelerator (one look at CUDA before the fork breaks it behind).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.metadata
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, NoReturn, Protocol

from hanmo import ranks
from hanmo.stage import StageKind

#: Present where there is an accelerator that torch may use: NVIDIA's, AMD's, any through Windows.
_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_state = {"ours": False}


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Inside, this process is a command's own: it has computed nothing and may be forked."""
    before, _state["ours"] = _state["ours"], True
    try:
        yield
    finally:
        _state["ours"] = before


def computing() -> None:
    """Say that this process is about to compute itself (a planner's rehearsal, say): it is not forked any more."""
    _state["ours"] = False


class StageProcess(Protocol):
    """A stage's process. It leads a process group of its own (POSIX) and holds a pipe to us on its stdin."""

    pid: int

    def wait(self, seconds: float) -> int | None:
        """Its exit status, that of a signal negative; None where it has not ended after so many seconds."""
        ...

    def send(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        ...

    def let_go(self) -> None:
        """Close the pipe: workers of the stage in sessions of their own end then."""
        ...


def start_stage(kind: StageKind, out: Path, environment: dict[str, str]) -> StageProcess:
    """Start the process that fills the stage's folder `out` as its `stage.json` says; its stdout is our stderr."""
    # Runners of several processes talk to each other all the time.
    if not _state["ours"] or ranks.grouped() or not forkable():
        return _Fresh(kind.process, out, environment)
    # What cannot be imported is the stage's own to tell.
    with contextlib.suppress(Exception):
        kind.load()
    module = importlib.import_module(kind.process)
    # Imports start threads in some libraries; a fork would leave their locks as they were.
    if threading.active_count() > 1:
        return _Fresh(kind.process, out, environment)
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # the collector leaves alone what both hold, and so its pages stay shared
    pid = os.fork()
    if pid == 0:
        _become(module, out, environment, reading)
    gc.unfreeze()
    os.close(reading)
    return _Forked(pid, writing)


def forkable() -> bool:
    """Whether this machine lets a process with torch in it be forked."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    return not any(Path(device).exists() for device in _DEVICES) and "+xpu" not in importlib.metadata.version("torch")


def _become(module: ModuleType, out: Path, environment: dict[str, str], reading: int) -> NoReturn:
    """In the fork: do what `python -m MODULE OUT` would, and end as it ends."""

    def act() -> int:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(reading, 0)
        os.dup2(2, 1)
        # The runner's locks and pipes would live on with us.
        for path in list(Path("/proc/self/fd").iterdir()):
            if int(path.name) > 2:
                with contextlib.suppress(OSError):
                    os.close(int(path.name))
        os.environ.clear()
        os.environ.update(environment)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.argv = [str(module.__file__), str(out)]
        # Workers that are spawned look here for what to import.
        sys.modules["__main__"] = module
        return module.main(out)

    leave(act)


def leave(act: Callable[[], int]) -> NoReturn:
    """In a fork: do the rest, and end as an interpreter of its own would, with nothing of what called us undone."""
    status = 1
    try:
        status = act()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class _Fresh:
    """An interpreter of its own."""

    def __init__(self, module: str, out: Path, environment: dict[str, str]) -> None:
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", module, str(out)],
            stdin=subprocess.PIPE,
            stdout=2,
            start_new_session=os.name == "posix",
            env=environment,
        )
        self.pid = self._process.pid

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def let_go(self) -> None:
        stdin: IO[bytes] | None = self._process.stdin
        if stdin:
            stdin.close()


class _Forked:
    """A fork of this process."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid, self._pipe = pid, pipe
        self._end = os.pidfd_open(pid)
        self._status: int | None = None

    def wait(self, seconds: float) -> int | None:
        if self._status is None and select.select([self._end], [], [], seconds)[0]:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._end)
        return self._status

    def send(self, number: int) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._end, number)

    def let_go(self) -> None:
        os.close(self._pipe)
