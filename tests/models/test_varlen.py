"""Attention by documents: the kernel is CUDA's, so what it is told is checked here with a plain stand-in for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hanmo.models import varlen
from hanmo.models.presets import build_config
from hanmo.models.varlen import VARLEN, boundaries, usable
from hanmo.pretrain.steps import packed
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Order
from hanmo.tokens.shards import split_of


def plain(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa=False):
    """Each stretch between two boundaries alone, as the kernel's documentation says."""
    assert window_size == (-1, 0) and torch.equal(cu_q, cu_k) and cu_q.dtype == torch.int32
    out = torch.empty_like(query)
    for start, stop in zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), strict=True):
        assert stop - start <= max_q == max_k
        if stop > start:
            q, k, v = (item[start:stop].transpose(0, 1)[None] for item in (query, key, value))
            one = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=enable_gqa)
            out[start:stop] = one[0].transpose(0, 1)
    return out


@pytest.fixture
def order() -> Order:
    generator = np.random.Generator(np.random.PCG64(0))
    ends = np.cumsum(generator.integers(3, 40, 60))
    tokens = generator.integers(3, 300, ends[-1])
    return Order(split_of(tokens.astype(np.uint16), ends), 32, seed=1)


def build():
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(build_config("hanmo-1m", 320, 32)).train()


def test_boundaries_are_a_power_of_two_and_end_with_the_rows(order: Order) -> None:
    rows = order.rows(0, 4)
    found = boundaries(rows.position)
    assert found.dtype == np.int32 and len(found) == 32 and found[0] == 0 and found[-1] == 128
    starts = found[found < 128]
    assert (rows.position.reshape(-1)[starts] == 0).all() and len(starts) == (rows.position == 0).sum()


def test_by_documents_equals_the_mask(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = order.rows(0, 4)
    found = []
    for by_documents in (False, True):
        model = build()
        if by_documents:
            monkeypatch.setattr(packed, "usable", lambda *_: True)
            monkeypatch.setattr(varlen, "varlen_attn", plain)
        loss = PackedStep(model, torch.float32, compiled=False, context=32).loss(rows)
        loss.backward()
        assert (model.config._attn_implementation == VARLEN) is by_documents
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-3, rtol=1e-3, msg=name)


def test_text_is_generated_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.arange(3, 9)[None]
    wanted = build().eval().generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    model = build().eval()
    model.set_attn_implementation(VARLEN)
    assert torch.equal(model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0), wanted)


def test_a_cpu_has_no_such_kernel() -> None:
    assert not usable(torch.device("cpu"), torch.bfloat16)
