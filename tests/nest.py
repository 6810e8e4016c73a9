"""A warm `hanmo` for tests with many commands: each would import for seconds what the one before has imported.

    python nest.py FOLDER

puts the programs `hanmo` and `python` into FOLDER/bin and then, for each call of them, forks an interpreter that has
imported all stages: it does what the real one does, with the caller's arguments, folder and streams. Signals that the
caller gets are passed on; where the caller is killed, so is the fork. (`behind` is the process that does the work.) A
call in whose environment a library may read something else when it is imported, or of a module that is not listed
here, starts the real program instead. Linux only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from shown import environment

#: What `python -m` is asked for here.
MODULES = ("hanmo", "hanmo.child", "hanmo.pretrain.launch", "torch.distributed.run")
#: Variables that no library reads when it is imported: the shell's, those of tests, of servers, of process groups.
LATE = re.compile(
    r"_|OLDPWD|PATH|PWD|PYTEST_CURRENT_TEST|SHLVL|COLUMNS|LINES|PYTHONPATH|JOBS|REQUEUED"
    r"|HANMO_(?!LANG)\w+|(AWS|SLURM|TORCHELASTIC|LOCAL|GROUP|ROLE)_\w+|RANK|WORLD_SIZE|MASTER_(ADDR|PORT)"
    r"|TORCH_(ELASTIC_SHUTDOWN_TIMEOUT|NCCL_ASYNC_ERROR_HANDLING)"
)
CALLER = """\
#!{python} -IS
import json, os, signal, socket, sys
nest = socket.socket(socket.AF_UNIX)
nest.connect({address!r})
asked = json.dumps([{before!r} + sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: nest.send(bytes([number])))
socket.send_fds(nest, [len(asked).to_bytes(8, "big")], [0, 1, 2])
nest.sendall(asked)
answer = nest.recv(8)
if answer == b"not me":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
status = int(answer or 137)
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@contextlib.contextmanager
def warm(folder: Path, *before: str) -> Iterator[Path]:
    """Inside, the folder that is yielded holds the warm programs; `before` are words that start the nest."""
    words = [*before, sys.executable, str(Path(__file__).resolve()), str(folder)]
    nest = subprocess.Popen(words, env=environment(), stdin=subprocess.PIPE)
    try:
        _wait(folder / "bin", nest)
        yield folder / "bin"
    finally:
        nest.stdin.close()  # it ends what it has forked, and itself
        nest.wait(30)


def _wait(path: Path, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"it ended, or {path.name} does not come"
        time.sleep(0.01)


def behind(process: subprocess.Popen[Any]) -> psutil.Process:
    """The process that does what `process`, a call of `sys.executable`, is asked for; asked while that is warm, if so.

    It leads a process group with all that it starts in no group of its own.
    """
    pids = Path(sys.executable).parents[1] / "pids"
    if not pids.is_dir():
        return psutil.Process(process.pid)
    told = pids / str(process.pid)
    _wait(told, process)
    return psutil.Process(int(told.read_text(encoding="utf-8")))


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
    given = early(os.environ)
    from hanmo.stages import KINDS

    for module in MODULES:
        importlib.import_module("hanmo.cli" if module == "hanmo" else module)
    for kind in KINDS.values():
        kind.load()
    with socket.socket(socket.AF_UNIX) as door:
        address = str(folder / "door")
        door.bind(address)
        door.listen()
        for name in ("new", "pids"):
            (folder / name).mkdir()
        for name, before in (("hanmo", ["-m", "hanmo"]), ("python", [])):
            program, real = folder / "new" / name, str(Path(sys.executable).parent / name)
            code = CALLER.format(python=sys.executable, address=address, before=before, real=real)
            program.write_text(code, encoding="utf-8")
            program.chmod(0o755)
        (folder / "pid").write_text(str(os.getpid()), encoding="utf-8")
        (folder / "new").rename(folder / "bin")
        sys.executable = str(folder / "bin" / "python")  # what is started by what is forked here is warm, too
        answer(door, given, folder / "pids")


def early(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that must be the nest's own."""
    return {name: value for name, value in variables.items() if not LATE.fullmatch(name)}


def answer(door: socket.socket, given: dict[str, str], told: Path) -> None:
    """Fork for each call, pass signals on, tell the caller how it ended, and end it with its caller.

    Args:
        told: folder in which the fork's number is written under its caller's.
    """
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
                    tell(told, caller, pid)
                    over = os.pidfd_open(pid)
                    children[pid] = (over, caller)
                    events.register(over, selectors.EVENT_READ, pid)
                    events.register(caller, selectors.EVENT_READ, -pid)
                else:
                    tell(told, caller, None)
                    caller.close()
            elif key.data == "parent":  # the tests are over, or were killed
                for pid in children:
                    send(pid, signal.SIGTERM)
                return
            elif key.data < 0:
                numbers = key.fileobj.recv(16)  # type: ignore[union-attr]
                if not numbers:  # the caller was killed
                    events.unregister(key.fileobj)
                for number in numbers or [signal.SIGKILL]:
                    if -key.data in children:
                        send(-key.data, number)
            else:
                over, caller = children.pop(key.data)
                status = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
                events.unregister(over)
                os.close(over)
                with contextlib.suppress(KeyError):
                    events.unregister(caller)
                with contextlib.suppress(OSError):
                    caller.sendall(str(status).encode())
                caller.close()


def send(child: int, number: int) -> None:
    """Send a signal to a fork; that to end also goes to what it has started, as it does in a terminal."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if number == signal.SIGTERM else os.kill)(child, number)


def tell(folder: Path, caller: socket.socket, child: int | None) -> None:
    """Write down which process does what a caller asked for (None: the caller itself)."""
    number = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    part = folder / f"{number}.part"
    part.write_text(str(child or number), encoding="utf-8")
    part.rename(folder / str(number))


def understood(caller: socket.socket, given: dict[str, str]) -> tuple[list[str], str, dict[str, str], list[int]] | None:
    """What a caller wants; None where it has to go to the real program."""
    size, streams, _, _ = socket.recv_fds(caller, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(size, "big"):
        asked += caller.recv(1 << 16)
    words, folder, environment = json.loads(asked)
    words = words[words[:1] == ["-u"] :]  # unbuffered: what is forked writes line by line
    match words:
        case ["-m", name, *_]:
            ours = name in MODULES
        case ["-c", code, *_]:
            ours = "multiprocessing" not in code  # these come with pipes that are not passed on
        case [name, *_]:
            ours = name.endswith(".py")
        case _:
            ours = False
    if not ours or early(environment) != given:
        caller.sendall(b"not me")
        for stream in streams:
            os.close(stream)
        return None
    return words, folder, environment, streams


def hatch(call: tuple[list[str], str, dict[str, str], list[int]]) -> None:
    """In the fork: be what the caller asked for."""
    from hanmo.process import leave

    words, folder, environment, streams = call
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(number, "w", 1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(folder)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(environment)
    sys.orig_argv = [sys.executable, *words]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for place in reversed(environment.get("PYTHONPATH", "").split(os.pathsep)):
        if place and place not in known:
            sys.path.insert(0, place)
            if (Path(place) / "sitecustomize.py").is_file():
                runpy.run_path(str(Path(place) / "sitecustomize.py"))
    leave(lambda: module(*words[1:]) if words[0] == "-m" else program(words))


def module(name: str, *words: str) -> int:
    """`python -m NAME`, of those that are listed here."""
    from hanmo.process import ours
    from hanmo.remote import as_path

    found = importlib.import_module("hanmo.cli" if name == "hanmo" else name)
    sys.argv = [str(found.__file__), *words]
    if name == "hanmo":
        with ours():
            found.main()
        return 0
    sys.modules["__main__"] = found
    return found.main(as_path(words[0])) if name.startswith("hanmo") else found.main() or 0


def program(words: list[str]) -> int:
    """`python -c CODE` and `python FILE`."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        code = compile(words[1], "<string>", "exec")
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        main.__file__ = words[0]
        code = compile(Path(words[0]).read_text(encoding="utf-8"), words[0], "exec")
    exec(code, main.__dict__)
    return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
