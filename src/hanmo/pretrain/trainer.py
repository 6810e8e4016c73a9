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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from hanmo.console import console, human_count, progress
from hanmo.errors import HanmoError, Interrupted
from hanmo.models.loss import IGNORE
from hanmo.pretrain.checkpoint import CheckpointStore
from hanmo.pretrain.distributed import World
from hanmo.pretrain.objectives import RowSource, StepBuilder
from hanmo.pretrain.optimizer import build_optimizers, state_tensors
from hanmo.pretrain.parallel import spread
from hanmo.pretrain.schedule import Schedule
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.step import PackedStep
from hanmo.tokens.order import Rows


@dataclass
class Batches:
    """How a step is cut: of its `rows` packed rows every process computes `share`, in pieces of `micro` rows.

    All processes compute equally many, so that they meet in their communication; where `rows` does not divide by their
    number, some fill up with rows without targets.
    """

    rows: int
    micro: int
    share: int

    @classmethod
    def plan(cls, settings: PretrainSettings, processes: int = 1) -> Batches:
        """Cut `batch_tokens` into equal micro-batches of at most `micro_tokens` (8192 when that is 0)."""
        if settings.batch_tokens % settings.context:
            raise HanmoError(
                f"batch_tokens: {settings.batch_tokens} is no multiple of context {settings.context}; "
                f"{settings.batch_tokens // settings.context * settings.context or settings.context} is"
            )
        rows = settings.batch_tokens // settings.context
        most = max(1, (settings.micro_tokens or 8192) // settings.context)
        share = -(-rows // processes)
        micro = next(size for size in range(min(most, share), 0, -1) if share % size == 0)
        return cls(rows, micro, share)


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
        order: RowSource,
        out: Path,
        dtype: torch.dtype,
        look=None,
        world: World | None = None,
        step: StepBuilder = PackedStep,
        keep: Callable[[Trainer], None] | None = None,
    ) -> None:
        self.model, self.settings, self.order, self.out = model, settings, order, out
        self.world = world or World(next(model.parameters()).device)
        out.mkdir(parents=True, exist_ok=True)
        self.batches = Batches.plan(settings, self.world.size)
        steps = max(1, math.ceil(settings.tokens / settings.batch_tokens))
        self.schedule = Schedule(
            steps=steps,
            warmup=min(settings.warmup_tokens // settings.batch_tokens, steps),
            decay=round(steps * settings.decay_fraction),
        )
        self.dtype = dtype
        self.spread = spread(model, settings, dtype, self.world, step)
        rates = settings.lr, settings.matrix_lr, settings.weight_decay
        self.optimizers = build_optimizers(model, settings.optimizer, *rates, self.world.rank, self.world.size)
        self.store = CheckpointStore(out / "checkpoints", self.world)
        self.step = 0
        self.seconds = 0.0
        self._look, self._keep = look, keep
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
        self.store.load(checkpoint, state_tensors(self.model, self.optimizers))
        self.step, self.seconds = checkpoint.step, checkpoint.state["seconds"]
        if self.world.first:
            self._trim_logs()
        console.print(f"resuming at step {self.step} of {self.schedule.steps} ({checkpoint.path.name})")
        return True

    def run(self) -> dict[str, Any]:
        """Train to the end of the budget; returns the last line's figures.

        Raises:
            Interrupted: after SIGTERM, SIGINT or SIGUSR1, once the checkpoint is written.
            HanmoError: the loss is no longer a number, or the last checkpoint could not be written.
        """
        began = time.perf_counter() - self.seconds
        last: dict[str, Any] = {}
        saved, saved_step = time.perf_counter(), self.step
        losses: list[float] = []
        mark, mark_step = time.perf_counter(), self.step
        if self._keep and self.step == 0:
            self._keep(self)
        with self._signals(), progress() as bar, ThreadPoolExecutor(1) as loader:
            task = bar.add_task("pretrain", total=self.schedule.steps, completed=self.step, info="")
            waiting = loader.submit(self._rows, self.step)
            while self.step < self.schedule.steps:
                with self._meter.part("data"):
                    rows, fault = self._waited(waiting)
                    waiting = loader.submit(self._rows, self.step + 1)
                # What all must do together is agreed here, once a step: it may have come up in one of them only.
                seconds = time.perf_counter() - saved
                found = 0 if rows is None else int(np.count_nonzero(rows.targets != IGNORE))
                due = self.world.first and seconds > self.settings.checkpoint_seconds
                targets, due, stop, faults = self.world.sum(found, due, self._stop.is_set(), fault is not None)
                every = self.settings.checkpoint_steps
                due = due or (every and self.step - saved_step >= every) or self.step == self.schedule.decay_start
                if (due or stop or faults) and self.step > saved_step:
                    self.seconds = time.perf_counter() - began
                    with self._meter.part("checkpoint"):
                        self.save()
                    saved, saved_step = time.perf_counter(), self.step
                if faults:
                    self.store.close()
                    raise HanmoError(next(filter(None, self.world.gathered(lambda line=str(fault or ""): line))))
                if stop:
                    self._stopped(saved_step)
                assert rows is not None
                losses.append(self._one_step(rows, max(1, int(targets))))  # masks may have chosen none
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
                if self._keep:
                    self._keep(self)
                if mark_step == self.step:
                    mark = time.perf_counter()
            self.seconds = time.perf_counter() - began
            if self.step > saved_step:
                self.save()
        if fault := self.store.wait():
            raise HanmoError(
                f"{self.store.folder}: the last checkpoint could not be written ({fault}); mend that, and the same "
                "command goes on from the one before"
            )
        self.store.close()
        return last

    def _stopped(self, saved_step: int) -> NoReturn:
        fault = self.store.wait()
        self.store.close()
        if fault:
            raise Interrupted(
                f"stopped at step {self.step}, without a checkpoint of it ({fault}); the same command goes on from the "
                "one before"
            )
        raise Interrupted(f"stopped at step {saved_step}; the same command goes on from there")

    def save(self) -> None:
        """Begin to write a checkpoint of this moment; those that no longer serve are dropped when it is there."""
        state = {
            "step": self.step,
            "steps": self.schedule.steps,
            "decay_start": self.schedule.decay_start,
            "order": self.order.form,
            "seconds": self.seconds,
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
            "parallel": self.settings.parallel if self.world.size > 1 else "none",
        }
        self.store.save(state_tensors(self.model, self.optimizers), state, also=self.schedule.decay_start)

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one JSON line to a log file of this run."""
        if not self.world.first:
            return
        with (self.out / name).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _rows(self, step: int) -> Rows:
        """This process's share of a step's rows."""
        first, last = self.world.share(self.batches.rows)
        rows = self.order.rows(step * self.batches.rows + first, last - first)
        return filled_up(rows, self.batches.share)

    def _waited(self, coming: Future[Rows]) -> tuple[Rows | None, HanmoError | None]:
        """The next rows, or why they cannot be had."""
        try:
            return coming.result(), None
        except HanmoError as error:
            return None, error

    def _one_step(self, rows: Rows, targets: int) -> float:
        """One optimiser step; returns the mean loss per target in nats, over all processes.

        Args:
            rows: this process's.
            targets: of all processes.
        """
        total = 0.0
        for start in range(0, self.batches.share, self.batches.micro):
            part = slice(start, start + self.batches.micro)
            piece = Rows(rows.inputs[part], rows.targets[part], rows.position[part], rows.segment[part])
            with self.spread.summing(last=part.stop == self.batches.share):
                with self._meter.part("forward"):
                    loss = self.spread.loss(piece)
                with self._meter.part("backward"):
                    (loss / targets).backward()
            total += float(loss.detach())
        with self._meter.part("communication"):
            mean = self.world.sum(total)[0] / targets
        if not math.isfinite(mean):
            raise HanmoError(f"the loss is {mean} at step {self.step}; lower lr and matrix_lr and run again")
        with self._meter.part("optimiser"):
            if self.settings.clip:
                self.spread.clip(self.settings.clip)
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
            line["sources"] = self.order.taken(self.step * self.batches.rows)
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
        """A signal that asks to stop ends the run before the next step, with a checkpoint.

        SIGUSR1 is how Slurm says beforehand that a job will be preempted.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        asking = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
        old = {number: signal.signal(number, lambda *_: self._stop.set()) for number in asking}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def filled_up(rows: Rows, count: int) -> Rows:
    """The rows with as many behind them, without targets, as make `count`."""
    short = count - len(rows.inputs)
    if not short:
        return rows
    shape = (short, rows.inputs.shape[1])
    position = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return Rows(
        np.concatenate([rows.inputs, np.zeros(shape, np.int64)]),
        np.concatenate([rows.targets, np.full(shape, IGNORE, np.int64)]),
        np.concatenate([rows.position, position]),
        np.concatenate([rows.segment, np.zeros(shape, np.int32)]),
    )
