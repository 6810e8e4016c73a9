"""Many runs of the pretraining stage, each on one thread in a process of its own, kept in a result as they finish."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

#: What a run tells.
KEPT = ("heldout_bpb", "parameters", "steps", "tokens", "training_seconds")

#: Settings of all such runs: one thread each, a score at their end and nothing before it.
ALONE: dict[str, Any] = {
    "eval_every": 0,
    "eval_bytes": 400_000,
    "sample_prompts": [],
    "checkpoint_seconds": 1e6,
    "threads": 1,
    "device": "cpu",
    "log_every": 10_000,
}


def train(settings: dict[str, Any], tokens: Path) -> dict[str, Any]:
    """Run the stage in this process; what it ends at."""
    from hanmo.pretrain.settings import PretrainSettings
    from hanmo.pretrain.stage import run

    with tempfile.TemporaryDirectory() as folder:
        counts = run(PretrainSettings(**settings), {"data": [tokens]}, Path(folder))
    return {name: counts[name] for name in KEPT}


def answer(job: str) -> None:
    """Do what `take` asked for, in the process that it started: prints the run's figures."""
    asked = json.loads(job)
    print(json.dumps(train(asked["settings"], Path(asked["tokens"]))))


def take(
    script: str,
    points: Iterable[tuple[dict[str, Any], dict[str, Any], Path]],
    common: dict[str, Any],
    head: dict[str, Any],
    result: Path,
    jobs: int,
) -> None:
    """Take the runs that the result lacks, `jobs` at a time; `SCRIPT --one JSON` must call `answer`.

    Args:
        points: (what tells this run from the others, its settings, the tokens folder).
        common: settings of all.
        head: what stands in the result before the runs.
    """
    from hanmo.child import machine, versions

    kept = json.loads(result.read_text(encoding="utf-8"))["runs"] if result.is_file() else []
    lock = Lock()

    def run(point: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
        facts, settings, tokens = point
        with lock:
            if any({name: item.get(name) for name in facts} == facts for item in kept):
                return
        job = json.dumps({"settings": common | settings, "tokens": str(tokens)})
        done = subprocess.run([sys.executable, script, "--one", job], stdout=subprocess.PIPE, text=True, check=True)
        found = facts | json.loads(done.stdout.splitlines()[-1])
        print(found, file=sys.stderr)
        with lock:
            kept.append(found)
            whole = head | {"common": common, "runs": kept, "machine": machine(), "versions": versions()}
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, points))
