"""DeepSpeed's ZeRO as a way to spread a model: what processes would hold alike is cut among them (arXiv:1910.02054).

`zero1` cuts the optimiser's state and the weights that it moves, `zero2` the gradients as well, `zero3` the model's
weights, too; `-offload` keeps what the optimiser works on (with `zero3` also the weights) in the host's memory, where
the optimiser runs. The arithmetic is that of the other ways: weights are fp32 and cast in the layers, gradients are
summed in fp32. DeepSpeed flattens what it cuts, so that Muon, which wants matrices, cannot be had.

Checkpoints hold whole tensors under the names that the other ways give them, so that a run can go on with another way
or another number of processes.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

import torch
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.pretrain.alone import Alone, LossModule
from hanmo.pretrain.distributed import World
from hanmo.pretrain.objectives import Step, StepBuilder
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Rows

#: AdamW's state of a weight.
_STATE = ("exp_avg", "exp_avg_sq")


class Zero(Alone):
    """Every process computes its rows; state, gradients or weights are cut among them by DeepSpeed."""

    def __init__(
        self, model: Any, settings: PretrainSettings, dtype: torch.dtype, world: World, step: StepBuilder = PackedStep
    ) -> None:
        _check(settings, dtype)
        self._deepspeed = _imported(world)
        stage, _, offload = settings.parallel.removeprefix("zero").partition("-")
        self._stage, self._offload, self._clip = int(stage), bool(offload), settings.clip
        super().__init__(model, settings, dtype, world, step)
        self._names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self._adam: Any = None
        self._engine: Any = None
        self._plain: Any = None

    def _make_step(self, model: Any, settings: PretrainSettings, dtype: torch.dtype, step: StepBuilder) -> Step:
        made: Any = super()._make_step(model, settings, dtype, step)
        if self._stage == 3:
            made.as_modules()
        return made

    def prepared(self, optimizers: list[torch.optim.Optimizer]) -> list[Any]:
        [self._adam] = optimizers
        self._adam.state.clear()  # of the whole weights; it will be that of this process's part
        module = LossModule(self.model, self._step.loss)
        if self._stage == 3:
            # A layer is gathered whole, and nothing in it by itself, so that one compiled graph is all of it. What is
            # outside of the layers is gathered with the model.
            layers = {type(layer) for layer in self._step.layers}  # type: ignore[attr-defined]
            self._deepspeed.utils.set_z3_leaf_modules(module, list(layers))
            inside = {id(p) for layer in self._step.layers for p in layer.parameters()}  # type: ignore[attr-defined]
            for parameter in module.parameters():
                if id(parameter) not in inside:
                    self._deepspeed.zero.register_external_parameter(module, parameter)
        offload: dict[str, Any] = {"device": "cpu", "pin_memory": False}
        cut: dict[str, Any] = {"stage": self._stage, "overlap_comm": False}
        if self._offload:
            cut |= {"offload_optimizer": offload} | ({"offload_param": offload} if self._stage == 3 else {})
        config = {
            "train_micro_batch_size_per_gpu": 1,  # nothing is computed from it: batches are ours
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self._clip,
            "zero_optimization": cut,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "communication_data_type": "fp32",
        }
        with redirect_stdout(sys.stderr):
            self._engine, *_ = self._deepspeed.initialize(
                model=module, optimizer=self._adam, config=config, dist_init_required=False
            )
        self._begin_state()
        return [_Stepper(self._engine, self._adam)]

    def _begin_state(self) -> None:
        """AdamW's state as zeros, so that a checkpoint can be loaded into it."""
        zero = self._engine.optimizer
        flat = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        for part in flat:
            self._adam.state[part] = {
                "step": torch.zeros((), dtype=torch.float32),
                **{name: torch.zeros_like(part) for name in _STATE},
            }
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()

    def loss(self, rows: Rows) -> Tensor:
        return self._engine(rows)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed takes the mean over processes; ours are parts of one sum.
        self._engine.backward(loss * self.world.size, scale_wrt_gas=False)

    def measure(self, rows: Rows) -> float:
        return float(self._engine(rows).detach())

    @contextmanager
    def summing(self, last: bool):
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def clip(self, limit: float) -> Tensor:
        # The optimiser clips when it steps, by this very norm.
        zero = self._engine.optimizer
        if self._stage == 3:
            squares = torch.stack([torch.as_tensor(norm, dtype=torch.float32) for norm in zero._get_norm_groups()])
            norm = squares.square().sum().sqrt() if (squares >= 0).all() else torch.tensor(float("nan"))
        else:
            norm = torch.as_tensor(zero.scaled_global_norm(), dtype=torch.float32)
        # A norm that is no number is told as -1.
        return torch.where(norm >= 0, norm, float("nan")).to(self.world.device)

    def tensors(self, optimizers: list[Any]) -> dict[str, Tensor]:
        """Copies of what is cut, whole, on the CPU of every process."""
        tools = self._deepspeed.utils
        found: dict[str, Tensor] = {}
        for name, parameter in self._names.items():
            found[f"model.{name}"] = tools.safe_get_full_fp32_param(parameter).cpu()
            for key in _STATE:
                found[f"optimizer.{name}.{key}"] = tools.safe_get_full_optimizer_state(parameter, key).cpu()
            found[f"optimizer.{name}.step"] = self._steps().clone()
        with self._gathered(list(self._frozen.values())):
            found |= {f"model.{name}": parameter.detach().cpu().clone() for name, parameter in self._frozen.items()}
        return found | self.state()

    def put(self, tensors: dict[str, Tensor]) -> None:
        tools = self._deepspeed.utils
        for name, parameter in self._names.items():
            tools.safe_set_full_fp32_param(parameter, tensors[f"model.{name}"])
            for key in _STATE:
                tools.safe_set_full_optimizer_state(parameter, tensors[f"optimizer.{name}.{key}"], key)
            self._steps().copy_(tensors[f"optimizer.{name}.step"])
        for state in self._adam.state.values():
            state["step"].copy_(self._steps())
        self._spread_weights(tensors)

    def _spread_weights(self, tensors: dict[str, Tensor]) -> None:
        """The weights that the layers compute with are copies of those that the optimiser moves."""
        everyone = self._names | self._frozen
        with self._gathered(list(everyone.values()), changes=True), torch.no_grad():
            for name, parameter in everyone.items():
                parameter.copy_(tensors[f"model.{name}"])

    def _steps(self) -> Tensor:
        return next(iter(self._adam.state.values()))["step"]

    def _gathered(self, parameters: list[Any], changes: bool = False) -> Any:
        if self._stage < 3:
            return nullcontext()
        return self._deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if changes else None)

    def whole(self) -> Any:
        if self._stage < 3:
            return super().whole()
        with self._gathered(list((self._names | self._frozen).values())):
            if not self.world.first:
                return None
            if self._plain is None:
                self._plain = type(self.model)(self.model.config).to(self.world.device)
            with torch.no_grad():
                ours = dict(self.model.named_parameters())
                for name, parameter in self._plain.named_parameters():
                    parameter.copy_(ours[name])
        return self._plain


