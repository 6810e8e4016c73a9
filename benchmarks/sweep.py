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
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers.many import ALONE, answer, take

RESULT = Path(__file__).parent / "results" / "sweep.json"
BASE = {**ALONE, "context": 256, "warmup_tokens": 20_000}
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


def points(only: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The grid and the settings of all runs."""
    for name, (fixed, tried) in GRIDS.items():
        if only and name not in only.split(","):
            continue
        for values in itertools.product(*tried.values()):
            yield name, {**fixed, **dict(zip(tried, values, strict=True))}


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
        answer(options.one)
        return
    tokens = options.data / "tokens"
    if not (tokens / "tokens.json").is_file():
        print(f"skipped: no text in {options.data}; make it by `hanmo run benchmarks/race.yaml --out {options.data}`")
        return
    wanted = (({"grid": grid, "settings": settings}, settings, tokens) for grid, settings in points(options.only))
    what = {"what": "bits per byte of held-out text by rates, batch, size, budget and start"}
    take(__file__, wanted, BASE, what, options.result, options.jobs or 1)


if __name__ == "__main__":
    main()
