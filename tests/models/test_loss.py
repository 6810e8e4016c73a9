"""The fused linear cross-entropy equals the plain one, value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hanmo.models.loss import IGNORE, linear_cross_entropy


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
def test_equals_plain_cross_entropy(chunk: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(24, 8, dtype=torch.float64).float().requires_grad_()
    weight = torch.randn(50, 8).requires_grad_()
    targets = torch.randint(0, 50, (24,))
    targets[[3, 9, 20]] = IGNORE
    loss = linear_cross_entropy(hidden, weight, targets, chunk=chunk)
    (loss / 21).backward()
    ours = (hidden.grad.clone(), weight.grad.clone())
    hidden.grad = weight.grad = None
    plain = F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORE, reduction="sum")
    (plain / 21).backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(ours[0], hidden.grad)
    torch.testing.assert_close(ours[1], weight.grad)


def test_only_ignored_targets_give_zero() -> None:
    hidden = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(50, 8, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.full((4,), IGNORE))
    loss.backward()
    assert loss.item() == 0 and hidden.grad.abs().sum() == 0 and weight.grad.abs().sum() == 0


def test_huge_logits_stay_finite() -> None:
    hidden = torch.full((2, 4), 300.0, requires_grad=True)
    weight = torch.randn(10, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1, 2]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(weight.grad).all()
