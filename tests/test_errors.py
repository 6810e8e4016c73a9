"""hanmo.errors: the nearest word, and operating-system faults in one line."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from hanmo.errors import HanmoError, describe_os_error, nearest


def test_nearest_names_a_close_word() -> None:
    assert nearest("learning_rat", ["learning_rate", "steps"]) == "; did you mean 'learning_rate'?"
    assert nearest("vocabsize", ["vocab_size", "sample_mb"]) == "; did you mean 'vocab_size'?"


def test_nearest_does_not_guess_wildly() -> None:
    assert nearest("zzz", ["learning_rate", "steps"]) == ""
    assert nearest("steps", []) == ""


def test_nearest_takes_any_iterable() -> None:
    assert nearest("step", iter({"steps": 1})) == "; did you mean 'steps'?"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full at out/a.ds: free some space"),
        (errno.EDQUOT, "the disk quota is used up at out/a.ds"),
        (errno.EACCES, "no permission to write or read at out/a.ds"),
        (errno.EPERM, "no permission"),
        (errno.EROFS, "no permission"),
    ],
)
def test_faults_of_the_disk(number: int, words: str) -> None:
    line = describe_os_error(OSError(number, os.strerror(number), "out/a.ds"))
    assert line is not None and words in line
    assert "\n" not in line


def test_a_fault_without_a_file() -> None:
    assert describe_os_error(OSError(errno.ENOSPC, "No space left on device")) == (
        "the disk is full: free some space, then run the same command again (it goes on where it was)"
    )


def test_a_fault_told_by_a_library_in_rust() -> None:
    assert "the disk is full" in (describe_os_error(Exception("No space left on device (os error 28)")) or "")
    assert describe_os_error(ValueError("an error of mine")) is None


def test_other_faults_are_defects() -> None:
    assert describe_os_error(OSError(errno.EBADF, "Bad file descriptor")) is None
    assert describe_os_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert describe_os_error(OSError("no number")) is None


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_real_refusal(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError) as caught:
        (tmp_path / "a").write_text("x", encoding="utf-8")
    assert "no permission" in (describe_os_error(caught.value) or "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk() -> None:
    with pytest.raises(OSError) as caught, Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")
    assert "the disk is full" in (describe_os_error(caught.value) or "")


def test_the_message_is_the_line() -> None:
    assert str(HanmoError("a.yaml: no stage")) == "a.yaml: no stage"
