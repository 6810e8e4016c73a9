"""Worker processes: results, errors, and what happens when one of them dies."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanmo.errors import HanmoError
from hanmo.pool import run_tasks


def square(number: int) -> int:
    return number * number


def environment(_: int) -> str:
    return os.environ.get("RAYON_NUM_THREADS", "")


def fail(number: int) -> int:
    if number == 3:
        raise HanmoError("the third one")
    return number


def fill_the_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/file")


def break_down(_: int) -> None:
    raise ZeroDivisionError("a defect")


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_comes_back_once(workers: int) -> None:
    assert sorted(run_tasks(square, list(range(20)), workers)) == [(number, number**2) for number in range(20)]


def test_no_task_is_no_work() -> None:
    assert list(run_tasks(square, [], 4)) == []


def test_workers_are_told_to_use_one_thread_and_the_parent_is_not() -> None:
    before = os.environ.get("RAYON_NUM_THREADS")
    assert {answer for _, answer in run_tasks(environment, [1, 2], 2)} == {"1"}
    assert os.environ.get("RAYON_NUM_THREADS") == before


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_for_the_user_stays_one(workers: int) -> None:
    with pytest.raises(HanmoError, match="the third one"):
        list(run_tasks(fail, list(range(6)), workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line(workers: int) -> None:
    with pytest.raises(HanmoError, match="the disk is full at /somewhere/file"):
        list(run_tasks(fill_the_disk, [1, 2], workers))


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)break_down.*ZeroDivisionError: a defect"):
        list(run_tasks(break_down, [1, 2], 2))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_worker_is_an_error_and_not_a_wait_without_end() -> None:
    with pytest.raises(HanmoError, match=r"a worker process died .signal 9."):
        list(run_tasks(die, list(range(6)), 2))


SCRIPT = """
import os, sys, time
from pathlib import Path
from hanmo.pool import run_tasks

def tell(number):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    list(run_tasks(tell, [1, 2], 2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    seen = tmp_path / "seen"
    seen.mkdir()
    process = subprocess.Popen([sys.executable, script, seen])
    deadline = time.monotonic() + 60
    while len(list(seen.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    left = [int(path.name) for path in seen.iterdir()]
    while any(alive(pid) for pid in left):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc").is_dir():
        return stat.exists() and stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
