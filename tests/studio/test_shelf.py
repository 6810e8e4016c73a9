"""Finding runs and stages, and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from hanmo.errors import HanmoError
from hanmo.studio.shelf import SELF, Missing, Shelf


def test_runs_are_found_and_nothing_that_is_none(runs: Path) -> None:
    found = {run["id"]: run for run in Shelf(runs).runs()}
    assert set(found) == {"demo", "新 run #1"}
    demo = found["demo"]
    assert demo["state"] == "done" and demo["stages"][0]["id"] == "world" and len(demo["stages"]) == 9
    assert demo["head"]["exam"]["last"]["model"] == "dpo" and demo["head"]["trained_tokens"] == 8_028_160
    assert len(demo["spark"]) > 10 and demo["spark"][0] > demo["spark"][-1]


def test_a_single_run_can_be_given(runs: Path) -> None:
    shelf = Shelf(runs / "demo")
    [run] = shelf.runs()
    assert (run["id"], run["name"], len(run["stages"])) == (SELF, "demo", 9)
    assert shelf.folder(SELF, "base") == (runs / "demo" / "base").resolve()
    assert shelf.run(SELF)["name"] == "demo"


def test_stages_say_what_they_can_show(runs: Path) -> None:
    stages = {stage["id"]: stage for stage in Shelf(runs).run("demo")["stages"]}
    assert {"curves", "samples"} <= set(stages["base"]["shows"]) and "exam" in stages["eval"]["shows"]
    assert stages["corpus"]["shows"] == ["corpus"] and stages["tokenizer"]["shows"] == ["tokenizer", "files"]
    assert stages["dpo"]["inputs"] == {"model": ["sft"]}, "no path of this machine"


@pytest.mark.parametrize(
    "names",
    [("..", "x"), ("demo", ".."), ("demo", "base/.."), ("", "base"), ("linked", "base"), ("notes", "x"), ("demo", ".")],
)
def test_names_that_are_not_there_are_missing(runs: Path, names: tuple[str, str]) -> None:
    with pytest.raises(Missing):
        Shelf(runs).folder(*names)


def test_a_stage_at_work_is_told_from_one_that_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "base"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"do": "pretrain"}))
    shelf = Shelf(tmp_path)
    assert shelf.runs()[0]["state"] == "working", "it was written just now"
    long_ago = time.time() - 3600
    for path in (folder / "stage.json", folder):
        os.utime(path, (long_ago, long_ago))
    assert shelf.runs()[0]["state"] == "interrupted"
    if Path("/proc/locks").exists():
        with FileLock(folder / ".hanmo.lock"):
            os.utime(folder, (long_ago, long_ago))
            assert shelf.runs()[0]["state"] == "working", "its lock is held"
        assert FileLock(folder / ".hanmo.lock").acquire(timeout=0), "looking at a lock does not take it"
    (folder / "manifest.json").write_text(json.dumps({"do": "pretrain", "seconds": 2.0, "counts": None}))
    assert shelf.runs()[0]["state"] == "done"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"do": 3}', '{"models": 1}', "\x00"])
def test_torn_and_foreign_files_do_not_hide_other_runs(runs: Path, tmp_path: Path, text: str) -> None:
    for name in ("manifest.json", "stage.json"):
        (tmp_path / "torn" / "base").mkdir(parents=True, exist_ok=True)
        (tmp_path / "torn" / "base" / name).write_text(text)
    good = tmp_path / "good" / "eval"
    good.mkdir(parents=True)
    (good / "manifest.json").write_text('{"do": "eval", "counts": {}}')
    (good / "eval.json").write_text('{"models": [{"name": "x"}], "exams": {}}')
    assert [run["id"] for run in Shelf(tmp_path).runs()] == ["good"]


def test_what_is_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match=r"nowhere: no such folder; give the one .* --out"):
        Shelf(tmp_path / "nowhere")