class _Stepper:
    """The engine's step as an optimiser whose rates the trainer sets; a step that is left out drops its gradients."""

    def __init__(self, engine: Any, adam: Any) -> None:
        self._engine, self._adam = engine, adam
        self._moved = False
        self._move = adam.step

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._adam.param_groups

    def step(self) -> None:
        self._engine.step()
        self._moved = True

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not self._moved:
            # All that a step does but the optimiser's own: gradients are dropped by it, and by nothing else alike in
            # all stages.
            self._adam.step = lambda closure=None: None
            self._engine.step()
            self._adam.step = self._move
        self._moved = False


def _check(settings: PretrainSettings, dtype: torch.dtype) -> None:
    if settings.optimizer != "adamw":
        raise HanmoError(
            f"parallel: {settings.parallel} cuts flattened weights, in which Muon finds no matrices: set optimizer: "
            "adamw, or parallel: fsdp"
        )
    if dtype == torch.float16:
        raise HanmoError(f"parallel: {settings.parallel} does bf16 and fp32: set precision, or parallel: fsdp")


def _imported(world: World) -> Any:
    """DeepSpeed, told which device it is for and to print nothing where results are printed."""
    os.environ.setdefault("DS_ACCELERATOR", world.device.type)
    with redirect_stdout(sys.stderr):
        deepspeed = need("deepspeed", "deepspeed")
    # It calls functions that torch has given other names, and torch says so once for every process and function.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    # On a CPU it would compile a way to communicate by shared memory, and wait for ever where an earlier process died
    # while it did.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
