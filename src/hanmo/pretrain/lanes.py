"""Several cores of a CPU as lanes: each computes rows of its own, on one thread, and the gradients are added up.

Within one operator, threads meet at its end, a thousand times a step, and what does not divide well waits. Rows are
independent of each other, so that lanes need to meet only once in a forward and backward pass (docs/LOG.md has what
that gains). The price is memory: every lane has gradients of its own until they are added.

Which rows a lane takes and the order in which gradients are added are fixed, so that the same number of lanes gives
the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hanmo.pretrain.alone import Alone
from hanmo.pretrain.distributed import World
from hanmo.pretrain.objectives import Step, StepBuilder
from hanmo.pretrain.rows import filled_up, lanes_for, taken
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Rows

T = TypeVar("T")
#: Compiled graphs as C++ from end to end: called from Python, each kernel would hold the interpreter's lock.
OPTIONS: dict[str, Any] = {"cpp_wrapper": True}


class Laned(Alone):
    """One process on a CPU, as many lanes as it has threads."""

    def __init__(
        self, model: Any, settings: PretrainSettings, dtype: torch.dtype, world: World, step: StepBuilder = PackedStep
    ) -> None:
        super().__init__(model, settings, dtype, world, step)
        self._threads = torch.get_num_threads()
        self._lanes = min(settings.lanes or self._threads, self._threads)
        self._pool = ThreadPoolExecutor(self._lanes, "lane")
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._ready: set[int] = set()

    def _make_step(self, model: Any, settings: PretrainSettings, dtype: torch.dtype, step: StepBuilder) -> Step:
        recompute = settings.recompute == "layers"
        return step(model, dtype, settings.compile, settings.context, recompute, OPTIONS)

    def loss(self, rows: Rows) -> Tensor:
        return _Lanes.apply(lambda: self._each(rows, self._loss_and_gradients), *self._parameters)  # type: ignore[return-value]

    def measure(self, rows: Rows) -> float:
        return sum(self._each(rows, super().measure))

    def _loss_and_gradients(self, rows: Rows) -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.enable_grad():
            loss = self._step.loss(rows)
            # What no row here comes by has the gradient 0, so that lanes can be added.
            return loss.detach(), torch.autograd.grad(loss, self._parameters, materialize_grads=True)

    def _each(self, rows: Rows, function: Callable[[Rows], T]) -> list[T]:
        """What `function` finds in the rows of each lane; all lanes take equally many, so that shapes are alike."""
        lanes = lanes_for(len(rows.inputs), self._lanes)
        if lanes == 1:
            return [function(rows)]
        size = -(-len(rows.inputs) // lanes)
        rows = filled_up(rows, lanes * size)
        parts = [taken(rows, slice(start, start + size)) for start in range(0, lanes * size, size)]
        done = []
        if size not in self._ready:  # the first to come compiles, the others would do so at the same time
            done.append(self._pool.submit(_alone, function, parts.pop(0)).result())
            self._ready.add(size)
        done += list(self._pool.map(lambda part: _alone(function, part), parts))
        torch.set_num_threads(self._threads)
        return done


def _alone(function: Callable[[Rows], T], rows: Rows) -> T:
    """Call `function` in a thread that computes on one core."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    return function(rows)


class _Lanes(torch.autograd.Function):
    """The sum of what all lanes found, with gradients that are there already when the backward pass begins."""

    @staticmethod
    def forward(ctx, run: Callable[[], list[tuple[Tensor, tuple[Tensor, ...]]]], *parameters: nn.Parameter) -> Tensor:  # type: ignore[override]
        found = run()
        losses, gradients = [loss for loss, _ in found], list(found[0][1])
        for _, more in found[1:]:
            torch._foreach_add_(gradients, list(more))
        ctx.gradients = gradients
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        gradients, ctx.gradients = ctx.gradients, None
        torch._foreach_mul_(gradients, grad)
        return None, *gradients
