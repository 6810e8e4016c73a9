"""A model that one process holds and computes: the plainest of the ways in `hanmo.pretrain.parallel`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from hanmo.pretrain.distributed import World
from hanmo.pretrain.objectives import Step, StepBuilder
from hanmo.pretrain.optimizer import state_tensors
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Rows


class Alone:
    """One process holds and computes everything."""

    def __init__(
        self, model: Any, settings: PretrainSettings, dtype: torch.dtype, world: World, step: StepBuilder = PackedStep
    ) -> None:
        self.model, self.world = model, world
        self._step = self._make_step(model, settings, dtype, step)

    def _make_step(self, model: Any, settings: PretrainSettings, dtype: torch.dtype, step: StepBuilder) -> Step:
        more: dict[str, Any] = {"fp8": True} if settings.precision == "fp8" else {}
        return step(model, dtype, settings.compile, settings.context, settings.recompute == "layers", **more)

    def prepared(self, optimizers: list[torch.optim.Optimizer]) -> list[Any]:
        """The optimisers that the trainer is to step, for those of the whole model."""
        return optimizers

    def loss(self, rows: Rows) -> Tensor:
        """The summed cross-entropy of this process's rows, to call `backward` on."""
        return self._step.loss(rows)

    def backward(self, loss: Tensor) -> None:
        """The gradients of a multiple of `loss`, added to those that are there."""
        loss.backward()

    def measure(self, rows: Rows) -> float:
        """The same as a number, for a look at the model. All processes look at the same number of rows."""
        # Gradients stay on: the same compiled graph serves, and nobody calls backward.
        return float(self._step.loss(rows).detach())

    def summing(self, last: bool) -> AbstractContextManager[None]:
        """Around one forward and backward pass: gradients are summed over processes in the `last` of a step alone."""
        return contextlib.nullcontext()

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients to a norm of at most `limit` over all weights (0: of any); returns the norm before."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if limit:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), limit, norm, foreach=True)
        return norm

    def begin(self) -> None:
        """An optimiser step begins."""
        self._step.begin()

    def settle(self, moved: bool) -> None:
        """The optimiser step is done, in all processes; `moved`: it changed the weights."""
        self._step.settle(self.world, moved)

    def state(self) -> dict[str, Tensor]:
        """What the step keeps in a checkpoint."""
        return self._step.state()

    def tensors(self, optimizers: list[Any]) -> dict[str, Tensor]:
        """What a checkpoint holds; a checkpoint is loaded into the same tensors, and they are `put`."""
        return state_tensors(self.model, optimizers) | self.state()

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Take what was loaded into `tensors`; here they are the ones in use."""

    def figures(self) -> dict[str, Any]:
        """What the step adds to a line of the log."""
        return self._step.figures()

    def whole(self) -> Any:
        """The model with all its weights, in the first process; None in the others. All must ask for it."""
        return self.model if self.world.first else None


class LossModule(nn.Module):
    """A step as a module, since DDP, FSDP2 and DeepSpeed wrap the forward pass of one."""

    def __init__(self, model: nn.Module, loss: Callable[[Rows], Tensor]) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, rows: Rows) -> Tensor:
        return self._loss(rows)
