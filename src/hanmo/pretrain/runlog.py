"""log.jsonl of a training: what its lines hold, and keeping it true to the weights when a run is resumed.

The first line says by what the figures are measured: {"step": 0, "model": {parameters, flops_per_token}, "yardstick":
{flops_per_second, size, dtype, device, threads}}. The others, and guard.jsonl beside it, are described line by line in
docs/training.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanmo.console import human_count
from hanmo.pretrain.meter import Meter, Yardstick, measure
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.trackers import Place, Trackers


class RunLog:
    """Writes the logs below `out` and passes the figures on to the trackers.

    Args:
        bytes_per_token: of the training text, for the loss in bits per byte; None where it is not known.
        writes: whether this process is the one that writes; the others only compute lines.
    """

    def __init__(
        self, out: Path, settings: PretrainSettings, bytes_per_token: float | None = None, writes: bool = True
    ) -> None:
        self.out, self._settings, self._bytes_per_token, self._writes = out, settings, bytes_per_token, writes
        self._trackers = Trackers()
        self._losses: list[float] = []
        self._norms: list[float] = []

    def begin(self, step: int, meter: Meter, parameters: int, device: torch.device, dtype: torch.dtype) -> None:
        """Open the trackers, and see that the meter has the yardstick that the log names.

        A resumed run goes on with the yardstick of its beginning, so that its curve has one measure; on another device
        there is another one, and a line that says so.
        """
        if not self._writes:
            meter.begin()
            return
        chosen = self._settings
        self._trackers = Trackers(
            chosen.trackers,
            lambda: Place(chosen.project, chosen.run_name, self.out, chosen.model_dump(mode="json"), step),
        )
        kind = Yardstick.kind(device, dtype)
        known = [line["yardstick"] for _, line in self._lines("log.jsonl") if "yardstick" in line]
        same = [line for line in known if (line["device"], line["threads"], line["dtype"]) == kind]
        meter.yardstick = Yardstick(**same[-1]) if same else measure(device, dtype)
        if not same:
            model = {"parameters": parameters, "flops_per_token": meter.flops_per_token}
            self.append("log.jsonl", {"step": step, "model": model, "yardstick": vars(meter.yardstick)})
        meter.begin()

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one JSON line to a log file of this run."""
        if not self._writes:
            return
        with (self.out / name).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if name == "log.jsonl":
            self._trackers.log(line)

    def saw(self, loss: float, norm: float) -> None:
        """Note a step, for the means of the next line, which leave out what is not finite."""
        for value, kept in ((loss, self._losses), (norm, self._norms)):
            if math.isfinite(value):
                kept.append(value)

    def forget(self) -> None:
        """Drop what was noted since the last line: the run went back."""
        self._losses, self._norms = [], []

    def line(self, place: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
        """Write a line and return it: `place` (step, tokens), the means of what was noted, `figures`."""
        line = dict(place)
        if self._losses:
            loss = float(np.mean(self._losses))
            line["loss"] = round(loss, 5)
            if self._bytes_per_token:
                line["bits_per_byte"] = round(loss / math.log(2) / self._bytes_per_token, 5)
        if self._norms:
            line["gradient_norm"] = round(float(np.mean(self._norms)), 5)
        self.forget()
        line |= figures
        self.append("log.jsonl", line)
        return line

    def trim(self, step: int, events: int | None = None) -> None:
        """Drop lines from after `step`, which will be written again, and all but the first `events` of guard.jsonl."""
        for name in ("log.jsonl", "samples.jsonl"):
            self._keep(name, lambda number, line: line["step"] <= step)
        if events is not None:
            self._keep("guard.jsonl", lambda number, line: number < events)

    def clear(self) -> None:
        """Begin all logs anew."""
        for name in ("log.jsonl", "samples.jsonl", "guard.jsonl"):
            if self._writes:
                (self.out / name).unlink(missing_ok=True)

    def close(self) -> None:
        """End the trackers' runs."""
        self._trackers.close()

    def _lines(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        path = self.out / name
        if not path.exists():
            return
        for text in path.read_text(encoding="utf-8").split("\n"):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # the torn last line of a killed run
            if isinstance(line, dict) and "step" in line:
                yield text, line

    def _keep(self, name: str, wanted) -> None:
        path = self.out / name
        if self._writes and path.exists():
            kept = [text for number, (text, line) in enumerate(self._lines(name)) if wanted(number, line)]
            path.write_text("".join(text + "\n" for text in kept), encoding="utf-8", newline="\n")


def short(line: dict[str, Any]) -> str:
    """A line of the log in the words of the progress display."""
    words = [f"loss {line['loss']:.3f}"] if "loss" in line else ["all steps skipped"]
    words.append(f"{human_count(line['tokens_per_second'])} tokens/s")
    if "mfu" in line:
        words.append(f"MFU {line['mfu']:.0%}")
    return "  ".join(words)
