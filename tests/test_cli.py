"""The command line: help for everything, one line for a slip, results on stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hanmo.stages import KINDS


def hanmo(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program as a user would."""
    command = [sys.executable, "-m", "hanmo", *words]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, cwd=cwd)


def test_help_names_every_verb() -> None:
    done = hanmo("--help")
    assert done.returncode == 0
    for verb in [*(set(KINDS) - {"exam", "generation"}), "run", "status", "generate", "chat", "serve", "doctor"]:
        assert f"  {verb} " in done.stdout


def test_help_of_a_stage_shows_settings_with_defaults() -> None:
    done = hanmo("pretrain", "--help")
    words = " ".join(done.stdout.split())
    assert "--tokens VALUE" in words and "[default: 1.0]" in words and "--data PATH" in words


@pytest.mark.parametrize("words", [["corpus"], ["corpus", "make"]])
def test_a_room_s_stage_goes_by_the_room_s_name_and_its_own(words: list[str], tmp_path: Path) -> None:
    help_ = hanmo(*words, "--help").stdout
    assert "--quality.min-han VALUE" in help_
    slip = hanmo(*words, "--out", "x", "--quality.min-han", "much", cwd=tmp_path)
    assert slip.returncode == 2 and "corpus: quality.min_han: Input should be a valid number" in slip.stderr
    assert "Missing option '--out'" in hanmo(*words, cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pretain"], "error: unknown command 'pretain'; did you mean 'pretrain'?"),
        (["pretrain", "--out", "x"], "Missing option '--data'"),
        (["run", "none.yaml"], "error: none.yaml: no such recipe"),
        (["status", "nowhere"], "error: nowhere: no such run folder"),
        (
            ["microworld", "--out", "x", "--people", "three"],
            "error: microworld: people: Input should be a valid integer",
        ),
        (["microworld", "--out", "x", "--poeple", "3"], "No such option"),
        (["generate", "nowhere", "hi"], "error: nowhere: "),
    ],
)
def test_a_slip_is_one_line_and_status_2(tmp_path: Path, words: list[str], line: str) -> None:
    done = hanmo(*words, cwd=tmp_path)
    assert done.returncode == 2 and line in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_stage_prints_its_counts_on_stdout(tmp_path: Path) -> None:
    text = "今天是第{0}天，小明走了{1}里路去看外婆，外婆给他做了{0}个包子。"
    lines = [json.dumps({"text": text.format(i, i * 3)}, ensure_ascii=False) for i in range(30)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = hanmo("corpus", "--documents", "text.jsonl", "--out", "corpus", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["out"] == "corpus"
    shown = hanmo("status", ".", cwd=tmp_path)
    assert "corpus" in shown.stdout and "done" in shown.stdout
