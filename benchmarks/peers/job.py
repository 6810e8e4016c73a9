"""What one run of one runner is: sizes that are alike, where the peers lie, and the record it leaves."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hanmo.files import fingerprint_json


@dataclass(frozen=True)
class Size:
    """Models of about the same number of parameters.

    Attributes:
        preset: of ours, and of what runs transformers' Trainer.
        minimind: hidden size and layers of MiniMind's model.
        nanochat: depth of nanochat's model, heads of 64 channels, 64 channels of width a layer.
    """

    preset: str
    minimind: tuple[int, int]
    nanochat: int


SIZES = {
    "tiny": Size("hanmo-1m", (128, 4), 2),
    "16m": Size("hanmo-16m", (384, 8), 5),
    "92m": Size("hanmo-92m", (768, 13), 12),
    "1b1": Size("hanmo-1b1", (2048, 16), 26),
}


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        runner: a key of `peers.runners.RUNNERS`.
        rate: peak learning rate; for nanochat a factor of all its rates. Ours and the lab script's are
            fixed.
        steps: optimiser steps; schedules end with them.
        every: seconds of training between looks at held-out text; 0 for one at the end alone, -1 for none.
        data: folder that `peers.text.prepare` filled.
        checkout: of the peer.
        extra: settings of our pretraining stage.
    """

    runner: str
    size: str
    steps: int
    rate: float
    every: float
    data: str
    scratch: str
    device: str = "cpu"
    rows: int = 8
    context: int = 512
    checkout: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Places for tokens in one step, padding included."""
        return self.rows * self.context

    @property
    def key(self) -> str:
        """Names the run: a job that would be another run has another key."""
        facts = {k: v for k, v in asdict(self).items() if k not in ("data", "scratch", "checkout")}
        return f"{self.runner}-{fingerprint_json(facts)[:12]}"

    def write(self, path: Path) -> None:
        """Hand the job to a process."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        """The job that `write` left."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def commit_of(checkout: Path) -> str:
    """The commit of a peer's folder: a git checkout, or an export with the commit in a file COMMIT."""
    if (checkout / "COMMIT").is_file():
        return (checkout / "COMMIT").read_text(encoding="utf-8").strip()
    done = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def why_absent(checkout: str | None, marker: str, option: str) -> str | None:
    """Why a peer cannot run here, or None where it can."""
    if not checkout:
        return f"no {option} PATH given"
    return None if (Path(checkout) / marker).is_file() else f"{option} {checkout}: no {marker} there"
