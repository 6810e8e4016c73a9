"""A sweep of rates and batches by size, budget and start, for rules that pick them.

    HANMO_DATA=/path/to/data hanmo run benchmarks/race.yaml --out runs/race/data
    python benchmarks/sweep.py --data runs/race/data --jobs 4 [--only NAME]

Every run is the pretraining stage on one thread, so that as many go on at a time as there are cores: what counts is
bits per byte of held-out text after so many tokens, not time. Finished runs are kept in the result, so that the same
command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

RESULT = Path(__file__).parent / "results" / "sweep.json"
BASE = {
    "context": 256,
    "eval_every": 0,
    "eval_bytes": 400_000,
    "sample_prompts": [],
    "checkpoint_seconds": 1e6,
    "warmup_tokens": 20_000,
    "threads": 1,
    "device": "cpu",
    "log_every": 10_000,
}
#: By name: settings that are fixed, and the values that are tried, each with each.
GRIDS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "rates": (
        {"preset": "1m", "tokens": 1_000_000, "batch_tokens": 2048},
        {"lr": [3e-3, 6e-3, 1.2e-2, 2.4e-2], "matrix_lr": [0.0025, 0.005, 0.01, 0.02]},
    ),
    "batch": (
        {"preset": "1m", "tokens": 1_000_000, "lr": 1.2e-2},
        {"batch_tokens": [1024, 4096, 8192], "matrix_lr": [0.005, 0.01, 0.02]},
    ),
    "width": (
        {"preset": "4m", "tokens": 1_000_000, "batch_tokens": 2048},
        {"lr": [6e-3, 1.2e-2, 2.4e-2], "matrix_lr": [0.005, 0.01, 0.02]},
    ),
    "budget": (
        {"preset": "1m", "tokens": 4_000_000, "matrix_lr": 0.01, "lr": 1.2e-2},
        {"batch_tokens": [4096, 16384, 8192]},
    ),
    "adamw": (
        {"tokens": 1_000_000, "batch_tokens": 2048, "optimizer": "adamw"},
        {"preset": ["1m", "4m"], "lr": [1e-3, 2e-3, 4e-3, 8e-3]},
    ),
    "decay": (
        {"preset": "1m", "tokens": 1_000_000, "batch_tokens": 2048, "lr": 1.2e-2, "matrix_lr": 0.02},
        {"decay_fraction": [0.2, 0.6, 0.8, 1.0]},
    ),
}


def points(only: str | None) -> Iterator[dict[str, Any]]:
    """The settings of all runs."""
    for name, (fixed, tried) in GRIDS.items():
        if only and name not in only.split(","):
            continue
        for values in itertools.product(*tried.values()):
            yield {"grid": name, **fixed, **dict(zip(tried, values, strict=True))}


def train(settings: dict[str, Any], data: Path) -> dict[str, Any]:
    """Run the stage; what it ends at."""
    from hanmo.pretrain.settings import PretrainSettings
    from hanmo.pretrain.stage import run

    with tempfile.TemporaryDirectory() as folder:
        counts = run(PretrainSettings(**BASE, **settings), {"data": [data / "tokens"]}, Path(folder))
    return {name: counts[name] for name in ("heldout_bpb", "parameters", "steps", "training_seconds")}


def main() -> None:
    """Take the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/race/data"), help="a folder made by race.yaml")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", help="grids by name, with commas between")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(train(json.loads(options.one), options.data)))
        return
    if not (options.data / "tokens" / "tokens.json").is_file():
        print(f"skipped: no text in {options.data}; make it by `hanmo run benchmarks/race.yaml --out {options.data}`")
        return

    from hanmo.child import machine, versions

    kept = json.loads(options.result.read_text(encoding="utf-8"))["runs"] if options.result.is_file() else []
    lock = Lock()

    def take(point: dict[str, Any]) -> None:
        settings = {name: value for name, value in point.items() if name != "grid"}
        with lock:
            if any(item["settings"] == settings for item in kept):
                return
        command = [sys.executable, __file__, "--data", str(options.data), "--one", json.dumps(settings)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = {"grid": point["grid"], "settings": settings, **json.loads(done.stdout.splitlines()[-1])}
        print(found, file=sys.stderr)
        with lock:
            kept.append(found)
            result = {
                "what": "bits per byte of held-out text by rates, batch, size, budget and start",
                "common": BASE,
                "runs": kept,
                "machine": machine(),
                "versions": versions(),
            }
            options.result.parent.mkdir(parents=True, exist_ok=True)
            options.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(take, points(options.only)))


if __name__ == "__main__":
    main()
