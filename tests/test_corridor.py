"""The whole corridor on a tiny world: it runs; no SIGKILL and no full disk in any stage changes what comes out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nest import behind, warm, warm_interpreter

RECIPE = Path(__file__).parents[1] / "recipes" / "demo.yaml"
TINY = [
    "world.megabytes=0.4",
    "world.people=30",
    "world.places=12",
    "world.dialogues=150",
    "world.preferences=60",
    "world.exam_per_category=4",
    "corpus.workers=2",
    "tokenizer.vocab_size=700",
    "tokens.workers=2",
    "base.preset=hanmo-1m",
    "base.tokens=30k",
    "base.compile=false",
    "base.threads=1",
    "base.checkpoint_seconds=0.5",
    "sft.threads=1",
    "sft.epochs=1",
    "dpo.threads=1",
    "eval.sample_tokens=8",
    "eval.answer_tokens=12",
]
STAGES = ["world", "corpus", "tokenizer", "tokens", "base", "sft", "dpo", "eval", "gguf", "report"]
#: What must come out alike: everything but records of time, memory and the folder itself.
RESULTS = ["documents.jsonl.zst", "exam.jsonl", "*.ds", "tokenizer.json", "model.safetensors", "*.gguf", "exam-*.jsonl"]


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "hanmo", "run", str(RECIPE), "--out", str(out), *more, *TINY]


def run(out: Path, programs: Path | None) -> None:
    with warm_interpreter(programs):
        done = subprocess.run(command(out), capture_output=True, text=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def digests(out: Path) -> dict[str, str]:
    """A hash of every result file of a run."""
    found = {
        p
        for stage in STAGES
        for pattern in RESULTS
        for p in (out / stage).rglob(pattern)
        if "checkpoints" not in p.parts
    }
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(found)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, programs: Path | None) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("corridor") / "whole"
    run(out, programs)
    return out


def test_everything_is_there(whole: Path) -> None:
    assert all((whole / stage / "manifest.json").is_file() for stage in STAGES)
    evaluation = json.loads((whole / "eval" / "eval.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in evaluation["models"]] == ["base", "sft", "dpo"]
    for model in evaluation["models"]:
        total = next(iter(model["exams"].values()))["total"]
        assert total["n"] == 44 and 0 <= total["low"] <= total["accuracy"] <= total["high"] <= 1
        assert 0.1 < model["heldout"]["bits_per_byte"] < 8
    page = (whole / "report" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL as POSIX has it")
def test_a_kill_in_every_stage_changes_nothing(whole: Path, tmp_path: Path, programs: Path | None) -> None:
    torn = tmp_path / "torn"
    dice = random.Random(5)
    killed = 0
    for stage in STAGES:
        seconds = json.loads((whole / stage / "manifest.json").read_text(encoding="utf-8"))["seconds"]
        with warm_interpreter(programs):
            process = subprocess.Popen(command(torn, "--until", stage), stderr=subprocess.DEVNULL)
            runner = behind(process)
        # Where the runner forks, its child has begun to work when it is there; else it imports first.
        while process.poll() is None and not runner.children():
            time.sleep(0.01)
        time.sleep(seconds * dice.uniform(0.1, 0.8))
        if process.poll() is None:
            # In turns the runner, whose stage must end with it, and the stage's own process.
            stages = runner.children()
            victim = stages[0].pid if stages and killed % 2 else runner.pid
            os.kill(victim, signal.SIGKILL)
            killed += 1
        assert process.wait(timeout=60) != 0 or (torn / stage / "manifest.json").exists()
    run(torn, programs)
    assert killed >= 5
    assert digests(torn) == digests(whole)
    assert len(digests(whole)) > 12


def may_mount() -> bool:
    """Whether this machine lets us mount a small file system of our own."""
    if shutil.which("unshare") is None:
        return False
    trial = ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    return subprocess.run(trial, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def mounting(
    tmp_path_factory: pytest.TempPathFactory, programs: Path | None
) -> Iterator[tuple[list[str], Path | None]]:
    """What begins a command that may mount file systems, and warm programs that see them."""
    if not may_mount():
        pytest.skip("needs unshare and the right to mount a tmpfs")
    alone = ["unshare", "-Urm"]
    if programs is None:
        yield alone, None
        return
    with warm(tmp_path_factory.mktemp("nest"), *alone) as found:
        nest = (found.parent / "pid").read_text(encoding="utf-8")
        yield ["nsenter", f"--target={nest}", "--user", "--mount", "--preserve-credentials"], found


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    whole: Path, tmp_path: Path, mounting: tuple[list[str], Path | None], stage: str
) -> None:
    """The stage's folder is a real file system of a third of what it needs, which is then made large enough."""
    torn = tmp_path / "torn"
    torn.mkdir()
    for other in STAGES:
        if other != stage:
            (torn / other).symlink_to(whole / other)
    (torn / stage).mkdir()
    needed = sum(path.stat().st_size for path in (whole / stage).rglob("*") if path.is_file())
    script = """
        mount -t tmpfs -o size="$1" tmpfs "$2"; shift
        place=$1; shift
        "$@" 2> "$place.first"; echo $? > "$place.status"
        ls -A "$place" > "$place.left"
        mount -o remount,size=1g "$place"
        "$@" 2> "$place.second" || exit 1
        mkdir "$place.made" && cp -r "$place/." "$place.made"
    """
    size = str(max(16_384, needed // 3))
    may, programs = mounting
    with warm_interpreter(programs):
        words = [*may, "sh", "-c", script, "sh", size, str(torn / stage), *command(torn, "--until", stage)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    said = (torn / f"{stage}.first").read_text(encoding="utf-8")
    assert (torn / f"{stage}.status").read_text().strip() == "2", said
    assert "Traceback" not in said, said
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "disk is full" in errors[0], said
    assert "manifest.json" not in (torn / f"{stage}.left").read_text()
    assert done.returncode == 0, (torn / f"{stage}.second").read_text(encoding="utf-8")
    (torn / stage).rmdir()
    (torn / f"{stage}.made").rename(torn / stage)
    assert digests(torn) == digests(whole)
