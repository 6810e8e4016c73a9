"""The training loop: packed rows in, a model and a log out, exact under interruption.

Everything that decides the weights is a function of the settings and the step number: the rows (`tokens.order`), the
learning rates (`schedule`), the arithmetic (fixed when the run began and kept in its checkpoints). A killed run goes on
from its newest checkpoint and ends with the same bits as an undisturbed one on the same machine.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanmo.console import console, human_count, progress
from hanmo.errors import HanmoError
from hanmo.pretrain.checkpoint import CheckpointStore
from hanmo.pretrain.optimizer import build_optimizers
from hanmo.pretrain.schedule import Schedule
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.step import PackedStep
from hanmo.tokens.order import Order, Rows


class Interrupted(Exception):
    """A signal asked the run to stop; its checkpoint is written."""


@dataclass
class Batches:
    """How a step is cut: `rows` packed rows of one optimiser step in pieces of `micro` rows."""

    rows: int
    micro: int

    @classmethod
    def plan(cls, settings: PretrainSettings) -> Batches:
        """Cut `batch_tokens` into equal micro-batches of at most `micro_tokens` (8192 when that is 0)."""
        if settings.batch_tokens % settings.context:
            raise HanmoError(
                f"batch_tokens: {settings.batch_tokens} is no multiple of context {settings.context}; "
                f"{settings.batch_tokens // settings.context * settings.context or settings.context} is"
            )
        rows = settings.batch_tokens // settings.context
        most = max(1, (settings.micro_tokens or 8192) // settings.context)
        micro = next(size for size in range(min(most, rows), 0, -1) if rows % size == 0)
        return cls(rows, micro)


@dataclass
class Meter:
    """Where the seconds of the steps since the last line went."""

    shares: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str):
        """Time a block under `name`."""
        start = time.perf_counter()
        yield
        self.shares[name] = self.shares.get(name, 0.0) + time.perf_counter() - start

    def flush(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        done, self.shares = self.shares, {}
        return done


class Trainer:
    """Trains `model` on the rows of `order`; `out` gets `log.jsonl`, `samples.jsonl` and `checkpoints/`."""

    def __init__(
        self,
        model: Any,
        settings: PretrainSettings,
        order: Order,
        out: Path,
        dtype: torch.dtype,
        look=None,
    ) -> None:
        self.model, self.settings, self.order, self.out = model, settings, order, out
        out.mkdir(parents=True, exist_ok=True)
        self.batches = Batches.plan(settings)
        steps = max(1, math.ceil(settings.tokens / settings.batch_tokens))
        self.schedule = Schedule(
            steps=steps,
            warmup=min(settings.warmup_tokens // settings.batch_tokens, steps),
            decay=round(steps * settings.decay_fraction),
        )
        self.dtype = dtype
        self.optimizers = build_optimizers(
            model, settings.optimizer, settings.lr, settings.matrix_lr, settings.weight_decay
        )
        self.step_function = PackedStep(model, dtype, settings.compile, settings.context)
        self.store = CheckpointStore(out / "checkpoints")
        self.step = 0
        self.seconds = 0.0
        self._look = look
        self._meter = Meter()
        self._stop = threading.Event()

    def resume(self) -> bool:
        """Go on from the newest checkpoint that this budget can use; False when there is none.

        One from before the decay's start serves every budget; one from within the decay only the budget it was made
        for.
        """

        def usable(state: dict[str, Any]) -> bool:
            if state.get("order", 1) != self.order.form:
                raise HanmoError(
                    f"{self.out}: an earlier version began this run, and shuffled so many documents otherwise; give "
                    "another --out"
                )
            stable = state["step"] <= min(state["decay_start"], self.schedule.decay_start)
            return stable or state["steps"] == self.schedule.steps

        checkpoint = self.store.newest(usable)
        if checkpoint is None:
            return False
        self.store.load(checkpoint, self.model, self.optimizers)
        self.step, self.seconds = checkpoint.step, checkpoint.state["seconds"]
        self._trim_logs()
        console.print(f"resuming at step {self.step} of {self.schedule.steps} ({checkpoint.path.name})")
        return True

    def run(self) -> dict[str, Any]:
        """Train to the end of the budget; returns the last line's figures.

        Raises:
            Interrupted: after SIGTERM or SIGINT, once the checkpoint is written.
            HanmoError: the loss is no longer a number, or the device's memory does not suffice.
        """
        began = time.perf_counter() - self.seconds
        last: dict[str, Any] = {}
        saved = time.perf_counter()
        losses: list[float] = []
        mark, mark_step = time.perf_counter(), self.step
        with self._signals(), progress() as bar, ThreadPoolExecutor(1) as loader:
            task = bar.add_task("pretrain", total=self.schedule.steps, completed=self.step, info="")
            waiting = loader.submit(self._rows, self.step)
            while self.step < self.schedule.steps:
                with self._meter.part("data"):
                    rows = self._waited(waiting)
                    waiting = loader.submit(self._rows, self.step + 1)
                losses.append(self._one_step(rows))
                self.step += 1
                bar.update(task, completed=self.step)
                done = self.step == self.schedule.steps
                if self.step % self.settings.log_every == 0 or done:
                    now = time.perf_counter()
                    rate = (self.step - mark_step) * self.settings.batch_tokens / (now - mark)
                    self.seconds = now - began
                    last = self._line(float(np.mean(losses)), rate)
                    bar.update(task, info=f"loss {last['loss']:.3f}  {human_count(rate)} tokens/s")
                    losses, mark_step = [], self.step
                every = self.settings.eval_every
                if self._look and (done or (every and self.step % every == 0)):
                    with self._meter.part("look"):
                        last |= self._look(self)
                due = time.perf_counter() - saved > self.settings.checkpoint_seconds
                if due or done or self._stop.is_set() or self.step == self.schedule.decay_start:
                    self.seconds = time.perf_counter() - began
                    with self._meter.part("checkpoint"):
                        self.save()
                    saved = time.perf_counter()
                if mark_step == self.step:
                    mark = time.perf_counter()
                if self._stop.is_set() and not done:
                    raise Interrupted(f"stopped at step {self.step}; the same command goes on from there")
        return last

    def save(self) -> None:
        """Write a checkpoint of this moment and drop those that no longer serve."""
        state = {
            "step": self.step,
            "steps": self.schedule.steps,
            "decay_start": self.schedule.decay_start,
            "order": self.order.form,
            "seconds": self.seconds,
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }
        self.store.save(self.model, self.optimizers, state)
        self.store.rotate(keep=2, also=self.schedule.decay_start)

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one JSON line to a log file of this run."""
        with (self.out / name).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _rows(self, step: int) -> Rows:
        return self.order.rows(step * self.batches.rows, self.batches.rows)

    def _waited(self, coming: Future[Rows]) -> Rows:
        """The next rows; where they cannot be had, what was trained so far is kept."""
        try:
            return coming.result()
        except HanmoError:
            if self.step:
                self.save()
            raise

    def _one_step(self, rows: Rows) -> float:
        """One optimiser step; returns the mean loss per target in nats."""
        targets = rows.targets.size
        total = 0.0
        for start in range(0, self.batches.rows, self.batches.micro):
            part = slice(start, start + self.batches.micro)
            piece = Rows(rows.inputs[part], rows.targets[part], rows.position[part], rows.segment[part])
            try:
                with self._meter.part("forward"):
                    loss = self.step_function.loss(piece)
                with self._meter.part("backward"):
                    (loss / targets).backward()
            except torch.OutOfMemoryError:
                smaller = self.batches.micro * self.settings.context // 2
                raise HanmoError(
                    f"the device's memory does not hold {self.batches.micro * self.settings.context} tokens at once; "
                    f"set micro_tokens: {smaller} (same result, less memory)"
                ) from None
            total += float(loss.detach())
        mean = total / targets
        if not math.isfinite(mean):
            raise HanmoError(f"the loss is {mean} at step {self.step}; lower lr and matrix_lr and run again")
        with self._meter.part("optimiser"):
            if self.settings.clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip, foreach=True)
            factor = self.schedule.factor(self.step)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * factor
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return mean

    def _line(self, loss: float, rate: float) -> dict[str, Any]:
        shares = self._meter.flush()
        line = {
            "step": self.step,
            "tokens": self.step * self.settings.batch_tokens,
            "loss": round(loss, 5),
            "lr": self.settings.lr * self.schedule.factor(self.step - 1),
            "tokens_per_second": round(rate, 1),
            "seconds": round(self.seconds, 2),
            "shares": {name: round(value, 3) for name, value in shares.items()},
        }
        if self.order.mix:
            line["sources"] = self.order.mix.taken(self.step * self.batches.rows)
        self.append("log.jsonl", line)
        if not console.is_terminal and self.step % (10 * self.settings.log_every) == 0:
            console.print(f"step {self.step}/{self.schedule.steps}  loss {loss:.3f}  {human_count(rate)} tokens/s")
        return line

    def _trim_logs(self) -> None:
        """Drop log lines from after the checkpoint, which will be written again."""
        for name in ("log.jsonl", "samples.jsonl"):
            path = self.out / name
            if not path.exists():
                continue
            kept = []
            for line in path.read_text(encoding="utf-8").split("\n"):
                try:
                    if json.loads(line)["step"] <= self.step:
                        kept.append(line)
                except (json.JSONDecodeError, KeyError):
                    continue  # the torn last line of a killed run
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8", newline="\n")

    @contextmanager
    def _signals(self):
        """SIGTERM and SIGINT end the run at the next step, with a checkpoint."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {number: signal.signal(number, lambda *_: self._stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
