"""The bootstrap: what it says on an old Python, when it sets up again, and what its commands run."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import bootstrap  # noqa: E402
from tools import environment  # noqa: E402

SOURCES = [ROOT / "bootstrap.py", ROOT / "tools" / "environment.py"]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals are of POSIX")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of our own, and none of the user's settings."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.delenv("HANMO_TORCH_INDEX", raising=False)
    return tmp_path


# --- the files themselves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_old_pythons_can_read_it(path: Path) -> None:
    """They must get far enough to say what is wrong."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in at_once if isinstance(node, ast.ImportFrom)}
    assert "tomllib" not in names
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"tools"}


def test_an_old_python_gets_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    assert bootstrap.main(["test"]) == 2
    assert capsys.readouterr().err == "error: Hanmo needs Python 3.11 or newer, this is 3.10\n"


def test_help_and_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main([]) == bootstrap.main(["help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in bootstrap.COMMANDS)
    assert bootstrap.main(["tset"]) == 2
    assert "no command 'tset'; there are: setup, demo" in capsys.readouterr().err


def test_makefile_has_the_same_commands() -> None:
    targets = re.search(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert targets is not None
    assert set(targets[1].split()) == {*bootstrap.COMMANDS, "help"}


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins: dict[str, str] = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            found = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
            assert found, f"not a plain pin: {line}"
            pins[canonicalize_name(found[1])] = found[2]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["gguf"], *extras["dev"]]:
        requirement = Requirement(text)
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin, f"{requirement.name} has no pin: run `python bootstrap.py pin`"
        assert requirement.specifier.contains(pin, prereleases=True), f"{text}, but the pin is {pin}"


# --- when .venv is set up ---------------------------------------------------------------------------------------------


class Installs:
    """Stands in for pip: notes each set-up, and makes what a set-up leaves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.calls: list[tuple[str, str | None]] = []
        self.missing = ""
        self.fail = False
        env = bootstrap.Environment(root / ".venv")

        def mend(self: Any) -> None:
            env.scripts.mkdir(parents=True, exist_ok=True)
            env.python.touch()
            (env.folder / "pyvenv.cfg").write_text("version = 3.11.9\n", encoding="utf-8")

        def install(_: Any, __: Any, torch_index: str, torch_before: str | None) -> str:
            self.calls.append((torch_index, torch_before))
            if self.fail:
                raise bootstrap.Fault("pip failed")
            return self.missing

        monkeypatch.setattr(bootstrap.Environment, "mend", mend)
        monkeypatch.setattr(bootstrap, "install", install)


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch, root: Path) -> Installs:
    return Installs(monkeypatch, root)


def test_the_second_call_does_nothing(installs: Installs) -> None:
    bootstrap.setup()
    bootstrap.setup()
    assert len(installs.calls) == 1


def test_a_change_of_what_it_is_made_of_sets_up_again(installs: Installs, root: Path) -> None:
    bootstrap.setup()
    pyproject, pins = root / "pyproject.toml", root / "constraints.txt"
    pyproject.write_text(pyproject.read_text(encoding="utf-8") + "\n[tool.other]\nx = 1\n", encoding="utf-8")
    bootstrap.setup()
    assert len(installs.calls) == 1, "a linter's settings are not packages"
    pins.write_text(pins.read_text(encoding="utf-8") + "zzz==1\n", encoding="utf-8")
    bootstrap.setup()
    assert len(installs.calls) == 2
    old = pyproject.read_text(encoding="utf-8")
    pyproject.write_text(old.replace('"click>=8.1"', '"click>=8.2"'), encoding="utf-8")
    bootstrap.setup()
    assert len(installs.calls) == 3
    (root / ".venv" / "pyvenv.cfg").write_text("version = 3.12.1\n", encoding="utf-8")
    bootstrap.setup()
    assert len(installs.calls) == 4
    bootstrap.setup()
    assert len(installs.calls) == 4


def test_an_environment_without_a_stamp_is_completed(installs: Installs, root: Path) -> None:
    keep = root / ".venv" / "lib" / "kept.txt"
    keep.parent.mkdir(parents=True)
    keep.touch()
    bootstrap.setup()
    assert len(installs.calls) == 1 and keep.exists()


def test_a_torn_stamp_is_no_stamp(installs: Installs, root: Path) -> None:
    bootstrap.setup()
    (root / ".venv" / "hanmo-stamp.json").write_text('{"made_of": "', encoding="utf-8")
    bootstrap.setup()
    assert len(installs.calls) == 2


def test_a_failed_set_up_is_tried_again(installs: Installs, capsys: pytest.CaptureFixture[str]) -> None:
    installs.fail = True
    assert bootstrap.main(["setup"]) == 2
    assert "error: pip failed" in capsys.readouterr().err
    installs.fail = False
    assert bootstrap.main(["setup"]) == 0
    assert len(installs.calls) == 2


def test_a_moved_environment_is_made_anew(
    installs: Installs, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap.setup()
    script = root / ".venv" / "lib" / "names the old folder"
    script.parent.mkdir()
    script.touch()
    stamp = root / ".venv" / "hanmo-stamp.json"
    stamp.write_text(stamp.read_text(encoding="utf-8").replace(str(root), str(root / "before")), encoding="utf-8")
    bootstrap.setup()
    assert len(installs.calls) == 2 and not script.exists()


def test_the_index_of_torch_is_remembered(installs: Installs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANMO_TORCH_INDEX", "https://example.org/cpu")
    bootstrap.setup()
    monkeypatch.delenv("HANMO_TORCH_INDEX")
    bootstrap.setup()
    assert installs.calls == [("https://example.org/cpu", None)], "no word means: as it is"
    monkeypatch.setenv("HANMO_TORCH_INDEX", "https://example.org/cu130")
    bootstrap.setup()
    assert installs.calls[1:] == [("https://example.org/cu130", "https://example.org/cpu")]


def test_what_was_left_out_is_said_and_tried_again(
    installs: Installs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installs.missing = "no C++ compiler"
    monkeypatch.setattr(bootstrap, "compiler", lambda: None)
    bootstrap.setup()
    capsys.readouterr()
    bootstrap.setup()
    assert len(installs.calls) == 1
    assert "llama.cpp is left out (no C++ compiler" in capsys.readouterr().err
    monkeypatch.setattr(bootstrap, "compiler", lambda: "/usr/bin/g++")
    installs.missing = "compiling it failed"
    bootstrap.setup()
    assert len(installs.calls) == 2, "a compiler has come"
    bootstrap.setup()
    assert len(installs.calls) == 2, "what does not compile is not tried on every call"
    bootstrap.setup(again=True)
    assert len(installs.calls) == 3


class Pip:
    """Notes the calls of `Environment.pip`."""

    def __init__(self, fail: str = "") -> None:
        self.calls: list[tuple[str, ...]] = []
        self.fail = fail

    def pip(self, title: str, *words: str, **_: str) -> None:
        self.calls.append(words)
        if self.fail and self.fail in title:
            raise bootstrap.Fault("compiling failed")


def test_torch_comes_first_and_from_its_own_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "compiler", lambda: "/usr/bin/g++")
    env: Any = Pip()
    assert bootstrap.install(env, root / "constraints.txt", "https://example.org/cpu", None) == ""
    torch, rest, llama = env.calls
    assert torch == ("--index-url", "https://example.org/cpu", bootstrap.torch_pin())
    assert rest == ("-c", str(root / "constraints.txt"), "-e", f"{root}[dev]")
    assert llama[2].startswith("llama-cpp-python")


def test_another_index_fetches_torch_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "compiler", lambda: None)
    for before, again in ((None, False), ("", True), ("https://example.org/cpu", False)):
        env: Any = Pip()
        bootstrap.install(env, None, "https://example.org/cpu", before)
        assert ("--force-reinstall" in env.calls[0]) == again


def test_without_a_compiler_only_llama_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env: Any = Pip()
    monkeypatch.setattr(bootstrap, "compiler", lambda: None)
    assert bootstrap.install(env, None, "", None) == "no C++ compiler"
    assert len(env.calls) == 2
    monkeypatch.setattr(bootstrap, "compiler", lambda: "/usr/bin/g++")
    failing: Any = Pip(fail="llama.cpp")
    assert bootstrap.install(failing, None, "", None) == "compiling it failed"
    with pytest.raises(bootstrap.Fault):
        bootstrap.install(Pip(fail="torch"), None, "", None)  # type: ignore[arg-type]


# --- commands ---------------------------------------------------------------------------------------------------------


class Calls:
    """Stands in for `call`: notes what would run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int] | None = None) -> None:
        self.ran: list[list[str]] = []

        def call(_: Any, *words: str, **__: str) -> int:
            self.ran.append([Path(words[0]).stem, *words[1:]])
            return next((code for name, code in (codes or {}).items() if name in " ".join(self.ran[-1])), 0)

        monkeypatch.setattr(bootstrap, "call", call)
        monkeypatch.setattr(bootstrap, "setup", lambda again=False: environment.Environment(ROOT / ".venv"))


