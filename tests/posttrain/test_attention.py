"""Short rows by plain products give what torch's kernel gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hanmo.posttrain.attention import SHORT, short_rows


@pytest.mark.parametrize(("length", "heads", "shared"), [(2, 4, 4), (37, 4, 2), (64, 6, 1), (SHORT + 1, 2, 1)])
def test_short_rows_equal_the_kernel(length: int, heads: int, shared: int) -> None:
    generator = torch.Generator().manual_seed(length)
    module: Any = SimpleNamespace(num_key_value_groups=heads // shared, is_causal=True)
    tensors = [torch.randn(3, n, length, 16, generator=generator) for n in (heads, shared, shared)]
    results = []
    for attend in (short_rows, sdpa_attention_forward):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output, weights = attend(module, *leaves, None, scaling=0.3)
        assert weights is None and output.shape == (3, length, heads, 16)
        (output * torch.linspace(-1, 1, 16)).sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_mask_goes_to_the_kernel() -> None:
    module: Any = SimpleNamespace(num_key_value_groups=1, is_causal=True)
    query, key, value = (torch.randn(2, 1, 5, 8) for _ in range(3))
    mask = torch.eye(5, dtype=torch.bool)[None, None].expand(2, 1, 5, 5)
    output, _ = short_rows(module, query, key, value, mask)
    assert torch.allclose(output[:, :, 0], value[:, 0], atol=1e-6)
