"""Muon for the matrices inside the network, AdamW for embeddings and gains; fp32 state beside fp32 parameters.

Muon (Jordan et al. 2024) takes the momentum of a matrix and replaces it by the nearest orthogonal matrix, found by five
Newton-Schulz iterations in bf16. Matrices of one shape are stacked and treated in one batched product: at small widths
the launches, not the arithmetic, are what costs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: Coefficients of the quintic iteration (Jordan et al.), tuned to lift small singular values fast.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Singular values of every matrix in [n, rows, columns] to about 1; bf16 in the iterations, result in bf16."""
    x = matrices.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. Parameters must be matrices.

    The update is scaled by sqrt(max(1, rows / columns)), so that one learning rate serves all shapes.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                gradients = [p.grad for p in parameters if p.grad is not None]
                buffers = [self._buffer(p) for p in parameters]
                torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
                # Nesterov: look one momentum step ahead.
                ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
                updates = orthogonalise(torch.stack(ahead)).float().unbind(0)
                if group["weight_decay"]:
                    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_add_(parameters, updates, alpha=-group["lr"] * scale)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def build_optimizers(
    model: nn.Module, kind: str, lr: float, matrix_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimisers of a decoder: Muon for matrices inside layers, AdamW (0.9, 0.95) for all else, or AdamW for all.

    Every parameter group remembers its full rate as `base_lr`, which the schedule multiplies.
    """
    matrices, embeddings, gains = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            gains.append(parameter)
        elif "embed" in name or "lm_head" in name:
            embeddings.append(parameter)
        else:
            matrices.append(parameter)
    decayed = {"params": embeddings if kind == "muon" else matrices + embeddings, "weight_decay": weight_decay}
    adamw = torch.optim.AdamW(
        [decayed, {"params": gains, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.95), eps=1e-10, fused=True
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if kind == "muon":
        optimizers.append(Muon(matrices, lr=matrix_lr, weight_decay=weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers
