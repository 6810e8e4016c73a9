"""The runners by name, and how one of them is run in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peers.foreign import MINIMIND, NANOCHAT, minimind, nanochat
from peers.job import Job, why_absent
from peers.ours import run
from peers.plain import lab, run_clm


@dataclass(frozen=True)
class Runner:
    """How a runner trains.

    Attributes:
        rates: learning rates that are tried.
        marker: the file that shows that its checkout is at hand.
        like: the runner whose best rate it takes, being the same training, only faster.
    """

    train: Callable[[Job], dict[str, Any]]
    rates: tuple[float, ...] = (1.0,)
    marker: str | None = None
    like: str | None = None


ADAM = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
RUNNERS: dict[str, Runner] = {
    "hanmo": Runner(run),
    "lab": Runner(lab),
    "nanochat": Runner(nanochat, (2, 4, 8, 16, 32), NANOCHAT),
    "minimind": Runner(minimind, ADAM, MINIMIND),
    "run_clm-bf16-compile": Runner(lambda job: run_clm(job, fast=True), ADAM),
    "run_clm": Runner(lambda job: run_clm(job, fast=False), ADAM, like="run_clm-bf16-compile"),
}


def absent(name: str, checkout: str | None) -> str | None:
    """Why the runner cannot run here, or None."""
    marker = RUNNERS[name].marker
    return why_absent(checkout, marker, f"--{name}") if marker else None


def perform(job: Job, script: str, cache: Path | None = None) -> dict[str, Any]:
    """Run a job by `python SCRIPT --job FILE RESULT` and return its record.

    Args:
        cache: where compiled code is kept and found again; without it the run compiles everything anew.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=job.scratch) as folder:
        file, result = Path(folder) / "job.json", Path(folder) / "result.json"
        (Path(folder) / "scratch").mkdir()
        replace(job, scratch=str(Path(folder) / "scratch")).write(file)
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TORCHINDUCTOR_CACHE_DIR": str(cache or Path(folder) / "compiled"),
        }
        command = [sys.executable, script, "--job", str(file), str(result)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        if done.returncode or not result.is_file():
            raise RuntimeError(f"{job.runner}: ended with {done.returncode}\n{done.stdout[-2000:]}")
        return json.loads(result.read_text(encoding="utf-8"))


def main(file: str, result: str) -> None:
    """The other end of `perform`."""
    job = Job.read(Path(file))
    record = RUNNERS[job.runner].train(job)
    record["job"] = {"runner": job.runner, "rate": job.rate, "steps": job.steps, "tokens_per_step": job.tokens}
    # Written whole: whoever looks for results must not find half of one.
    torn = Path(result + ".tmp")
    torn.write_text(json.dumps(record), encoding="utf-8")
    shutil.move(torn, result)
