"""Stages that are at work, made up."""

from __future__ import annotations

import json
from pathlib import Path


def begun(folder: Path, do: str = "pretrain") -> Path:
    """A stage that has begun and is not done."""
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"stage": folder.name, "do": do, "key": "1", "settings": {}}))
    return folder


def log(folder: Path, steps: int, first: int = 1) -> None:
    """Add lines to a stage's log: the loss of step s is 8 / s, with one spike at step 777."""
    with (folder / "log.jsonl").open("a") as file:
        for step in range(first, first + steps):
            line = {"step": step, "tokens": step * 64, "loss": 50.0 if step == 777 else 8 / step, "lr": 0.01}
            file.write(json.dumps(line) + "\n")


def model(folder: Path, do: str, architecture: str = "Qwen3ForCausalLM") -> None:
    """A stage that has made a model, as far as a list of models looks."""
    (folder / "model").mkdir(parents=True)
    (folder / "manifest.json").write_text(
        json.dumps({"stage": folder.name, "do": do, "key": "1", "result": "1", "counts": {}})
    )
    (folder / "model" / "config.json").write_text(json.dumps({"architectures": [architecture]}))
