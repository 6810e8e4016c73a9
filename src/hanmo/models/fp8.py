"""Products of linear layers in 8-bit floating point, as the hardware of NVIDIA's Ada, Hopper and later has them.

Every product has scales of its own for its two sides, found from their largest values as they come (arXiv:2209.05433):
activations and weights as e4m3, which is finer, gradients as e5m2, which reaches further. Sums are in fp32 and results
in the dtype of what came in. Kept for the backward pass are the 8-bit forms, half of what bf16 keeps. Norms, attention,
the head and the loss stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hanmo.errors import HanmoError

#: The kernels' tiles: sizes that are no multiple are computed as they were.
TILE = 16
#: NVIDIA's compute capability from which on there are such products.
CAPABILITY = (8, 9)


def check(device: torch.device) -> None:
    """Refuse a device that has no such products.

    Raises:
        HanmoError: it has none.
    """
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= CAPABILITY:
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    raise HanmoError(
        f"precision: fp8: {name} has no 8-bit products (NVIDIA's devices of compute capability 8.9 and more have): "
        "set precision: auto"
    )


def _scaled(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(values in 8 bits, fp32 scalar that they are to be multiplied by)."""
    most = values.abs().amax().float().clamp(min=1e-12)
    limit = torch.finfo(dtype).max
    scaled = values.float() * (limit / most)
    return scaled.clamp(-limit, limit).to(dtype), most / limit


def _product(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], dtype: torch.dtype, fast: bool) -> Tensor:
    """left [n, k] @ right [k, m]; the kernels take the left by rows and the right by columns."""
    (a, scale_a), (b, scale_b) = left, right
    by_columns = b if b.stride(0) == 1 else b.t().contiguous().t()
    return torch._scaled_mm(
        a.contiguous(), by_columns, scale_a=scale_a, scale_b=scale_b, out_dtype=dtype, use_fast_accum=fast
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """hidden [n, inputs], weight [outputs, inputs] -> [n, outputs]."""
        x, w = _scaled(hidden, torch.float8_e4m3fn), _scaled(weight, torch.float8_e4m3fn)
        ctx.save_for_backward(*x, *w)
        ctx.dtypes = hidden.dtype, weight.dtype
        return _product(x, (w[0].t(), w[1]), hidden.dtype, fast=True)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        x, scale_x, w, scale_w = ctx.saved_tensors
        g, scale_g = _scaled(grad, torch.float8_e5m2)
        to_hidden = to_weight = None
        if ctx.needs_input_grad[0]:
            to_hidden = _product((g, scale_g), (w, scale_w), ctx.dtypes[0], fast=False)
        if ctx.needs_input_grad[1]:
            to_weight = _product((g.t(), scale_g), (x, scale_x), ctx.dtypes[1], fast=False)
        return to_hidden, to_weight


class Fp8Linear(nn.Linear):
    """A linear layer whose products are in 8 bits."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.flatten(0, -2)
        if rows.shape[0] % TILE:
            return F.linear(input, self.weight, self.bias)
        found = _Linear.apply(rows, self.weight)
        if self.bias is not None:
            found = found + self.bias
        return found.view(*input.shape[:-1], self.out_features)


def convert(module: nn.Module) -> int:
    """Make the linear layers of a module such ones, where their sizes allow it; returns how many."""
    count = 0
    for part in module.modules():
        if type(part) is nn.Linear and not (part.in_features % TILE or part.out_features % TILE):
            part.__class__ = Fp8Linear
            count += 1
    return count
