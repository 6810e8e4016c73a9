"""Parsers that a hostile or broken file could hang or crash run in a process of their own, with a time and a memory.

A page of nested tables or a PDF made to be slow holds libxml2 or PDFium for hours, and no exception can be raised in
the middle of C code. So `guarded` hands the work to a child that stays for the next call, and that is killed and
replaced when it takes too long or dies; what it was working on is then one counted document.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from typing import IO, Any

#: Memory that the child may map (bytes). A page or a book in work takes less than a tenth.
_MEMORY = 3 << 30


class GuardFault(Exception):
    """The work was not done: `reason` is "timeout", "crashed" or "unparsable"."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


_child: subprocess.Popen[bytes] | None = None


def guarded(function: str, *arguments: Any, seconds: float) -> Any:
    """Call a function of `hanmo.corpus.readers.extract` in the child.

    Raises:
        GuardFault: it took longer than `seconds`, its process died, or it raised.
    """
    global _child
    if _child is None or _child.poll() is not None:
        _child = subprocess.Popen(
            [sys.executable, "-m", "hanmo.corpus.readers.guard"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    child = _child
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        _send(child.stdin, (function, arguments, seconds))
        done, value = _receive(child.stdout)
    except (EOFError, OSError):
        _end(child)
        _child = None
        if late.is_set():
            raise GuardFault("timeout", f"taking its text out took longer than {seconds:g} s") from None
        raise GuardFault("crashed", f"taking its text out ended in a crash (exit {child.returncode})") from None
    finally:
        timer.cancel()
        timer.join()
    if not done:
        raise GuardFault("unparsable", value)
    return value


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(1)  # it is dying already, nearly always, and its own exit status tells why
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _send(pipe: IO[bytes] | None, value: Any) -> None:
    assert pipe is not None
    data = pickle.dumps(value)
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> Any:
    assert pipe is not None
    head = pipe.read(8)
    size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    data = pipe.read(size)
    if not size or len(data) < size:
        raise EOFError
    return pickle.loads(data)


def _serve() -> None:
    """The child: answer calls until the pipe closes."""
    # Results go where stdout was; what libraries print must not get among them.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    _bound_memory()
    from hanmo.corpus.readers import extract

    while True:
        try:
            function, arguments, seconds = _receive(sys.stdin.buffer)
        except (EOFError, OSError):
            return
        # Its own end, should the parent be killed while C code hangs: the default action of the signal.
        _alarm(2 * seconds)
        try:
            answer = (True, getattr(extract, function)(*arguments))
        except extract.Unreadable as error:
            answer = (True, error)
        except MemoryError:
            answer = (False, "taking its text out needs too much memory")
        except Exception as error:
            answer = (False, f"its text cannot be taken out ({type(error).__name__}: {' '.join(str(error).split())})")
        _alarm(0)
        _send(answers, answer)


def _bound_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # no such limit on this system: the time limit remains


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    _serve()
