"""Muon for the matrices inside the network, AdamW for embeddings and gains; fp32 state beside fp32 parameters.

Muon (Jordan et al. 2024) takes the momentum of a matrix and replaces it by the nearest orthogonal matrix, found by
Newton-Schulz iterations in the run's dtype. Matrices of one shape are stacked and treated in one batched product: at
small widths the launches, not the arithmetic, are what costs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from hanmo.pretrain.rules import Rates

#: Coefficients of the quintic iteration (Jordan et al.), tuned to lift small singular values fast.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 4

#: Muon's momentum at the first step and from step `AFTER` on: while weights change much, old gradients mislead.
MOMENTUM, AFTER = (0.85, 0.95), 300
#: AdamW's. The usual 0.9 for the first was worse by 0.008 bits per byte after 244 steps (docs/LOG.md).
BETAS = (0.8, 0.95)

#: Routers of experts, and gates of shared ones.
_ROUTERS = ("mlp.gate.weight", "shared_expert_gate.weight")
T = TypeVar("T")


def momentum_at(step: int) -> float:
    """Muon's momentum at a step, counted from 0; it knows nothing of the budget."""
    first, last = MOMENTUM
    return first + (last - first) * min(1.0, step / AFTER)


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Singular values of every matrix in [..., rows, columns] to about 1; iterations and result in `dtype`.

    A matrix X is first divided by (tr (X Xᵀ)⁴)^(1/8), which is never less than its largest singular value and far
    closer to it than Frobenius' norm; the products are those that the first iteration needs. Four iterations behind it
    do what five do behind the norm. In float32 those of oblong matrices are computed on X Xᵀ, which has only the
    shorter side, and X is multiplied once in the end; with fewer digits its small singular values would be lost there.
    """
    shape, matrices = matrices.shape, matrices.flatten(0, -3)
    if dtype == torch.float16:  # small momenta are nothing in its range
        matrices = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-30)
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    bound = _norm(gram)
    gram = gram / bound
    square = gram @ gram
    closer = _norm(square).sqrt()
    gram, square, x = gram / closer, square / closer**2, x / (bound * closer).sqrt()
    # All polynomials of X Xᵀ commute, and p(X Xᵀ) X has the Gram matrix p(X Xᵀ)² X Xᵀ.
    by_gram = dtype == torch.float32 and 2 * x.shape[-1] > 3 * x.shape[-2]
    odd = gram.mul(_B).add_(square, alpha=_C)
    # What all is multiplied with, or X so multiplied.
    found = odd + _A * torch.eye(x.shape[-2], dtype=dtype, device=x.device) if by_gram else _applied(odd, x)
    for _ in range(_ITERATIONS - 1):
        gram = _applied(odd, _applied(odd, gram)) if by_gram else found @ found.mT
        odd = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        found = _applied(odd, found)
    if by_gram:
        found = found @ x
    return (found.mT if tall else found).reshape(shape)


def _norm(matrices: Tensor) -> Tensor:
    """Frobenius' norm of each, [..., 1, 1], as a divisor: not 0 where the matrix is."""
    found = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True, dtype=torch.float32)
    return found.clamp_min(1e-4).to(matrices.dtype)


