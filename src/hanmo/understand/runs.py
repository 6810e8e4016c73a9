"""The runs of a stage that tunes on a task: what each came to, what is said of all of them, and where each stands.

While the stage goes on, `trainer/` in its folder has `run-N.json` of every run that is done, and the checkpoint of the
one that is not. `model/` and the predictions are those of the best so far. So a killed stage does no run again.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from hanmo.files import read_json, write_json
from hanmo.understand.settings import UnderstandSettings
from hanmo.understand.tasks import Task

_WEIGHTS, _FIGURES = "best.safetensors", "best.json"


@dataclass
class Run:
    """One training: its settings, the score of its best checkpoint, rows that were cut, and what was not told."""

    seed: int
    fold: int | None
    chosen: dict[str, Any]
    dev: dict[str, Any]
    test: dict[str, Any] | None
    best_step: int
    seconds: float
    cut: int
    lost: dict[str, int]

    def as_json(self, metric: str) -> dict[str, Any]:
        """As it stands in results.json."""
        where = {"seed": self.seed, **({} if self.fold is None else {"fold": self.fold}), **self.chosen}
        return where | {
            "metric": metric,
            "dev": self.dev,
            "test": self.test,
            "best_step": self.best_step,
            "seconds": round(self.seconds, 1),
        }

    def line(self, what: Task, number: int, count: int) -> str:
        """What is said of it, the `number`th of `count`."""
        figures = self.test or self.dev
        chosen = "".join(f", {name} {value}" for name, value in self.chosen.items())
        split = "" if self.fold is None else f", split {self.fold}"
        return (
            f"{what.name} {number}/{count} (seed {self.seed}{split}{chosen}): {what.metric} {figures[what.metric]:.4f} "
            f"[{figures['low']:.4f}, {figures['high']:.4f}] on {figures['n']} of {'test' if self.test else 'dev'}"
        )


@dataclass
class Best:
    """The best state of a run so far, by dev."""

    value: float = -1.0
    step: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def save(self, checkpoint: Path) -> None:
        """Keep it in a checkpoint."""
        if self.state:
            save_file({name: tensor.contiguous() for name, tensor in self.state.items()}, checkpoint / _WEIGHTS)
            write_json(checkpoint / _FIGURES, {"value": self.value, "step": self.step})

    def load(self, checkpoint: Path) -> None:
        """Take what a checkpoint has."""
        if (checkpoint / _FIGURES).is_file():
            figures = read_json(checkpoint / _FIGURES)
            self.value, self.step, self.state = figures["value"], figures["step"], load_file(checkpoint / _WEIGHTS)


def folder_of(out: Path, number: int) -> Path:
    """Where the checkpoint of a run is; its record is beside it."""
    return out / "trainer" / f"run-{number}"


def done(out: Path) -> list[Run]:
    """The runs that are done, in their order."""
    paths = (folder_of(out, number).with_suffix(".json") for number in itertools.count(1))
    return [Run(**read_json(path)) for path in itertools.takewhile(Path.is_file, paths)]


def keep(out: Path, number: int, one: Run) -> None:
    """Write down that a run is done."""
    write_json(folder_of(out, number).with_suffix(".json"), asdict(one))
    shutil.rmtree(folder_of(out, number), ignore_errors=True)


def best_of(runs: Sequence[Run], what: Task) -> Run:
    """The run whose model is kept: the first of those that are best on dev."""
    return max(runs, key=lambda one: one.dev[what.metric])


def summary(settings: UnderstandSettings, what: Task, runs: Sequence[Run]) -> dict[str, Any]:
    """Means over seeds and splits; of several swept settings the one that is best on dev counts."""
    tried = []
    for variant in settings.variants():
        same = [one for one in runs if one.chosen == variant]
        dev = [one.dev[what.metric] for one in same]
        tried.append({**variant, "dev": statistics.mean(dev), "dev_deviation": _deviation(dev), "same": same})
    chosen = max(tried, key=lambda one: one["dev"])
    same: list[Run] = chosen["same"]
    on = "test" if all(one.test for one in same) else "dev"
    figures: list[dict[str, Any]] = [getattr(one, on) for one in same]
    values = [one[what.metric] for one in figures]
    return {
        "task": what.name,
        "metric": what.metric,
        "on": on,
        "score": statistics.mean(values),
        "deviation": _deviation(values),
        **{key: statistics.mean(one[key] for one in figures) for key in ("low", "high", "chance")},
        "n": figures[0]["n"],
        "best": {name: value for name, value in chosen.items() if name not in ("same", "dev", "dev_deviation")},
        "sweep": [{name: value for name, value in one.items() if name != "same"} for one in tried],
    }


def _deviation(values: Sequence[float]) -> float:
    """Sample deviation; 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
