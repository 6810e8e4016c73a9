"""How the learning rate and the batch go over a run: both are functions of the step alone.

The rate rises linearly over the warm-up and falls, in one of several shapes, over the decay:

* `wsd` (warm-up, stable, decay): the decay is the last part of the budget. Up to its start nothing depends on the
  budget, so a run with a larger budget goes on from the checkpoint there and equals one that had the larger budget from
  the beginning (MiniCPM, arXiv:2404.06395).
* `cosine` and `linear`: the decay begins where the warm-up ends. Every rate after the warm-up then depends on the
  budget, so a larger one goes on from the end of the warm-up: exact as well, and nearly a run anew.
* `constant`: no decay.

The batch has the same rows in every step, or grows: it starts small and doubles in stages that see equally many tokens
(small batches make more of the first tokens, where gradients mostly agree; arXiv:1812.06162).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hanmo.errors import HanmoError
from hanmo.pretrain.rules import batch_tokens, warmup_tokens

if TYPE_CHECKING:
    from hanmo.pretrain.settings import PretrainSettings

#: Factor by the share of the decay that is still to come, from 1 to 0. `sqrt` is 1 - sqrt(share gone), which falls fast
#: at first; it ended lower than linear in arXiv:2405.18392.
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "sqrt": lambda left: 1 - math.sqrt(1 - left),
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
}


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factors over `steps` optimiser steps, numbered from 0.

    Attributes:
        warmup: steps of the linear rise.
        decay: steps of the fall.
        shape: of the fall, a name of `SHAPES`.
        floor: the factor that the fall ends at, 0 to 1.
    """

    steps: int
    warmup: int
    decay: int
    shape: str = "linear"
    floor: float = 0.0

    @classmethod
    def of(cls, settings: PretrainSettings, sizes: BatchSizes) -> Schedule:
        """The schedule of a run: steps until the budget's tokens are seen, warm-up and decay in tokens, too."""
        steps = max(1, sizes.steps(-(-settings.tokens // settings.context)))
        # Of the warm-up only whole steps count.
        rising = warmup_tokens(settings)
        warmup = sizes.steps(rising // settings.context + 1) - 1 if rising else 0
        floor = settings.min_lr
        if settings.schedule == "constant":
            return cls(steps, warmup, 0)
        if settings.schedule == "wsd":
            decay = min(steps, round(sizes.first(steps) / sizes.full * settings.decay_fraction))
            return cls(steps, warmup, decay, settings.decay_shape, floor)
        return cls(steps, warmup, max(0, steps - warmup), settings.schedule, floor)

    @property
    def decay_start(self) -> int:
        """The first step whose factor depends on the budget."""
        return self.steps - self.decay

    def factor(self, step: int) -> float:
        """The factor in (0, 1] by which the learning rates are multiplied at `step`."""
        rising = min(1.0, (step + 1) / (self.warmup + 1))
        left = min(1.0, (self.steps - step) / (self.decay + 1))
        return rising * (self.floor + (1 - self.floor) * SHAPES[self.shape](left))


@dataclass(frozen=True)
class BatchSizes:
    """Rows of every optimiser step; those of step s begin where those of s - 1 end.

    Attributes:
        full: rows of a step once the batch has grown.
        stages: (rows, steps) of the stages before.
    """

    full: int
    stages: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, settings: PretrainSettings) -> BatchSizes:
        """The batch of a run, from `batch_tokens`, `batch_start` and `batch_warmup_tokens`.

        Raises:
            HanmoError: a batch that is not whole rows, or one that starts above its end.
        """
        context = settings.context
        for name in ("batch_tokens", "batch_start"):
            if (tokens := getattr(settings, name)) % context:
                raise HanmoError(
                    f"{name}: {tokens} is no multiple of context {context}; {tokens // context * context or context} is"
                )
        full, start = batch_tokens(settings) // context, settings.batch_start // context
        if bool(start) != bool(settings.batch_warmup_tokens):
            given, lacking = ("batch_start", "batch_warmup_tokens") if start else ("batch_warmup_tokens", "batch_start")
            raise HanmoError(f"{given} is given without {lacking}; a batch that grows needs both")
        if start > full:
            raise HanmoError(
                f"batch_start: {settings.batch_start} is more than batch_tokens ({full * context}); lower it"
            )
        if not start:
            return cls(full)
        rows = [start * 2**n for n in range(math.ceil(math.log2(full / start)))]
        share = settings.batch_warmup_tokens / context / max(1, len(rows))
        return cls(full, tuple((size, max(1, round(share / size))) for size in rows))

    def rows(self, step: int) -> int:
        """Rows of `step`."""
        for rows, steps in self.stages:
            if step < steps:
                return rows
            step -= steps
        return self.full

    def first(self, step: int) -> int:
        """Rows of all steps before `step`: the number of its first row."""
        before = 0
        for rows, steps in self.stages:
            before += rows * min(step, steps)
            step -= min(step, steps)
        return before + step * self.full

    def steps(self, rows: int) -> int:
        """The fewest steps that have so many rows together."""
        before = 0
        for size, steps in self.stages:
            if rows <= size * steps:
                return before + -(-rows // size)
            before += steps
            rows -= size * steps
        return before + -(-rows // self.full)
