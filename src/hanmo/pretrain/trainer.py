"""The training loop: packed rows in, a model and a log out, exact under interruption.

Everything that decides the weights is a function of the settings and the step number: the rows (`tokens.order`), the
learning rates (`schedule`), the arithmetic (fixed when the run began and kept in its checkpoints). A killed run goes on
from its newest checkpoint and ends with the same bits as an undisturbed one on the same machine.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from hanmo.console import console, progress
from hanmo.errors import HanmoError, Interrupted
from hanmo.models.flops import model_flops
from hanmo.models.loss import IGNORE
from hanmo.pretrain.checkpoint import Checkpoint, CheckpointStore
from hanmo.pretrain.distributed import World
from hanmo.pretrain.guard import Guard
from hanmo.pretrain.meter import Meter
from hanmo.pretrain.objectives import RowSource, StepBuilder
from hanmo.pretrain.optimizer import build_optimizers, local, momentum_at
from hanmo.pretrain.parallel import spread
from hanmo.pretrain.precision import LossScaler
from hanmo.pretrain.rows import filled_up, taken
from hanmo.pretrain.rules import Rates
from hanmo.pretrain.runlog import RunLog, short
from hanmo.pretrain.schedule import BatchSizes, Schedule
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Rows


@dataclass(frozen=True)
class Batches:
    """How a step is cut: of its rows, `sizes`, every process computes a share, in pieces of at most `most` rows.

    All processes compute equally many, so that they meet in their communication; where a step's rows do not divide by
    their number, some fill up with rows without targets.
    """

    sizes: BatchSizes
    most: int
    processes: int = 1

    @classmethod
    def plan(cls, settings: PretrainSettings, processes: int = 1) -> Batches:
        """Cut batches into equal micro-batches of at most `micro_tokens` (8192 when that is 0)."""
        most = max(1, (settings.micro_tokens or 8192) // settings.context)
        return cls(BatchSizes.of(settings), most, processes)

    def share(self, rows: int) -> int:
        """Rows that every process computes of so many."""
        return -(-rows // self.processes)

    def piece(self, share: int) -> int:
        """Rows of a micro-batch of a share: the largest divisor that is allowed, so that all are alike."""
        return next(size for size in range(min(self.most, share), 0, -1) if share % size == 0)

    @property
    def micro(self) -> int:
        """Rows of a micro-batch once the batch has grown."""
        return self.piece(self.share(self.sizes.full))


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
        *,
        bytes_per_token: float | None = None,
        step: StepBuilder = PackedStep,
        keep: Callable[[Trainer], None] | None = None,
        rates: Rates | None = None,
        flops: int = 0,
    ) -> None:
        self.model, self.settings, self.order, self.out = model, settings, order, out
        self.world = world or World(next(model.parameters()).device)
        out.mkdir(parents=True, exist_ok=True)
        self.batches = Batches.plan(settings, self.world.size)
        self.sizes = self.batches.sizes
        self.schedule = Schedule.of(settings, self.sizes)
        self.dtype = dtype
        self.meter = Meter(self.world.device, flops or model_flops(model, settings.context), processes=self.world.size)
        self._parameters = sum(p.numel() for p in model.parameters())
        self.spread = spread(model, settings, dtype, self.world, step)
        self.rates = rates or Rates.of(settings, model.get_input_embeddings().weight.shape[1])
        self.optimizers = self.spread.prepared(
            build_optimizers(
                model, settings.optimizer, self.rates, settings.weight_decay, self.world.rank, self.world.size, dtype
            )
        )
        self.store = CheckpointStore(out / "checkpoints", self.world)
        self.step = 0
        self.seconds = 0.0
        self.guard = Guard(settings.guard)
        self.scaler = LossScaler() if dtype == torch.float16 else None
        self.log = RunLog(out, settings, bytes_per_token, self.world.first)
        self._look, self._keep = look, keep
        self._stop = threading.Event()

    def resume(self) -> bool:
        """Go on from the newest checkpoint that this budget can use; False when there is none.

        One from before the decay's start serves every budget; one from within the decay only the budget it was made
        for.
        """

        def usable(state: dict[str, Any]) -> bool:
            if state.get("order", 1) != self.order.form or "batch_tokens" not in state:
                raise HanmoError(
                    f"{self.out}: an earlier version began this run, with other rates or another order of its text; "
                    "give another --out"
                )
            stable = state["step"] <= min(state["decay_start"], self.schedule.decay_start)
            return stable or state["steps"] == self.schedule.steps

        checkpoint = self.store.newest(usable)
        if checkpoint is None:
            return False
        self._load(checkpoint)
        self.seconds = checkpoint.state["seconds"]
        if checkpoint.state["steps"] != self.schedule.steps and self.settings.schedule in ("cosine", "linear"):
            console.print(
                f"schedule: {self.settings.schedule} falls from the end of the warm-up on, so with another budget all "
                "steps behind it are made anew; wsd is the schedule that can be extended"
            )
        self.log.trim(self.step, self.guard.events)
        console.print(f"resuming at step {self.step} of {self.schedule.steps} ({checkpoint.path.name})")
        return True

    def run(self) -> dict[str, Any]:
        """Train to the end of the budget; returns the last line's figures.

        Raises:
            Interrupted: after SIGTERM, SIGINT or SIGUSR1, once the checkpoint is written.
            HanmoError: the loss is no longer a number, or the last checkpoint could not be written.
        """
        self.log.begin(self.step, self.meter, self._parameters, self.world.device, self.dtype)
        began = time.perf_counter() - self.seconds
        last: dict[str, Any] = {}
        saved, saved_step = time.perf_counter(), self.step
        if self._keep and self.step == 0:
            self._keep(self)
        with self._signals(), progress() as bar, ThreadPoolExecutor(1) as loader, closing(self.log):
            task = bar.add_task("pretrain", total=self.schedule.steps, completed=self.step, info="")
            waiting = loader.submit(self._rows, self.step)
            while self.step < self.schedule.steps:
                with self.meter.part("data"):
                    rows, fault = self._waited(waiting)
                    waiting = loader.submit(self._rows, self.step + 1)
                # What all must do together is agreed here, once a step: it may have come up in one of them only.
                seconds = time.perf_counter() - saved
                found = 0 if rows is None else int(np.count_nonzero(rows.targets != IGNORE))
                due = self.world.first and seconds > self.settings.checkpoint_seconds
                targets, due, stop, faults = self.world.sum(found, due, self._stop.is_set(), fault is not None)
                every = self.settings.checkpoint_steps
                due = due or (every and self.step - saved_step >= every) or self.step == self.schedule.decay_start
                due = due or self.guard.is_anchor(self.step)
                if (due or stop or faults) and self.step > saved_step:
                    self.seconds = time.perf_counter() - began
                    with self.meter.part("checkpoint"):
                        self.save()
                    saved, saved_step = time.perf_counter(), self.step
                if faults:
                    self.store.close()
                    raise HanmoError(next(filter(None, self.world.gathered(lambda line=str(fault or ""): line))))
                if stop:
                    self._stopped(saved_step)
                assert rows is not None
                self._one_step(rows, max(1, int(targets)))  # masks may have chosen none
                # What is read, of which masks make few tokens targets.
                self.meter.count(self.sizes.rows(self.step) * self.settings.context)
                self.step += 1
                if self.guard.must_go_back:
                    self._go_back()
                    saved, saved_step = time.perf_counter(), self.step
                    waiting = loader.submit(self._rows, self.step)
                    continue
                bar.update(task, completed=self.step)
                done = self.step == self.schedule.steps
                if self.step % self.settings.log_every == 0 or done:
                    self.seconds = time.perf_counter() - began
                    last = self._line()
                    bar.update(task, info=short(last))
                every = self.settings.eval_every
                if self._look and (done or (every and self.step % every == 0)):
                    with self.meter.part("look"):
                        last |= self._look(self)
                if self._keep:
                    self._keep(self)
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
            "batch_tokens": self.sizes.full * self.settings.context,
            "seconds": self.seconds,
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
            "parallel": self.settings.parallel if self.world.size > 1 else "none",
            "guard": self.guard.state(),
        }
        if self.scaler:
            state["scaler"] = self.scaler.state()
        kept = {self.schedule.decay_start, *self.guard.anchors(self.step)}
        self.store.save(self.spread.tensors(self.optimizers), state, also=kept)

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one JSON line to a log file of this run."""
        self.log.append(name, line)

    def _rows(self, step: int) -> Rows:
        """This process's share of a step's rows."""
        count = self.sizes.rows(step)
        first, last = self.world.share(count)
        rows = self.order.rows(self.sizes.first(step) + self.guard.offset + first, last - first)
        return filled_up(rows, self.batches.share(count))

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
        total = torch.zeros((), device=self.world.device)
        scale = self.scaler.scale if self.scaler else 1.0
        share = len(rows.inputs)
        self.spread.begin()
        micro = self.batches.piece(share)
        for start in range(0, share, micro):
            part = slice(start, start + micro)
            piece = taken(rows, part)
            with self.spread.summing(last=part.stop == share):
                with self.meter.part("forward"):
                    loss = self.spread.loss(piece)
                with self.meter.part("backward"):
                    self.spread.backward(loss * (scale / targets))
            total += loss.detach()
        with self.meter.part("optimiser"):
            if scale != 1:
                torch._foreach_mul_([local(p.grad) for p in self.model.parameters() if p.grad is not None], 1 / scale)
            norm = self.spread.clip(self.settings.clip)
            # The one place where a step waits for the device: what is decided here decides what is done next.
            nats, found = torch.stack([total, norm]).tolist()
        with self.meter.part("communication"):
            nats, found = self.world.sum(nats, found if self.world.first else 0.0)
        mean = nats / targets
        with self.meter.part("optimiser"):
            sound = self._judge(mean, found)
            factor = self.schedule.factor(self.step)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * factor
                    if "momentum" in group:
                        group["momentum"] = momentum_at(self.step)
                if sound:
                    optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        self.spread.settle(sound)
        return mean

    def _judge(self, loss: float, norm: float) -> bool:
        """Whether the step may change the weights; what is left out is written to guard.jsonl."""
        if math.isfinite(loss) and self.scaler and self.scaler.overflowed(norm):
            self.log.saw(loss, norm)
            return False
        reason = self.guard.judge(self.step, loss, norm)
        if reason:
            first = self.sizes.first(self.step) + self.guard.offset
            self.append("guard.jsonl", self.guard.skip_event(self.step, reason, first, self.sizes.rows(self.step)))
        else:
            self.log.saw(loss, norm)
        return not reason

    def _go_back(self) -> None:
        """Go back to the newest anchor before the bad stretch, and on with the rows behind it.

        Raises:
            HanmoError: the run went back too often already, or there is no anchor.
        """
        anchor = self.guard.back_to()
        self.store.wait()
        found = self.store.newest(lambda state: state["step"] == anchor)
        if found is None:
            raise HanmoError(f"{self.out}: the checkpoint of step {anchor}, to go back to, is gone or torn")
        rows = self.sizes.first(self.step) - self.sizes.first(anchor)
        now, guard = self.step, self.guard
        self._load(found)
        self.guard = guard
        self.append("guard.jsonl", guard.back_event(now, anchor, rows, found.state["guard"]))
        self.log.trim(self.step)
        self.log.forget()
        # The checkpoints of the bad stretch would be taken for newer ones; what was decided is saved in their place.
        self.store.drop_after(self.step)
        self.save()

    def _load(self, checkpoint: Checkpoint) -> None:
        tensors = self.spread.tensors(self.optimizers)
        self.store.load(checkpoint, tensors)
        self.spread.put(tensors)
        self.step = checkpoint.step
        self.guard = Guard(self.settings.guard)
        self.guard.load(checkpoint.state["guard"])
        if self.scaler:
            self.scaler.load(checkpoint.state.get("scaler", self.scaler.state()))

    def _line(self) -> dict[str, Any]:
        """Write a line of the log (docs/training.md) and return it."""
        rows = self.sizes.first(self.step)
        place: dict[str, Any] = {"step": self.step, "tokens": rows * self.settings.context}
        figures: dict[str, Any] = {"lr": self.rates.other * self.schedule.factor(self.step - 1)}
        if self.sizes.stages:
            figures["batch_tokens"] = self.sizes.rows(self.step - 1) * self.settings.context
        figures |= {"seconds": round(self.seconds, 2), **self.meter.flush(), **self.guard.counts()}
        figures |= self.spread.figures()
        if self.scaler:
            figures |= {"loss_scale": self.scaler.scale, "overflows": self.scaler.overflows}
        if self.order.mix:
            figures["sources"] = self.order.taken(rows)
        line = self.log.line(place, figures)
        if not console.is_terminal and self.step % (10 * self.settings.log_every) == 0:
            console.print(f"step {self.step}/{self.schedule.steps}  {short(line)}")
        return line

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
