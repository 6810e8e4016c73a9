"""Runs a command and ends it when whoever started this is gone: the pipe on stdin then closes.

    python leash.py COMMAND ARGUMENT ...

A file that is run by its path and imports nothing of ours, so that it starts in no time and stays small.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

#: Seconds the command has to end by itself.
_GRACE = 5


def main(command: list[str]) -> int:
    """Run `command`; its exit status, or 128 and the signal that ended it."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def watch() -> None:
        # Straight from the descriptor: a reader of sys.stdin would hold its lock when the interpreter ends.
        while os.read(0, 4096):
            pass
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)
        child.kill()

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
