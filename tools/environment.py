"""Virtual environments for bootstrap.py: made, filled by pip, locked, mended. Standard library only.

An environment may be cut off at any moment (a closed lid, Ctrl-C, a full disk) and is whole again after the next call:
the folder is locked while it changes, pip goes on holding the lock when only its caller was killed, and packages that a
killed pip left torn are found by the sizes in their records and installed again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

WINDOWS = os.name == "nt"
#: Held, inside an environment's folder, by whoever sets it up.
LOCK = ".lock"


class Fault(Exception):
    """One line for the user."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Environment:
    """A virtual environment that knows whether it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scripts = folder / ("Scripts" if WINDOWS else "bin")
        self.python = self.scripts / ("python.exe" if WINDOWS else "python")
        self.stamp = folder / "hanmo-stamp.json"
        self.log = folder / "setup.log"
        self._lock: BinaryIO | None = None

    def script(self, name: str) -> str:
        return str(self.scripts / (name + (".exe" if WINDOWS else "")))

    def variables(self) -> dict[str, str]:
        """The process environment of everything that runs in here."""
        path = os.pathsep.join([str(self.scripts), os.environ.get("PATH", "")])
        return {**os.environ, "VIRTUAL_ENV": str(self.folder), "PATH": path, "PYTHONUTF8": "1", "PIP_USER": "0"}

    def read_stamp(self) -> dict[str, str]:
        try:
            return json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def write_stamp(self, value: dict[str, str]) -> None:
        half = self.stamp.with_suffix(".tmp")
        half.write_text(json.dumps(value, indent=1), encoding="utf-8")
        half.replace(self.stamp)

    def works(self) -> bool:
        """Whether its Python starts and has pip (a half-made folder, or one whose base Python is gone, has not)."""
        if not self.python.exists() or not (self.folder / "pyvenv.cfg").is_file():
            return False
        done = subprocess.run([str(self.python), "-c", "import pip"], capture_output=True)
        return done.returncode == 0

    def empty(self) -> None:
        """Delete what is in it, except the lock that this process may hold."""
        if Path(sys.prefix).resolve() == self.folder.resolve():
            raise Fault(f"{self.folder.name} has to go, but this very Python lives in it: call another python")
        for entry in self.folder.iterdir() if self.folder.is_dir() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()

    def make(self) -> None:
        """Create it, or mend one that was half made."""
        for module in ("venv", "ensurepip"):
            if importlib.util.find_spec(module) is None:
                version = "{}.{}".format(*sys.version_info)
                raise Fault(
                    f"this Python has no module '{module}': on Debian or Ubuntu run "
                    f"`sudo apt install python{version}-venv`, elsewhere install Python from python.org"
                )
        if self.python.is_symlink() or self.python.exists():
            self.empty()
        done = subprocess.run(
            [sys.executable, "-m", "venv", str(self.folder)], capture_output=True, text=True, errors="replace"
        )
        if done.returncode or not self.works():
            lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
            raise Fault(f"python -m venv {self.folder} failed: {lines[-1]}")

    def mend(self) -> None:
        """See that Python and pip work, and make pip install again what an earlier, killed pip left torn."""
        if not self.works():
            self.make()
        torn = subprocess.run([str(self.python), "-c", DROP_TORN], capture_output=True, text=True).stdout.split()
        if "pip" in torn:
            self.make()
        elif torn:
            say(f"  an earlier set-up was cut off; again: {', '.join(torn)}")

    def pip(self, title: str, *words: str, **variables: str) -> None:
        """`pip install` with a line of progress now and then; everything pip says goes into the log.

        Raises:
            Fault: pip failed; the end of its output has been printed.
        """
        say(f"  {title}")
        command = [str(self.python), "-m", "pip", "install", "--retries", "10", "--disable-pip-version-check", *words]
        began = time.monotonic()
        with self.log.open("ab") as log:
            log.write(f"\n$ pip install {' '.join(words)}\n".encode())
            log.flush()
            start = self.log.stat().st_size
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PIP_DEFAULT_TIMEOUT": "60", **self.variables(), "PYTHONUNBUFFERED": "1", **variables},
                # pip keeps the lock when this process is killed and it is not.
                pass_fds=() if WINDOWS or self._lock is None else (self._lock.fileno(),),
            )

            def said() -> list[str]:
                return self.log.read_bytes()[start:].decode("utf-8", "replace").splitlines()

            try:
                while True:
                    try:
                        code = child.wait(timeout=20)
                        break
                    except subprocess.TimeoutExpired:
                        lines = [line.strip() for line in said() if not line.startswith("WARNING")]
                        step = next((line for line in reversed(lines) if line), "")
                        say(f"    {time.monotonic() - began:4.0f} s  {step[:100]}")
            except BaseException:
                child.terminate()
                child.wait()
                raise
        if code:
            for line in said()[-15:]:
                say(f"    | {line[:160]}")
            raise Fault(f"{title}: pip failed ({why(said())}); all it said: {self.log}")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; wait while another one sets it up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("a+b") as file:
            told = False
            while not try_lock(file):
                if not told:
                    say(f"another set-up of {self.folder.name} is at work; waiting for it")
                    told = True
                time.sleep(0.5)
            self._lock = file
            try:
                yield
            finally:
                self._lock = None


#: Runs inside an environment: a package with a file missing or cut short loses its record, which is what pip goes by.
DROP_TORN = """
import importlib.metadata, shutil
for package in importlib.metadata.distributions():
    name = package.metadata and package.metadata["Name"]
    try:
        whole = name and package.files is not None and all(
            file.size is None or file.locate().stat().st_size == file.size
            for file in package.files
            if file.suffix != ".pyc"  # Python rewrites those
        )
    except OSError:
        whole = False
    if not whole:
        shutil.rmtree(package._path, ignore_errors=True)
        print(name or package._path.name)
"""


def try_lock(file: BinaryIO) -> bool:
    """Take the lock on an open file, if nobody has it; a file system without locks counts as taken by us."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        say(f"no file locks here ({error.strerror}); do not run two set-ups at once")
    return True


def why(said: list[str]) -> str:
    """The likely cause of a failed pip, from its output."""
    text = "\n".join(said)
    for sign, cause in (
        ("No space left on device", "the disk is full"),
        ("ResolutionImpossible", "the pins contradict each other"),
        ("Failed to establish a new connection", "the package index cannot be reached: check network or proxy"),
        ("Name or service not known", "the package index cannot be reached: check network or proxy"),
        ("Read timed out", "the network is too slow: run the same command again, what was fetched is kept"),
        ("No matching distribution found", "a pinned version does not exist for this Python or system"),
        ("Failed building wheel", "compiling failed"),
    ):
        if sign in text:
            return cause
    return "see above"


def compiler() -> str | None:
    """A C++ compiler that CMake would find, or None."""
    if WINDOWS:
        where = Path(os.environ.get("PROGRAMFILES(X86)", r"C:\Program Files (x86)"))
        vswhere = where / "Microsoft Visual Studio" / "Installer" / "vswhere.exe"
        return shutil.which("cl") or shutil.which("clang-cl") or (str(vswhere) if vswhere.is_file() else None)
    if sys.platform == "darwin" and not os.environ.get("CXX"):
        # /usr/bin/c++ is always there, but only asks for the developer tools until they are installed.
        if subprocess.run(["xcode-select", "-p"], capture_output=True).returncode:
            return None
    named = os.environ.get("CXX", "").split()
    names = [*named[:1], "c++", "g++", "clang++"]
    return next((found for name in names if (found := shutil.which(name))), None)