def _applied(odd: Tensor, to: Tensor) -> Tensor:
    """(a I + odd) to: an iteration's polynomial times a matrix."""
    return torch.baddbmm(to, odd, to, beta=_A)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. Parameters must be matrices, or stacks of them, as those of experts are.

    The update is scaled by sqrt(max(1, outputs / inputs)), so that one learning rate serves all shapes. Outputs are a
    matrix's rows, and in groups with `transposed` (transformers' Conv1D) its columns.

    Among several processes every matrix is orthogonalised by one of them. Where all hold whole matrices, each keeps
    the momentum of its own and all gather the updates. Where matrices are cut by rows (FSDP2), each process gets the
    rows of its matrices from the others, in one exchange for all matrices of a shape, and sends the updates back.

    Args:
        rank, size: this process among those that train together.
        dtype: of the iterations; updates travel in bf16.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = MOMENTUM[1],
        weight_decay: float = 0.0,
        rank: int = 0,
        size: int = 1,
        dtype: torch.dtype = torch.bfloat16,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "transposed": False})
        self._rank, self._size, self._dtype = rank, size, dtype
        for group in self.param_groups:
            for mine in self._by_shape(group["params"]):
                for parameter in mine.kept:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)

    def _by_shape(self, parameters: Iterable[Tensor]) -> list[_Alike]:
        """The parameters by shape, in an order that all processes share."""
        shapes: dict[Any, list[Tensor]] = defaultdict(list)
        for number, parameter in enumerate(parameters):
            # A stack of experts is many matrices already. Alone, a process takes one at a time, for the memory; several
            # take one each at a time.
            single = parameter.dim() > 2 and self._size == 1
            shapes[number if single else parameter.shape].append(parameter)
        first, found = 0, []
        for alike in shapes.values():
            found.append(_Alike(alike, self._rank, self._size, first, self._dtype))
            # The next shape's first owner is the one behind this shape's last, so that remainders do not pile up.
            first = (first + -(-len(alike) // found[-1].each)) % self._size
        return found

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient; they are the same ones in all processes."""
        for group in self.param_groups:
            for alike in self._by_shape(p for p in group["params"] if p.grad is not None):
                gradients = [local(p.grad) for p in alike.kept if p.grad is not None]
                buffers = [local(self.state[p]["momentum"]) for p in alike.kept]
                ahead: list[Tensor] = []
                if buffers:
                    torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
                    # Nesterov: look one momentum step ahead.
                    ahead = list(torch._foreach_lerp(gradients, buffers, group["momentum"]))
                updates = alike.updates(ahead)
                parameters = [local(p) for p in alike.parameters]
                if group["weight_decay"]:
                    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                shape = alike.shape[-2:]
                inputs, outputs = shape if group["transposed"] else reversed(shape)
                scale = max(1.0, outputs / inputs) ** 0.5
                torch._foreach_add_(parameters, updates, alpha=-group["lr"] * scale)


class _Alike:
    """Matrices of one shape, and which process treats which: `each` of them in a row, from process `first` on.

    Attributes:
        kept: those whose momentum (or whose rows of it) this process keeps.
    """

    def __init__(self, parameters: list[Tensor], rank: int, size: int, first: int, dtype: torch.dtype) -> None:
        self.parameters, self.shape = parameters, parameters[0].shape
        self._rank, self._size, self._first, self._dtype = rank, size, first, dtype
        self.each = -(-len(parameters) // size)
        self._cut = isinstance(parameters[0], DTensor)
        self.kept = parameters if self._cut else self._of(rank, parameters)

    def _of(self, process: int, items: list[T]) -> list[T]:
        start = (process - self._first) % self._size * self.each
        return items[start : start + self.each]

    def updates(self, ahead: list[Tensor]) -> list[Tensor]:
        """The orthogonal matrices (or this process's rows of them) that replace `ahead`, one for every parameter."""
        if self._size == 1:
            # Rounded as what travels among several processes, so that one process comes to the same.
            found = orthogonalise(torch.stack(ahead), dtype=self._dtype).to(torch.bfloat16)
            return list(found.float().unbind(0))
        return self._exchanged(ahead) if self._cut else self._gathered(ahead)

    def _gathered(self, ahead: list[Tensor]) -> list[Tensor]:
        device = self.parameters[0].device
        mine = torch.zeros(self.each, *self.shape, dtype=torch.bfloat16, device=device)
        if ahead:
            mine[: len(ahead)] = orthogonalise(torch.stack(ahead), dtype=self._dtype)
        everyone = torch.empty(self._size * self.each, *self.shape, dtype=torch.bfloat16, device=device)
        # As bytes: not every backend knows bf16, and nothing is computed on the way.
        dist.all_gather(list(everyone.view(torch.uint8).chunk(self._size)), mine.view(torch.uint8))
        whole = everyone.float().unbind(0)
        start = self._first * self.each
        return [*whole[start:], *whole[:start]][: len(self.parameters)]

    def _exchanged(self, ahead: list[Tensor]) -> list[Tensor]:
        rows, columns = self.shape
        piece = -(-rows // self._size)  # torch cuts like this; the last processes may have fewer rows, or none
        heights = [max(0, min(piece, rows - piece * process)) for process in range(self._size)]
        owned = [len(self._of(process, self.parameters)) for process in range(self._size)]
        count, mine = owned[self._rank], heights[self._rank]
        sent = [number * mine * columns for number in owned]
        taken = [count * height * columns for height in heights]
        order = [tensor for process in range(self._size) for tensor in self._of(process, ahead)]
        outgoing = torch.stack(order).to(torch.bfloat16).flatten()
        incoming = outgoing.new_empty(sum(taken))
        _exchange(incoming, outgoing, taken, sent)
        if count:
            shards = [part.view(count, -1, columns) for part in incoming.split(taken)]
            whole = orthogonalise(torch.cat(shards, 1), dtype=self._dtype).to(torch.bfloat16)
            incoming = torch.cat([part.flatten() for part in whole.split(heights, 1)])
        _exchange(outgoing, incoming, sent, taken)
        back = outgoing.view(len(order), mine, columns).float().unbind(0)
        start = sum(owned[process] for process in range(self._first))
        return [*back[start:], *back[:start]]


def _exchange(taken: Tensor, sent: Tensor, take: list[int], send: list[int]) -> None:
    """All to all, so many bf16 numbers from and to each process; as bytes, since not every backend knows bf16."""
    into, out_of = taken.view(torch.uint8), sent.view(torch.uint8)
    dist.all_to_all_single(into, out_of, [2 * count for count in take], [2 * count for count in send])


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of a plain one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def build_optimizers(
    model: nn.Module,
    kind: str,
    rates: Rates,
    weight_decay: float,
    rank: int = 0,
    size: int = 1,
    dtype: torch.dtype = torch.bfloat16,
) -> list[torch.optim.Optimizer]:
    """The optimisers of a model: Muon for matrices inside layers, AdamW for all else, or AdamW for all.

    Every parameter group remembers its full rate as `base_lr`, which the schedule multiplies. All state is there from
    the beginning, as zeros, so that a checkpoint can be loaded into it.

    Args:
        rank, size: this process among those that train together.
        dtype: of the run, and of Muon's iterations: where bf16 was not chosen it is slow.
    """
    parts: dict[str, list[nn.Parameter]] = {"matrix": [], "embedding": [], "head": [], "other": []}
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    turned = {id(module.weight) for module in model.modules() if isinstance(module, Conv1D)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # others are frozen
            part = "embedding" if id(parameter) in tables else _part(name, parameter)
            parts[part].append(parameter)
    groups = [
        {"params": found, "lr": getattr(rates, part), "weight_decay": 0.0 if part == "other" else weight_decay}
        for part, found in parts.items()
        if found and not (part == "matrix" and kind == "muon")
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, betas=BETAS, eps=1e-10, fused=True))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        for parameter in group["params"]:
            optimizers[0].state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    if kind == "muon" and (matrices := parts["matrix"]):
        matrices = [
            {"params": found, "transposed": transposed}
            for transposed in (False, True)
            if (found := [p for p in matrices if (id(p) in turned) == transposed])
        ]
        optimizers.append(Muon(matrices, rates.matrix, weight_decay=weight_decay, rank=rank, size=size, dtype=dtype))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def _part(name: str, parameter: Tensor) -> str:
    """Which of `Rates` is a weight's."""
    # A router's rows are the experts' marks, each its own: there is nothing to be orthogonal to.
    if parameter.dim() < 2 or name.endswith(_ROUTERS):
        return "other"
    if "embed" in name:  # also what stands in a module of its own around the table
        return "embedding"
    return "head" if "lm_head" in name else "matrix"


def state_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """What a checkpoint holds: weights as `model.<name>`, optimiser state as `optimizer.<name of the weight>.<name>`.

    The tensors are those in use: what is copied into them counts.
    """
    found: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        found[f"model.{name}"] = parameter.detach()
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{name}.{key}"] = value
    return found