def test_test_is_check_and_then_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    assert bootstrap.main(["test", "-k", "chat"]) == 0
    assert [words[0] for words in calls.ran] == ["ruff", "ruff", "pyright", "python"]
    several = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    assert calls.ran[-1][1:] == ["-m", "pytest", "-m", "not parity", *several, "-k", "chat"]
    assert bootstrap.main(["test", "-n0"]) == 0
    assert calls.ran[-1][1:] == ["-m", "pytest", "-m", "not parity", "-n0"]


@pytest.mark.parametrize(("codes", "status"), [({"pyright": 1}, 1), ({"pytest": 5}, 5), ({"ruff": 1, "pytest": 2}, 2)])
def test_tests_run_even_when_lint_complains(
    monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], status: int
) -> None:
    calls = Calls(monkeypatch, codes)
    assert bootstrap.main(["test"]) == status
    assert "pytest" in calls.ran[-1]


def test_demo_hands_settings_on(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = Calls(monkeypatch)
    for folder in ("report/report.html", "sft/model/config.json", "dpo/model/config.json"):
        (root / "runs" / "demo" / folder).parent.mkdir(parents=True)
        (root / "runs" / "demo" / folder).touch()
    os.utime(root / "runs" / "demo" / "sft" / "model" / "config.json", (1, 1))
    assert bootstrap.main(["demo", "pretrain.steps=3"]) == 0
    out = str(Path("runs", "demo"))
    assert calls.ran == [["hanmo", "run", str(Path("recipes", "demo.yaml")), "--out", out, "pretrain.steps=3"]]
    said = capsys.readouterr().err
    assert str(Path(out, "report", "report.html")) in said
    assert f"chat {Path(out, 'dpo')}" in said


def test_a_failed_demo_says_no_more(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Calls(monkeypatch, {"run": 2})
    assert bootstrap.main(["demo"]) == 2
    assert capsys.readouterr().err == ""


def test_bench_runs_all_or_the_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "benchmarks").mkdir()
    for name in ("train_cpu", "encode", "parity_vllm", "vllm_worker", "_shared"):
        (root / "benchmarks" / f"{name}.py").touch()
    calls = Calls(monkeypatch)
    encode, train = str(Path("benchmarks", "encode.py")), str(Path("benchmarks", "train_cpu.py"))
    assert bootstrap.main(["bench"]) == 0
    assert calls.ran == [["python", encode], ["python", train]]
    assert bootstrap.main(["bench", "train_cpu", "--quick"]) == 0
    assert calls.ran[2:] == [["python", train, "--quick"]]


def test_clean(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115, PTH123
    for folder in ("src/hanmo/__pycache__", ".ruff_cache", "runs/demo", ".venv/lib", "data"):
        (root / folder).mkdir(parents=True)
    assert bootstrap.main(["clean"]) == 0
    left = {path.name for path in root.iterdir() if path.is_dir()}
    assert left == {"src", "runs", ".venv", "data"} and not (root / "src/hanmo/__pycache__").exists()
    assert "runs/ is kept" in capsys.readouterr().err
    assert bootstrap.main(["clean", "--yes", "--all"]) == 0
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"src", "data"}


def test_it_does_not_delete_the_python_it_runs_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".venv" / "lib").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(root / ".venv"))
    assert bootstrap.main(["clean", "--all"]) == 2
    assert (root / ".venv" / "lib").exists()


CHILD = """
import pathlib, signal, sys, time
def stop(number, _):
    time.sleep(0.5)
    pathlib.Path(sys.argv[1]).write_text(signal.Signals(number).name)
    sys.exit(7)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
import bootstrap
sys.exit(bootstrap.call(bootstrap.Environment(bootstrap.ROOT / ".venv"), sys.executable, "-c", *sys.argv[2:]))
"""


@POSIX
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_program_ends_in_its_own_way(tmp_path: Path, number: str) -> None:
    """Ctrl-C reaches the whole group, a termination the parent alone; the child always has time to save."""
    note = tmp_path / "note"
    command = [sys.executable, "-c", PARENT, str(ROOT), CHILD, str(note)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout and parent.stdout.readline() == b"ready\n"
        if number == "SIGINT":
            os.killpg(parent.pid, signal.SIGINT)
        else:
            parent.terminate()
        assert parent.wait(timeout=20) == 7
    assert note.read_text(encoding="utf-8") == number


@POSIX
def test_a_killed_program_has_the_shells_status() -> None:
    env = environment.Environment(ROOT / ".venv")
    assert bootstrap.call(env, sys.executable, "-c", "import os; os.kill(os.getpid(), 9)") == 137
