"""Real commands that are killed: alone, in a group whose other processes go on, and under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_data import QUICK, tokens, weights  # type: ignore[import-not-found]  # noqa: F401

from hanmo.pretrain import stage
from hanmo.pretrain.settings import PretrainSettings
from nest import behind

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
    pytest.mark.usefixtures("warm_stages"),
]

#: 40 steps with a checkpoint at every fourth.
RUN = {**QUICK, "tokens": 40 * 128, "checkpoint_steps": 4, "eval_every": 0, "context": 32}
#: Two processes, for so long that a signal finds them at work.
LONG = {"processes": 2, "tokens": 100 * 128}


def words(data: Path, out: Path, *start: str, **more: object) -> list[str]:
    """A command that trains."""
    options = [word for name, value in {**RUN, **more}.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, *start, "-m", "hanmo", "pretrain", "--data", str(data), "--out", str(out), *options]


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start it; what it says goes to a file."""
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def wait_for(process: subprocess.Popen[bytes], out: Path, pattern: str) -> None:
    """Wait until a checkpoint of that name is there, or begun."""
    deadline = time.monotonic() + 100
    while not list((out / "checkpoints").glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


def one_of_two(process: subprocess.Popen[bytes], out: Path) -> int:
    """One of the two processes that train, looked up before the first checkpoints: steps are quick."""
    found: list[int] = []
    while len(found) < 2:
        assert process.poll() is None
        below = behind(process).children(recursive=True)
        found = sorted(p.pid for p in below if "hanmo.child" in p.cmdline())
        time.sleep(0.01)
    wait_for(process, out, "step-00000008")
    return found[-1]


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return all(bool((a[name] == b[name]).all()) for name in a)


@pytest.fixture(scope="module")
def whole(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """An undisturbed run of one process."""
    out = tmp_path_factory.mktemp("whole")
    stage.run(PretrainSettings(**RUN), {"data": [tokens]}, out)
    return out


def test_killed_in_a_write_and_resumed(tokens: Path, tmp_path: Path, whole: Path) -> None:  # noqa: F811
    out = tmp_path / "run"
    process = start(words(tokens, out), tmp_path / "log")
    wait_for(process, out, ".step-00000012.tmp")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run(words(tokens, out), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stderr and same(out, whole)


def test_one_of_two_is_killed_and_a_stopped_group_goes_on(tokens: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "run"
    process = start(words(tokens, out, **LONG), tmp_path / "log")
    os.kill(one_of_two(process, out), signal.SIGKILL)
    assert process.wait(120) == 0
    log = (tmp_path / "log").read_text()
    assert log.count("all start again from the newest checkpoint") == 1 and "2 processes (ddp)" in log
    assert "Traceback" not in log and "error" not in log
    # A signal at one process alone stops all at the same step, with the status of a stop.
    torn = tmp_path / "torn"
    process = start(words(tokens, torn, **LONG), tmp_path / "log")
    os.kill(one_of_two(process, torn), signal.SIGUSR1)
    assert process.wait(120) == 130
    assert (tmp_path / "log").read_text().count("stopped at step") == 1
    # Started by torchrun now: the same group by another launcher.
    launched = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    again = subprocess.run(words(tokens, torn, *launched, tokens=LONG["tokens"]), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count('"processes": 2') == 1 and "resuming at step" in again.stderr
    assert same(out, torn)
