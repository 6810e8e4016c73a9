"""The packed step against the stock model's own forward pass: same losses, documents apart, same gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Order, Rows


def alone(model, rows: Rows) -> torch.Tensor:
    """The summed loss with every document run through the stock forward by itself."""
    total = torch.zeros(())
    for row in range(len(rows.inputs)):
        for segment in np.unique(rows.segment[row]):
            here = rows.segment[row] == segment
            ids = torch.from_numpy(rows.inputs[row][here])[None]
            targets = torch.from_numpy(rows.targets[row][here])
            positions = torch.from_numpy(rows.position[row][here])[None]
            logits = model(input_ids=ids, position_ids=positions).logits[0]
            total = total + F.cross_entropy(logits, targets, reduction="sum")
    return total


def test_equals_every_document_alone(tiny_model, tiny_order: Order) -> None:
    model = tiny_model()
    rows = tiny_order.rows(0, 4)
    loss = PackedStep(model, torch.float32, compiled=False, context=32).loss(rows)
    loss.backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    plain = alone(model, rows)
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=1e-3, atol=1e-3, msg=name)


def test_a_document_does_not_see_its_neighbours(tiny_model) -> None:
    model = tiny_model()
    step = PackedStep(model, torch.float32, compiled=False, context=32)
    inputs = np.arange(3, 19)[None].astype(np.int64)
    segment = np.repeat([0, 1], 8)[None].astype(np.int32)
    position = np.tile(np.arange(8), 2)[None].astype(np.int32)
    other = inputs.copy()
    other[0, :8] += 100
    first, second = (step._hidden(Rows(ids, ids, position, segment)) for ids in (inputs, other))
    assert torch.equal(first[0, 8:], second[0, 8:])
    assert not torch.equal(first[0, :8], second[0, :8])


def test_bf16_gradients_arrive_in_fp32(tiny_model, tiny_order: Order) -> None:
    model = tiny_model()
    exact = PackedStep(model, torch.float32, compiled=False, context=32).loss(tiny_order.rows(0, 2))
    loss = PackedStep(model, torch.bfloat16, compiled=False, context=32).loss(tiny_order.rows(0, 2))
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert abs(loss.item() / exact.item() - 1) < 0.01


def test_untied_heads_train_too(tiny_order: Order) -> None:
    from transformers import Qwen3ForCausalLM

    from hanmo.models.presets import build_config

    config = build_config("hanmo-1m", 320, 32)
    config.tie_word_embeddings = False
    model = Qwen3ForCausalLM(config)
    PackedStep(model, torch.float32, compiled=False, context=32).loss(tiny_order.rows(0, 1)).backward()
    assert model.lm_head.weight.grad is not None
    assert model.lm_head.weight.grad.abs().sum() > 0 and model.model.embed_tokens.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("compiled", [True])
def test_compiled_equals_eager(tiny_model, tiny_order: Order, compiled: bool) -> None:
    model = tiny_model()
    rows = tiny_order.rows(0, 4)
    eager = PackedStep(model, torch.float32, compiled=False, context=32).loss(rows)
    fast = PackedStep(model, torch.float32, compiled=compiled, context=32).loss(rows)
    torch.testing.assert_close(eager, fast, rtol=1e-5, atol=1e-3)


def test_both_attentions_agree(tiny_model, tiny_order: Order) -> None:
    rows = tiny_order.rows(0, 4)
    short, long = (PackedStep(tiny_model(), torch.float32, compiled=False, context=c).loss(rows) for c in (32, 4096))
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-3)


def test_the_models_own_forward_stays_causal(tiny_model) -> None:
    model = tiny_model().eval()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        before = model(ids).logits
        PackedStep(model, torch.float32, compiled=False, context=32)
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(ids[:, :9]).logits, before[:, :9], rtol=1e-4, atol=1e-4)
        written = model.generate(ids[:, :5], max_new_tokens=12, do_sample=False, pad_token_id=0)
        plain = tiny_model().eval().generate(ids[:, :5], max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert torch.equal(written, plain)


@pytest.mark.parametrize(("dtype", "compiled"), [("float32", False), ("bfloat16", False), ("bfloat16", True)])
def test_recomputed_layers_give_the_same_bits(tiny_model, tiny_order: Order, dtype: str, compiled: bool) -> None:
    rows = tiny_order.rows(0, 4)
    losses, gradients = [], []
    for recompute in (False, True):
        model = tiny_model()
        loss = PackedStep(model, getattr(torch, dtype), compiled, context=32, recompute=recompute).loss(rows)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert torch.equal(*losses)
    for name, value in gradients[0].items():
        assert torch.equal(value, gradients[1][name]), name


def test_recomputing_keeps_only_what_enters_a_layer(tiny_model, tiny_order: Order) -> None:
    rows = tiny_order.rows(0, 4)
    sizes = []
    for recompute in (False, True):
        step = PackedStep(tiny_model(), torch.float32, compiled=False, context=32, recompute=recompute)
        kept: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: torch.Tensor, kept=kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        weights = {p.untyped_storage().data_ptr() for p in step.model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            step.loss(rows)
        sizes.append(sum(storage.nbytes() for place, storage in kept.items() if place not in weights))
    assert sizes[1] < 0.4 * sizes[0]
