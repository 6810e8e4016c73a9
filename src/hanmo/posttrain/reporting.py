"""What a training under TRL's trainers tells: its log, its bar, the looks at held-out records, the stage's counts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hanmo.console import console, human_count, human_seconds, progress
from hanmo.models.allocator import return_freed_memory
from hanmo.posttrain.resuming import Checkpoints, told_in

if TYPE_CHECKING:
    from hanmo.posttrain.training import Careful, Start

#: Parameters from which on freed memory is given back behind every step: records are of ever other lengths, so that
#: some of it fits no block of the next ones and adds up, and taking it anew costs little beside so large a step.
_LARGE = 100_000_000


class Reporter(TrainerCallback):
    """Writes log.jsonl, moves the bar, and looks at the held-out records from time to time.

    Args:
        path: the log.
        title: stands before the bar.
        names: which of the trainer's figures go into the log, and under which names.
        look: measures the held-out records (None: there are none); its figures go into the log.
        looks: how often to look, besides once at the start.
    """

    def __init__(
        self, path: Path, title: str, names: dict[str, str], look: Callable[[], dict[str, float]] | None, looks: int
    ) -> None:
        self.path, self.title, self.names, self.look, self.looks = path, title, names, look, looks
        self.measured: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.seconds = 0.0
        self.keep_every = float("inf")
        self._paused = 0.0
        self._tokens = 0
        self._earlier = ""

    def told(self) -> dict[str, Any]:
        """All that has been told, for a run that goes on from here."""
        return {
            "log": self.path.read_text(encoding="utf-8"),
            "measured": self.measured,
            "losses": self.losses,
            "seconds": self.seconds,
            "tokens": self.last_tokens,
        }

    def go_on(self, told: dict[str, Any]) -> None:
        """Take up what a killed run had told."""
        if self.look:
            # The stage that measures may want to see the start for itself.
            self.look()
        self.measured, self.losses, self.seconds = told["measured"], told["losses"], told["seconds"]
        self._tokens, self._earlier = told["tokens"], told["log"]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.file = self.path.open("w", encoding="utf-8", newline="\n")
        self.file.write(self._earlier)
        self.large = sum(parameter.numel() for parameter in kwargs["model"].parameters()) >= _LARGE
        self.bar = progress()
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=state.max_steps, info="")
        self.marks = {round(state.max_steps * part / self.looks) for part in range(1, self.looks + 1)}
        if not self._earlier:
            self._measure(state.global_step)
        self.kept = self.last = time.perf_counter()
        self._paused = 0.0
        self.last_tokens = self._tokens
        # Some of TRL's trainers count on from what the killed run had seen.
        self._tokens -= state.num_input_tokens_seen

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bar.update(self.task, completed=state.global_step)
        if self.large:
            return_freed_memory()
        if state.global_step == state.max_steps:
            control.should_log = True
        if state.global_step in self.marks:
            self._measure(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        now = time.perf_counter()
        # Some of TRL's trainers do not count tokens.
        tokens = self._tokens + int(logs.get("num_tokens", 0))
        rate = (tokens - self.last_tokens) / max(now - self.last - self._paused, 1e-9)
        self.seconds += now - self.last - self._paused
        self.last, self.last_tokens, self._paused = now, tokens, 0.0
        self.losses.append(float(logs["loss"]))
        line = {"step": state.global_step, "epoch": round(float(state.epoch or 0), 4)}
        line |= {
            ours: round(float(logs[theirs]), 6) for theirs, ours in self.names.items() if logs.get(theirs) is not None
        }
        line["learning_rate"] = logs.get("learning_rate")
        if tokens:
            line |= {"tokens": tokens, "tokens_per_second": round(rate)}
        self._write(line | {"seconds": round(self.seconds, 2)})
        self.bar.update(self.task, info=f"loss {logs['loss']:.3f}, {human_count(rate)} tokens/s")
        if now - self.kept >= self.keep_every and state.global_step < state.max_steps:
            control.should_save = True
            self.kept = now

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seconds += time.perf_counter() - self.last - self._paused
        self.close()

    def close(self) -> None:
        """Let go of the log and the bar (also after an error)."""
        if hasattr(self, "file"):
            self.bar.stop()
            self.file.close()

    def _measure(self, step: int) -> None:
        if self.look is None:
            return
        began = time.perf_counter()
        figures = self.look()
        self.measured.append(figures)
        self._write({"step": step} | {name: round(value, 6) for name, value in figures.items()})
        self._paused += time.perf_counter() - began

    def _write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()


def train(trainer: Careful, reporter: Reporter, checkpoints: Checkpoints) -> None:
    """Run the trainer under our reporter alone.

    Args:
        checkpoints: from the last of which a killed run goes on.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(reporter)
    last = checkpoints.last()
    reporter.keep_every = checkpoints.seconds
    trainer.keep = lambda trainer: checkpoints.write(trainer, reporter)
    if last:
        trainer.begun_at = int(last.name.rpartition("-")[2])
        announce(f"goes on from step {trainer.begun_at}, where an earlier run was stopped")
        reporter.go_on(told_in(last))
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    finally:
        reporter.close()


def announce(text: str) -> None:
    """One line of a stage on stderr."""
    console.print(text, style="dim", soft_wrap=True, markup=False)


def warn(lines: list[str]) -> None:
    """Warnings of a stage on stderr, a line each."""
    for line in lines:
        announce(f"warning: {line}")


def outcome(start: Start, trainer: Trainer, reporter: Reporter, records: int, tokens: int) -> dict[str, Any]:
    """The counts that every training ends with; says how fast it was as well.

    Args:
        records, tokens: that were read, all passes together.
    """
    seconds = max(reporter.seconds, 1e-9)
    announce(
        f"{records} records in {human_seconds(seconds)}: "
        f"{records / seconds:.0f} records/s, {human_count(tokens / seconds)} tokens/s"
    )
    return settled(start, trainer) | {
        "first_loss": reporter.losses[0],
        "last_loss": reporter.losses[-1],
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "records_per_second": round(records / seconds, 1),
        "tokens_per_second": round(tokens / seconds),
    }


def settled(start: Start, trainer: Trainer) -> dict[str, Any]:
    """Of the counts what was settled before the first step: steps, peak of the learning rate, arithmetic."""
    return {
        "steps": trainer.state.global_step,
        "learning_rate": trainer.args.learning_rate,
        "precision": str(start.dtype).removeprefix("torch."),
    }
