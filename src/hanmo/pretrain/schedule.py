"""Warm-up, stable, decay: the schedule that can be extended.

The rate rises linearly for a fixed number of steps, stays at 1, and falls linearly to 0 over the last part of the run.
Up to the start of the decay nothing depends on the budget, so a run with a larger budget goes on from the checkpoint at
the decay's start and equals one that had the larger budget from the beginning. (MiniCPM, arXiv:2404.06395.)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factors over `steps` optimiser steps, numbered from 0."""

    steps: int
    warmup: int
    decay: int

    @property
    def decay_start(self) -> int:
        """The first step whose factor depends on the budget."""
        return self.steps - self.decay

    def factor(self, step: int) -> float:
        """The factor in (0, 1] by which the learning rates are multiplied at `step`."""
        rising = min(1.0, (step + 1) / (self.warmup + 1))
        falling = min(1.0, (self.steps - step) / (self.decay + 1))
        return rising * falling
