"""Cross-entropy of a linear head without ever holding all the logits.

With a vocabulary of V and N tokens the logits are N x V numbers, at small model sizes by far the largest tensor of a
step. Here the head is applied to a chunk of tokens at a time; while a chunk's logits are at hand, the gradients to the
hidden states and to the head are made from them as well, in the forward pass. The backward pass then only scales by the
incoming gradient. (The idea is that of fused linear cross-entropy kernels such as Liger's; this one is plain torch, and
the inner step is compiled where a compiler is at hand.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Marks positions that are no targets.
IGNORE = -100


def chunk_step(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients of one chunk.

    Args:
        hidden: [n, d] compute dtype.
        weight: [V, d] compute dtype.
        targets: [n] int64, `IGNORE` where there is none.

    Returns:
        (sum of the losses, fp32 scalar; d loss / d hidden, [n, d]; d loss / d weight, [V, d]).
    """
    loss, slope = _loss_and_slope(hidden, weight, targets)
    return loss, slope @ weight, slope.T @ hidden


def chunk_step_frozen(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, None]:
    """As `chunk_step`, without the gradient of a weight that does not learn: a third of the arithmetic less."""
    loss, slope = _loss_and_slope(hidden, weight, targets)
    return loss, slope @ weight, None


def _loss_and_slope(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of the losses; d loss / d logits, [n, V] in the compute dtype)."""
    logits = (hidden @ weight.T).float()
    valid = targets != IGNORE
    safe = torch.where(valid, targets, 0)
    top = logits.amax(-1, keepdim=True)
    exponent = (logits - top).exp()
    total = exponent.sum(-1, keepdim=True)
    losses = total.log() + top - logits.gather(-1, safe[:, None])
    columns = torch.arange(weight.shape[0], device=weight.device)
    slope = exponent / total - (columns[None, :] == safe[:, None]).float()
    return (losses[:, 0] * valid).sum(), (slope * valid[:, None]).to(hidden.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, step: Callable) -> Tensor:  # type: ignore[override]
        compute = weight.to(hidden.dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden)
        learns = ctx.needs_input_grad[1]
        to_weight = torch.zeros(weight.shape if learns else 0, dtype=torch.float32, device=weight.device)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            part_loss, part_hidden, part_weight = step(hidden[part], compute, targets[part])
            loss += part_loss
            to_hidden[part] = part_hidden
            if learns:
                to_weight += part_weight
        ctx.save_for_backward(to_hidden, to_weight)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        to_hidden, to_weight = ctx.saved_tensors
        of_weight = (to_weight * grad).to(ctx.weight_dtype) if ctx.needs_input_grad[1] else None
        return to_hidden * grad.to(to_hidden.dtype), of_weight, None, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = 1024, step: Callable = chunk_step
) -> Tensor:
    """Sum (not mean) of the cross-entropies of `hidden @ weight.T` against `targets`, in nats, as an fp32 scalar.

    Args:
        hidden: [N, d] in the compute dtype.
        weight: [V, d], any float dtype; its gradient comes in its own dtype, summed over chunks in fp32.
        targets: [N] int64 with `IGNORE` at positions that do not count.
        chunk: tokens whose logits are held at a time; best a divisor of N, so that `step` sees one shape.
        step: `chunk_step` or a compiled form of it.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk, step)  # type: ignore[return-value]
