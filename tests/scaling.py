"""What the tests of executors share: a corpus of many small tasks, real commands, and what a kill left and redid."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from nest import behind

WORDS = ["春天", "花园", "小明", "老师", "学校", "下雨", "高兴", "苹果", "月亮", "故事", "山水", "朋友", "早上", "城市"]

#: Tasks and buckets are many where the stage that plans them thinks in kilobytes. Only its process needs to know.
_SMALL = """
import sys
if {"hanmo", "hanmo.child"} & set(sys.orig_argv):
    from hanmo.corpus import inputs, stage
    inputs.TASK, stage.BUCKET = 20_000, 40_000
"""

RECIPE = """
name: scaled
stages:
  - {name: text, do: corpus, sources: [{path: ./raw}], heldout_fraction: 0.05, quality: {min_chars: 5}}
  - {do: tokenizer, from: text, vocab_size: 300}
  - {name: tokens, do: tokens, from: {corpus: text, tokenizer: tokenizer}}
"""


def project(folder: Path, documents: int = 1200) -> Path:
    """A recipe over so many documents of 200 characters in eight files, a fifth of them said twice; its path."""
    dice = random.Random(documents)
    said = ["".join(dice.choice(WORDS) + dice.choice("，。的和") for _ in range(80)) for _ in range(documents)]
    said += said[: documents // 5]
    (folder / "raw").mkdir(parents=True)
    for number in range(8):
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in said[number::8]]
        (folder / "raw" / f"{number}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    (folder / "small").mkdir()
    (folder / "small" / "sitecustomize.py").write_text(_SMALL, encoding="utf-8")
    return path


def environment(recipe: Path, **more: str) -> dict[str, str]:
    """For the commands of a project: its tasks are small."""
    places = [str(recipe.parent / "small"), str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), **more}


def hanmo(recipe: Path, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end."""
    command = [sys.executable, "-m", "hanmo", *map(str, words)]
    return subprocess.run(
        command, env=environment(recipe, **more), capture_output=True, text=True, encoding="utf-8", timeout=200
    )


def must(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that has to succeed said."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def digests(out: Path) -> dict[str, str]:
    """A hash of every result file of a run; what tells of time and place is left out."""
    told = ("manifest.json", "stage.json", "plan.json")
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in told and not path.name.startswith(".") and "slurm" not in path.parts
    }


def finished(out: Path, kind: str) -> dict[str, int]:
    """The files that finished tasks of a phase have left: name to time of writing."""
    pattern = {"gather": "text/work/gather/*.json", "deal": "text/work/deal/*.json", "encode": "tokens/*/*.metadata"}
    return {path.as_posix(): path.stat().st_mtime_ns for path in out.glob(pattern[kind])}


def kill_when(process: subprocess.Popen[bytes], out: Path, kind: str, tasks: int) -> dict[str, int]:
    """SIGKILL a process that leads its group when so many tasks are done; returns what was done by then."""
    group = behind(process).pid
    deadline = time.monotonic() + 120
    while len(finished(out, kind)) < tasks:
        assert process.poll() is None, f"it ended before {tasks} tasks of {kind} were done"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(group, signal.SIGKILL)
    process.wait()
    return finished(out, kind)


def watch(process: subprocess.Popen[bytes], out: Path, kind: str) -> dict[str, int]:
    """Wait for a process; returns the newest time seen of every finished task, since a stage clears them away."""
    seen: dict[str, int] = {}
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # cleared away while we looked
            seen |= finished(out, kind)
        time.sleep(0.002)
    assert process.returncode == 0
    return seen
