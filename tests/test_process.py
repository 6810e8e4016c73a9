"""A stage's process is the same to the runner whether it is a fork or an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hanmo.process import forkable

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")

STAGE = """
import json, multiprocessing, os, signal, sys, time
from pathlib import Path

from hanmo import child

LOADED_BY = os.getpid()


def run() -> None:
    pass


def square(number: int) -> int:
    return number * number


def main(out: Path) -> int:
    match out.name:
        case "three":
            return 3
        case "exit":
            sys.exit("a word")
        case "fault":
            raise ValueError("not caught")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "waits":
            child.die_with_parent()
            time.sleep(60)
        case "tells":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                squares = pool.map(square, [2, 3])
            print("said on stdout")
            told = {
                "squares": squares,
                "word": os.environ.get("WORD"),
                "leads": os.getpgid(0) == os.getpid() == os.getsid(0),
                "locked": any("lock" in os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()),
                "argv": sys.argv[1:],
                "forked": LOADED_BY != os.getpid(),
                "named": sys.modules["__main__"].__spec__.name,
            }
            (out / "told.json").write_text(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
"""
RUNNER = """
import contextlib, os, signal, sys, time
from pathlib import Path

from hanmo.process import ours, start_stage
from hanmo.stage import Settings, StageKind

kind = StageKind("toy", "", Settings, (), "toy_stage:run", process="toy_stage")
how, out, then = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
lock = open("held.lock", "w")
with ours() if how == "forked" else contextlib.nullcontext():
    process = start_stage(kind, out, {**os.environ, "WORD": "given"})
if then == "stop":
    while process.wait(0.2) is None:
        process.send(signal.SIGTERM)
elif then == "leave":
    process.let_go()
status = process.wait(60)
process.send(signal.SIGTERM)  # nothing, since it has ended
print("status", status, "again", process.wait(0))
"""


def act(folder: Path, how: str, out: str, then: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "toy_stage.py").write_text(STAGE, encoding="utf-8")
    (folder / out).mkdir()
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", RUNNER, how, str(folder / out), then],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("how", ["forked", "fresh"])
@pytest.mark.parametrize(
    ("out", "then", "status"),
    [
        ("three", "", 3),
        ("exit", "", 1),
        ("fault", "", 1),
        ("killed", "", -9),
        ("waits", "stop", -15),
        ("waits", "leave", -9),
    ],
)
def test_how_it_ends(tmp_path: Path, how: str, out: str, then: str, status: int) -> None:
    done = act(tmp_path, how, out, then)
    assert done.stdout == f"status {status} again {status}\n", done.stderr
    assert ("ValueError: not caught" in done.stderr) == (out == "fault")


@pytest.mark.parametrize("how", ["forked", "fresh"])
def test_what_it_finds(tmp_path: Path, how: str) -> None:
    done = act(tmp_path, how, "tells")
    assert done.stdout == "status 0 again 0\n", done.stderr
    assert done.stderr == "said on stdout\n"
    told = json.loads((tmp_path / "tells" / "told.json").read_text())
    forked = told.pop("forked")
    assert forked == (how == "forked" and forkable())
    name = told.pop("named")
    assert name == "toy_stage"
    assert told == {
        "squares": [4, 9],
        "word": "given",
        "leads": True,
        "locked": False,
        "argv": [str(tmp_path / "tells")],
    }
