"""A warm `hanmo` for tests with many commands: each would import for seconds what the one before has imported.

    python nest.py FOLDER

puts the programs `hanmo` and `python` into FOLDER/bin and then, for each call of them, forks an interpreter that has
imported all stages: it does what the real one does, with the caller's arguments, folder and streams. A call whose
environment is not the nest's own (libraries read variables when they are imported), or of another module than those of
`hanmo` and its stages, starts the real program instead. Linux only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shown import environment

#: What `python -m` is asked for here.
MODULES = ("hanmo", "hanmo.child", "hanmo.pretrain.launch")
#: Variables that differ from shell to shell; no library reads them when it is imported.
SHELL = {"_", "OLDPWD", "PATH", "PWD", "PYTEST_CURRENT_TEST", "SHLVL"}
CALLER = """\
#!{python} -IS
import json, os, socket, sys
nest = socket.socket(socket.AF_UNIX)
nest.connect({address!r})
asked = json.dumps([{before!r} + sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(nest, [len(asked).to_bytes(8, "big")], [0, 1, 2])
nest.sendall(asked)
answer = nest.recv(8)
if answer == b"not me":
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
sys.exit(int(answer or 137))
"""


@contextlib.contextmanager
def warm(folder: Path) -> Iterator[Path]:
    """Inside, the folder that is yielded holds the warm programs."""
    words = [sys.executable, str(Path(__file__).resolve()), str(folder)]
    nest = subprocess.Popen(words, env=environment(), stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "bin" / "hanmo").exists():
            assert nest.poll() is None and time.monotonic() < deadline, "the nest does not start"
            time.sleep(0.05)
        yield folder / "bin"
    finally:
        nest.stdin.close()  # it ends what it has forked, and itself
        nest.wait(30)


@contextlib.contextmanager
def warm_interpreter(programs: Path | None) -> Iterator[None]:
    """Inside, `[sys.executable, "-m", "hanmo", …]` and the stages that this process runs start warm."""
    if programs is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        patch.setattr(sys, "executable", str(programs / "python"))
        yield


def main(folder: Path) -> None:
    # Before imports: some libraries set variables of their own.
    given = {name: value for name, value in os.environ.items() if name not in SHELL}
    from hanmo.stages import KINDS

    for module in MODULES:
        importlib.import_module("hanmo.cli" if module == "hanmo" else module)
    for kind in KINDS.values():
        kind.load()
    with socket.socket(socket.AF_UNIX) as door:
        address = str(folder / "door")
        door.bind(address)
        door.listen()
        (folder / "new").mkdir()
        for name, before in (("hanmo", ["-m", "hanmo"]), ("python", [])):
            program, real = folder / "new" / name, str(Path(sys.executable).parent / name)
            code = CALLER.format(python=sys.executable, address=address, before=before, real=real)
            program.write_text(code, encoding="utf-8")
            program.chmod(0o755)
        (folder / "new").rename(folder / "bin")
        answer(door, given)


def answer(door: socket.socket, given: dict[str, str]) -> None:
    """Fork for each call, tell its caller how it ended, and end it with its caller."""
    events = selectors.DefaultSelector()
    events.register(door, selectors.EVENT_READ)
    events.register(0, selectors.EVENT_READ, "parent")
    children: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for key, _ in events.select():
            if key.fileobj is door:
                caller, _ = door.accept()
                if call := understood(caller, given):
                    pid = os.fork()
                    if pid == 0:
                        hatch(call)
                    for stream in call[3]:
                        os.close(stream)
                    over = os.pidfd_open(pid)
                    children[pid] = (over, caller)
                    events.register(over, selectors.EVENT_READ, pid)
                    events.register(caller, selectors.EVENT_READ, -pid)
            elif key.data == "parent":  # the tests are over, or were killed
                for pid in children:
                    end(pid)
                return
            elif key.data < 0:  # the caller is gone
                events.unregister(key.fileobj)
                if -key.data in children:
                    end(-key.data)
            else:
                over, caller = children.pop(key.data)
                status = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
                events.unregister(over)
                os.close(over)
                with contextlib.suppress(KeyError):
                    events.unregister(caller)
                with contextlib.suppress(OSError):
                    caller.sendall(str(status if status >= 0 else 128 - status).encode())
                caller.close()


def end(child: int) -> None:
    """Ask a forked program, and what it has started, to end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGTERM)


def understood(caller: socket.socket, given: dict[str, str]) -> tuple[list[str], str, dict[str, str], list[int]] | None:
    """What a caller wants; None where it has to go to the real program."""
    size, streams, _, _ = socket.recv_fds(caller, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(size, "big"):
        asked += caller.recv(1 << 16)
    words, folder, environment = json.loads(asked)
    ours = len(words) > 1 and words[0] == "-m" and words[1] in MODULES
    if not ours or {k: v for k, v in environment.items() if k not in SHELL} != given:
        caller.sendall(b"not me")
        for stream in streams:
            os.close(stream)
        caller.close()
        return None
    return words, folder, environment, streams


def hatch(call: tuple[list[str], str, dict[str, str], list[int]]) -> None:
    """In the fork: be what the caller asked for."""
    from hanmo.process import leave, ours
    from hanmo.remote import as_path

    (_, name, *words), folder, environment, streams = call
    module = importlib.import_module("hanmo.cli" if name == "hanmo" else name)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = [str(module.__file__), *words]

    def act() -> int:
        if name == "hanmo":
            with ours():
                module.main()
            return 0
        sys.modules["__main__"] = module
        return module.main(as_path(words[0]))

    leave(act)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
