"""How a model is spread over the processes that train it: not at all, copied (DDP), or cut (FSDP2, or
DeepSpeed's ZeRO in `hanmo.pretrain.zero`).

Each way has the same few methods, and the trainer does not know which it has. Gradients are summed over processes, not
averaged: the trainer has divided the loss by the targets of the whole batch, wherever they are, so that any number of
processes, with any shares of the rows, comes to the gradient of one big batch.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from hanmo.errors import HanmoError
from hanmo.pretrain.alone import Alone, LossModule
from hanmo.pretrain.distributed import World
from hanmo.pretrain.lanes import Laned
from hanmo.pretrain.objectives import Step, StepBuilder
from hanmo.pretrain.optimizer import local
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.pretrain.zero import Zero
from hanmo.tokens.order import Rows


class Copied(Alone):
    """Every process holds all weights and computes its rows: torch's DistributedDataParallel."""

    def __init__(
        self, model: Any, settings: PretrainSettings, dtype: torch.dtype, world: World, step: StepBuilder = PackedStep
    ) -> None:
        super().__init__(model, settings, dtype, world, step)
        self._copies = DistributedDataParallel(LossModule(model, self._step.loss), gradient_as_bucket_view=True)
        self._copies.register_comm_hook(None, _sum)

    def loss(self, rows: Rows) -> Tensor:
        return self._copies(rows)

    def summing(self, last: bool) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if last else self._copies.no_sync()


def _sum(_, bucket):
    """Sum a bucket of gradients: DDP's own way divides by the number of processes.

    Without annotations, since DDP compares them with the classes themselves and ours are strings.
    """
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


class Cut(Alone):
    """Every process holds a part of each weight (FSDP2); a layer's weights are gathered when it computes."""

    def __init__(
        self, model: Any, settings: PretrainSettings, dtype: torch.dtype, world: World, step: StepBuilder = PackedStep
    ) -> None:
        super().__init__(model, settings, dtype, world, step)
        layers = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        # What is outside of the layers stays in fp32, as in one process: the embedding's gradient is a sum over all
        # places of a token, and the head is cast inside of the loss.
        rest = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        mesh = dist.init_device_mesh(world.device.type, (world.size,))
        cut: Any = self._step
        for layer in cut.layers:
            fully_shard(layer, mesh=mesh, mp_policy=layers)
        self._module = LossModule(model, self._step.loss)
        self._root = fully_shard(self._module, mesh=mesh, mp_policy=rest)
        for module in self._module.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self._plain: Any = None

    def _make_step(self, model: Any, settings: PretrainSettings, dtype: torch.dtype, step: StepBuilder) -> Step:
        made: Any = super()._make_step(model, settings, dtype, step)
        made.as_modules()
        return made

    def loss(self, rows: Rows) -> Tensor:
        return self._module(rows)

    def measure(self, rows: Rows) -> float:
        loss = float(self._module(rows).detach())
        # Without a backward pass the gathered weights would stay, and be taken for the parameters.
        self._root.reshard()
        return loss

    @contextlib.contextmanager
    def summing(self, last: bool):
        self._root.set_requires_gradient_sync(last)
        yield

    def clip(self, limit: float) -> Tensor:
        gradients = [local(p.grad) for p in self.model.parameters() if p.grad is not None]
        square = torch.stack(torch._foreach_norm(gradients)).square().sum()
        dist.all_reduce(square)
        norm = square.sqrt()
        if limit:
            torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def whole(self) -> Any:
        weights = {}
        for name, parameter in self.model.named_parameters():
            full = parameter.detach().full_tensor()
            if self.world.first:
                weights[name] = full
        if not self.world.first:
            return None
        if self._plain is None:
            self._plain = type(self.model)(self.model.config).to(self.world.device)
        with torch.no_grad():
            for name, parameter in self._plain.named_parameters():
                parameter.copy_(weights[name])
        return self._plain


def spread(
    model: Any, settings: PretrainSettings, dtype: torch.dtype, world: World, step: StepBuilder = PackedStep
) -> Alone:
    """Spread a model over the processes of `world` as `settings.parallel` says; `step` builds what makes its loss."""
    if world.size == 1:
        if settings.parallel.endswith("-offload"):
            raise HanmoError(
                f"parallel: {settings.parallel} is for several processes, and this is one: set parallel: ddp"
            )
        several = world.device.type == "cpu" and torch.get_num_threads() > 1 and settings.lanes != 1
        laned = several and settings.compile and getattr(getattr(step, "func", step), "laned", False)
        return (Laned if laned else Alone)(model, settings, dtype, world, step)
    return {"ddp": Copied, "fsdp": Cut}.get(settings.parallel, Zero)(model, settings, dtype, world, step)
