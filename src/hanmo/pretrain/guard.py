"""Steps that would spoil the weights are left out: NaN and Inf, and spikes of the loss or of the gradient.

A step is judged by its mean loss and by its gradient's norm before clipping, both of the whole global batch, so that
all processes decide the same. A step that is not finite, or far above what the last accepted ones had, is skipped:
weights and optimiser state stay, the rows count as seen. After several skips in a row the weights themselves are
suspect: the run goes back to a checkpoint and on with the rows behind the bad stretch (as PaLM did by hand,
arXiv:2204.02311, 5.1).

Where it goes back to must not depend on when checkpoints happened to be written, so some are made at fixed steps, the
anchors, and the newest of these before the bad stretch serves. All that decides is in the checkpoints: a run that was
killed and resumed skips and goes back where an undisturbed one does.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.stage import Settings, setting

#: A normal distribution's standard deviation by its median absolute deviation.
_NORMAL = 1.4826
#: The least deviation that is believed, by the median loss: large batches have losses that hardly differ.
_LEAST = 0.01


class GuardSettings(Settings):
    """When a step is skipped, and what happens after several."""

    deviations: float = setting(
        8.0, "skip a step whose loss is so many deviations above the median of the last ones; 0: never", ge=0
    )
    norm_ratio: float = setting(
        10.0, "skip a step whose gradient's norm is so many times the median of the last ones; 0: never", ge=0
    )
    window: int = setting(128, "accepted steps that medians are taken of; spikes are judged from a quarter on", ge=8)
    skips: int = setting(5, "skipped steps in a row after which the run goes back to a checkpoint", ge=1)
    anchor_steps: int = setting(200, "steps between the checkpoints to go back to", ge=1)
    rollbacks: int = setting(3, "times that a run may go back before it gives up", ge=0)


class Guard:
    """Judges steps; what it knows is in `state()`.

    Attributes:
        skipped: steps left out so far, on branches that were given up as well.
        rollbacks: times that the run went back.
        offset: rows that were passed over by going back.
        events: lines that were written to guard.jsonl.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.skipped = self.rollbacks = self.offset = self.events = 0
        self._in_row, self._since, self._reason = 0, 0, ""
        self._losses: deque[float] = deque(maxlen=settings.window)
        self._norms: deque[float] = deque(maxlen=settings.window)

    def judge(self, step: int, loss: float, norm: float) -> str:
        """Why `step` must be skipped, or "" where it is sound.

        Args:
            loss: mean loss of the global batch.
            norm: of its gradient, before clipping.
        """
        reason = self._fault(loss, norm)
        if reason:
            self._reason = reason
            self._since = self._since if self._in_row else step
            self._in_row += 1
            self.skipped += 1
        else:
            self._in_row = 0
            self._losses.append(loss)
            self._norms.append(norm)
        return reason

    def _fault(self, loss: float, norm: float) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        if len(self._losses) < self.settings.window // 4:
            return ""
        middle = median(self._losses)
        deviation = max(_NORMAL * median(abs(one - middle) for one in self._losses), _LEAST * middle)
        if self.settings.deviations and loss > middle + self.settings.deviations * deviation:
            return f"the loss is {loss:.4g}, the last ones were about {middle:.4g} (deviation {deviation:.2g})"
        middle = median(self._norms)
        if self.settings.norm_ratio and norm > self.settings.norm_ratio * middle:
            return f"the gradient's norm is {norm:.4g}, the last ones were about {middle:.4g}"
        return ""

    @property
    def must_go_back(self) -> bool:
        """Whether so many steps in a row were skipped that the weights are suspect."""
        return self._in_row >= self.settings.skips

    def is_anchor(self, step: int) -> bool:
        """Whether a checkpoint must be made after `step` steps, to be gone back to."""
        return self.settings.rollbacks > 0 and step > 0 and step % self.settings.anchor_steps == 0

    def anchors(self, step: int) -> set[int]:
        """The anchors that must be kept at `step`: the newest, and the one before the present bad stretch."""
        every = self.settings.anchor_steps
        return {at // every * every for at in (step, self._since if self._in_row else step)}

    def back_to(self) -> int:
        """The step to go back to.

        Raises:
            HanmoError: the run has gone back too often already, or the bad stretch began before the first anchor.
        """
        every = self.settings.anchor_steps
        anchor = self._since // every * every
        if anchor and self.rollbacks < self.settings.rollbacks:
            return anchor
        why = (
            f"the run has gone back {self.rollbacks} times already"
            if anchor
            else f"there is no checkpoint before it to go back to (the first is made at step {every})"
        )
        raise HanmoError(
            f"{self._reason}: {self._in_row} steps in a row are skipped since step {self._since}, and {why}; "
            "lower lr and matrix_lr and run again"
        )

    def skip_event(self, step: int, reason: str, first: int, rows: int) -> dict[str, Any]:
        """The line of guard.jsonl for a skipped step; also told, the first few times."""
        self.events += 1
        if self.skipped <= 5:
            console.print(f"step {step} is skipped: {reason}", style="yellow", markup=False)
        return {"step": step, "skipped": reason, "rows": [first, first + rows]}

    def back_event(self, step: int, anchor: int, rows: int, before: dict[str, Any]) -> dict[str, Any]:
        """Note that the run went back from `step`; the line of guard.jsonl for it, which is also told.

        Args:
            rows: of all steps from the anchor to `step`, which are passed over.
            before: `state()` at the anchor.
        """
        self.events += 1
        console.print(
            f"{self._in_row} steps in a row are skipped: back from step {step} to {anchor}, and on with other rows",
            style="yellow",
        )
        self._recent(before)
        self._in_row = 0
        self.rollbacks += 1
        self.offset += rows
        return {"step": step, "back_to": anchor, "rows_passed_over": rows}

    def counts(self) -> dict[str, int]:
        """What was done so far, for the log; nothing where nothing was done."""
        return {"skipped": self.skipped, "rollbacks": self.rollbacks} if self.skipped else {}

    def in_words(self) -> str:
        """The same for a person."""
        words = f"{self.skipped} step{'s' * (self.skipped != 1)} skipped" if self.skipped else ""
        return f"{words}, gone back {self.rollbacks} times" if self.rollbacks else words

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, as JSON values."""
        return {
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "offset": self.offset,
            "events": self.events,
            "in_row": self._in_row,
            "since": self._since,
            "losses": list(self._losses),
            "norms": list(self._norms),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.skipped, self.rollbacks, self.offset = state["skipped"], state["rollbacks"], state["offset"]
        self.events, self._in_row, self._since = state["events"], state["in_row"], state["since"]
        self._recent(state)

    def _recent(self, state: dict[str, Any]) -> None:
        self._losses = deque(state["losses"], maxlen=self.settings.window)
        self._norms = deque(state["norms"], maxlen=self.settings.window)
