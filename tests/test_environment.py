"""Virtual environments for the bootstrap: made, filled, torn by kills and mended, shared by two set-ups at once.

Nothing here needs a network: pip installs a package that the test makes.
"""

from __future__ import annotations

import base64
import hashlib
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import environment  # noqa: E402

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals are of POSIX")


def test_causes_of_a_failed_pip() -> None:
    assert environment.why(["ERROR: Could not install: [Errno 28] No space left on device"]) == "the disk is full"
    assert "cannot be reached" in environment.why(["x", "Failed to establish a new connection: [Errno -2]"])
    assert environment.why(["something else"]) == "see above"


def make_wheel(folder: Path) -> Path:
    """The wheel of a package `tiny` 1.0 with one module."""
    files = {
        "tiny.py": b"VALUE = 1\n",
        "tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    files["tiny-1.0.dist-info/RECORD"] = (record + "tiny-1.0.dist-info/RECORD,,\n").encode()
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[environment.Environment, Path]]:
    folder = tmp_path_factory.mktemp("环境 with a blank")
    env = environment.Environment(folder / ".venv")
    with env.locked():
        env.mend()
    yield env, make_wheel(folder)


def value(env: environment.Environment) -> str:
    done = subprocess.run([str(env.python), "-c", "import tiny; print(tiny.VALUE)"], capture_output=True, text=True)
    return done.stdout.strip()


def module(env: environment.Environment) -> Path:
    return next(env.folder.rglob("tiny.py"))


def test_make_and_install(made: tuple[environment.Environment, Path]) -> None:
    env, wheel = made
    assert env.works()
    env.pip("tiny", "--no-index", str(wheel))
    assert value(env) == "1"
    assert "Successfully installed tiny-1.0" in env.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["cut", "gone", "no record", "no name"])
def test_what_a_killed_pip_left_is_mended(
    made: tuple[environment.Environment, Path], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    env, wheel = made
    env.pip("tiny", "--no-index", str(wheel))
    info = next(env.folder.rglob("tiny-1.0.dist-info"))
    if damage == "cut":
        module(env).write_bytes(b"VAL")
    elif damage == "gone":
        module(env).unlink()
    elif damage == "no record":
        (info / "RECORD").unlink()
    else:
        (info / "METADATA").unlink()
    env.mend()
    assert "an earlier set-up was cut off; again: tiny" in capsys.readouterr().err
    env.pip("tiny", "--no-index", str(wheel))
    assert value(env) == "1"
    env.mend()
    assert capsys.readouterr().err == "  tiny\n"


def test_a_failing_pip_says_why(made: tuple[environment.Environment, Path], capsys: pytest.CaptureFixture[str]) -> None:
    env, wheel = made
    with pytest.raises(environment.Fault, match=r"absent: pip failed \(a pinned version does not exist .*setup\.log"):
        env.pip("absent", "--no-index", "--find-links", str(wheel.parent), "absent-package==1.0")
    assert "No matching distribution found" in capsys.readouterr().err


@POSIX
def test_an_environment_whose_python_is_gone_is_made_anew(tmp_path: Path) -> None:
    env = environment.Environment(tmp_path / ".venv")
    env.scripts.mkdir(parents=True)
    env.python.symlink_to(tmp_path / "no python")
    (env.folder / "pyvenv.cfg").touch()
    with env.locked():
        env.mend()
    assert env.works()


def test_a_python_without_venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object())
    with pytest.raises(environment.Fault, match=r"no module 'ensurepip': .*apt install python3\.\d+-venv"):
        environment.Environment(tmp_path / ".venv").make()


HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tools.environment import Environment
env = Environment(Path(sys.argv[2]))
with env.locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_set_ups_wait_for_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = environment.Environment(tmp_path / ".venv")
    command = [sys.executable, "-c", HOLD, str(ROOT), str(env.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin and other.stdout and other.stdout.readline().strip() == b"held"
        with (env.folder / environment.LOCK).open("a+b") as file:
            assert not environment.try_lock(file)
        other.stdin.close()
        with env.locked():
            assert other.wait() == 0
    with env.locked():
        pass


SLOW_BACKEND = """
import pathlib, shutil, time
def build_wheel(folder, settings=None, metadata=None):
    pathlib.Path("building").touch()
    time.sleep(2)
    return shutil.copy("tiny-1.0-py3-none-any.whl", folder).split("/")[-1]
"""
INSTALL = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tools.environment import Environment
env = Environment(Path(sys.argv[2]))
with env.locked():
    env.pip("tiny", "--no-index", "--no-build-isolation", sys.argv[3])
"""


@POSIX
def test_pip_keeps_the_lock_when_its_caller_is_killed(
    made: tuple[environment.Environment, Path], tmp_path: Path
) -> None:
    env, wheel = made
    subprocess.run([str(env.python), "-m", "pip", "uninstall", "-qy", "tiny"], check=True)
    source = tmp_path / "tiny"
    source.mkdir()
    (source / wheel.name).write_bytes(wheel.read_bytes())
    (source / "slow.py").write_text(SLOW_BACKEND, encoding="utf-8")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny"\nversion = "1.0"\n',
        encoding="utf-8",
    )
    caller = subprocess.Popen([sys.executable, "-c", INSTALL, str(ROOT), str(env.folder), str(source)])
    while not (source / "building").exists():
        assert caller.poll() is None
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    with (env.folder / environment.LOCK).open("a+b") as file:
        assert not environment.try_lock(file)
    with env.locked():
        assert value(env) == "1", "pip has finished before anybody else got in"
