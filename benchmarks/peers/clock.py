"""The clock of a run, which stands still while held-out text is scored, and the score all runners share.

Scored is the same text for everyone: whole held-out documents, each by the runner's own tokenizer. A document's nats
are summed over all its tokens and its closing mark; the sum over documents, divided by ln 2 and by the UTF-8 bytes of
the text, is the figure. Documents that are longer than a row are cut into windows of a row that advance by three
quarters of one, and each token is paid for once. A runner whose training rows all begin with a mark (MiniMind,
nanochat) has that mark at the beginning of every window; the others continue in the middle of a document, as their
training rows do.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hanmo.evaluate.likelihood import Row, sequence_nll

#: Steps at the beginning that compile and warm caches. In a curve without start-up each counts as a median step.
STARTUP = 3


class Scorer:
    """Bits per byte of a model on fixed documents.

    Args:
        encode: text to token ids, without marks.
        begin, end: ids of the marks around a document.
        anchored: every window begins with `begin`.
    """

    def __init__(
        self,
        texts: Sequence[str],
        encode: Callable[[str], Sequence[int]],
        begin: int,
        end: int,
        context: int,
        anchored: bool = False,
    ) -> None:
        self.bytes = sum(len(text.encode()) for text in texts)
        self.rows: list[Row] = []
        self.tokens = 0
        for owner, text in enumerate(texts):
            ids = np.array([begin, *encode(text), end], dtype=np.int64)
            self.tokens += len(ids) - 1
            self.rows += self._cut(ids, owner, context, begin if anchored else None)
        self.documents = len(texts)

    @staticmethod
    def _cut(ids: np.ndarray, owner: int, context: int, anchor: int | None) -> list[Row]:
        rows, paid, last = [], 0, len(ids) - 1
        while paid < last:
            stop = min(last, context if not paid else paid + context * 3 // 4)
            start = max(0, stop - context)
            piece = ids[start : stop + 1].copy()
            if anchor is not None:
                piece[0] = anchor
            rows.append(Row(piece, paid - start + 1, owner))
            paid = stop
        return rows

    def bits(self, model: torch.nn.Module) -> float:
        """Bits per byte, the products in bf16."""
        nats = sequence_nll(model, self.rows, self.documents, batch_tokens=8192, autocast=torch.bfloat16)
        return float(nats.sum()) / math.log(2) / self.bytes


class Clock:
    """Durations of steps, and the points of the curve.

    Attributes:
        seconds: of every step; what was before the first (loading compiled code, workers) is part of it.
        points: (steps done, bits per byte).
        targets: of every step, where the runner counts them.
    """

    def __init__(self, every: float, device: str = "cpu") -> None:
        self.every = every
        self.seconds: list[float] = []
        self.points: list[tuple[int, float]] = []
        self.targets: list[int] = []
        self.scorer: Scorer | None = None
        self._cuda = device.startswith("cuda")
        self._since = 0.0
        self._mark = time.perf_counter()

    def start(self) -> None:
        """Training begins."""
        self._mark = time.perf_counter()

    def step(self, model: torch.nn.Module) -> None:
        """A step is done: note its time, and score when it is time to."""
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._mark)
        if len(self.seconds) > STARTUP:
            self._since += self.seconds[-1]
        if self.every > 0 and self._since >= self.every:
            self.score(model)
            self._since = 0.0
        self._mark = time.perf_counter()

    def score(self, model: torch.nn.Module) -> None:
        """Add a point."""
        if self.scorer and self.every >= 0 and (not self.points or self.points[-1][0] != len(self.seconds)):
            self.points.append((len(self.seconds), self.scorer.bits(model)))

    def record(self) -> dict[str, Any]:
        """What was measured, for a JSON file."""
        found: dict[str, Any] = {"seconds": [round(s, 5) for s in self.seconds], "points": self.points}
        if self.targets:
            found["targets"] = self.targets
        if self.scorer:
            found |= {"heldout_bytes_per_token": self.scorer.bytes / self.scorer.tokens}
        return found


def step_seconds(seconds: Sequence[float]) -> float:
    """The median step behind the start-up."""
    return statistics.median(seconds[STARTUP:] or seconds)


def figures(record: dict[str, Any], tokens: int) -> dict[str, float]:
    """What one run says: tokens/s of all places and, where some are padding, of real targets; model FLOP/s."""
    seconds = step_seconds(record["seconds"])
    found = {"tokens_per_second": round(tokens / seconds, 1)}
    if "targets" in record:
        real = statistics.mean(record["targets"][STARTUP:] or record["targets"])
        found["real_tokens_per_second"] = round(real / seconds, 1)
    return found | {"model_gflops": round(record["flops_per_token"] * tokens / seconds / 1e9, 1)}


def curve(record: dict[str, Any]) -> list[dict[str, float]]:
    """The points of a record as {seconds, seconds_with_startup, bits_per_byte}.

    What a runner learns before its first step (`before`, in seconds) is training as well.
    """
    raw = np.array(record["seconds"])
    steady = raw.copy()
    steady[:STARTUP] = np.minimum(steady[:STARTUP], step_seconds(record["seconds"]))
    before = record.get("before", 0.0)
    both = before + np.cumsum(steady), before + np.cumsum(raw)
    return [
        {
            "step": step,
            "seconds": round(float(both[0][step - 1]), 2),
            "seconds_with_startup": round(float(both[1][step - 1]), 2),
            "bits_per_byte": round(bits, 5),
        }
        for step, bits in record["points"]
    ]
