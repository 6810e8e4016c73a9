"""What a run learns: which rows it reads, and the step that makes a loss of them.

An objective is two things: `rows`, which makes of the order of packed rows (`hanmo.tokens.order`) what the model reads
and must answer, as a pure function of the row's number; and `step`, built as `StepBuilder` says,
whose `.loss(rows)` is the sum of the losses over all targets that are not `IGNORE`. The trainer knows no more of it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from hanmo.pretrain.distributed import World
from hanmo.tokens.mix import Mix
from hanmo.tokens.order import Rows


class RowSource(Protocol):
    """An endless stream of rows, each a pure function of its number; `hanmo.tokens.order.Order` is one."""

    context: int
    mix: Mix | None
    total: int
    form: int

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` .. `first + count - 1`."""
        ...

    def taken(self, rows: int) -> dict[str, int]:
        """With a mix: tokens that the first `rows` rows have of each source."""
        ...


class Step(Protocol):
    """Makes a loss of rows."""

    def loss(self, rows: Rows) -> Tensor:
        """Sum of the losses over all targets, in nats; `.backward()` may be called on a multiple of it."""
        ...

    def begin(self) -> None:
        """An optimiser step begins."""
        ...

    def settle(self, world: World, moved: bool) -> None:
        """The optimiser step is done, in all processes; `moved`: it changed the weights."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside weights and optimisers."""
        ...

    def figures(self) -> dict[str, Any]:
        """More figures for a line of the log."""
        ...


class StepBuilder(Protocol):
    """Builds the step of an objective."""

    def __call__(
        self,
        model: Any,
        dtype: torch.dtype,
        compiled: bool,
        context: int,
        recompute: bool = False,
        options: dict[str, Any] | None = None,
        fp8: bool = False,
    ) -> Step:
        """Args as those of `hanmo.pretrain.steps.packed.PackedStep`."""
        ...
