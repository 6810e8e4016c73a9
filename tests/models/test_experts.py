"""Experts against plain definitions and against the stock classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from hanmo.models import experts
from hanmo.models.experts import Routed, Routing
from hanmo.models.flops import multiplied_weights

_COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "moe_intermediate_size": 24,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"num_experts": 6, "shared_expert_intermediate_size": 24},
    "glm4_moe": {"n_routed_experts": 6, "first_k_dense_replace": 0, "routed_scaling_factor": 1.5, "use_qk_norm": True},
}


@pytest.fixture(params=sorted(SHAPES))
def model(request: pytest.FixtureRequest) -> Any:
    config = AutoConfig.for_model(request.param, **_COMMON, **SHAPES[request.param])
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    chance = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b.e_score_correction_bias for b in _gates(model))]:
            tensor.copy_(torch.randn(tensor.shape, generator=chance) * (0.2 if tensor.dim() > 1 else 0.5))
    return model


def _gates(model: Any) -> list[Any]:
    return [block.gate for block in experts.blocks(model) if hasattr(block.gate, "e_score_correction_bias")]


def _plain(hidden: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Token by token, expert by expert."""
    out = []
    for row, chosen, shares in zip(hidden, index, weights, strict=True):
        total = torch.zeros_like(row)
        for expert, share in zip(chosen.tolist(), shares, strict=True):
            gate, up = (gate_up[expert] @ row).chunk(2)
            total = total + share * (down[expert] @ (F.silu(gate) * up))
        out.append(total)
    return torch.stack(out)


@pytest.mark.parametrize("compiled", [False, True])
def test_experts_are_the_plain_sum_with_its_gradients(compiled: bool) -> None:
    chance = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=chance, dtype=torch.float64).requires_grad_()

    hidden, gate_up, down = drawn(20, 8), drawn(5, 12, 8), drawn(5, 8, 6)
    weights = drawn(20, 2)
    # Nobody chose expert 3.
    index = torch.tensor([0, 1, 2, 4])[torch.rand(20, 4, generator=chance).topk(2).indices]
    function = torch.compile(experts.mixed, dynamic=False, fullgraph=True) if compiled else experts.mixed
    grad = torch.randn(20, 8, generator=chance, dtype=torch.float64)
    found = []
    for compute in (_plain, function):
        out = compute(hidden, index, weights, gate_up, down)
        found.append([out, *torch.autograd.grad(out, [hidden, weights, gate_up, down], grad)])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert not found[1][3][3].any()


def test_routing_and_layers_are_those_of_the_stock_class(model: Any) -> None:
    routing = Routing.of(model.config)
    assert routing
    hidden = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(3))
    position = torch.arange(16).expand(2, -1)
    decoder = model.model
    rotary = decoder.rotary_emb(hidden, position)
    mask = torch.full((16, 16), float("-inf")).triu(1)[None, None].expand(2, 1, 16, 16)
    real = torch.ones(32)
    for layer, block in zip(decoder.layers, experts.blocks(model), strict=True):
        bias = getattr(block.gate, "e_score_correction_bias", None)
        logits, weights, index = block.gate(hidden.flatten(0, 1))
        ours, shares, probabilities = routing(logits.float(), bias)
        assert ours.sort(-1)[0].equal(index.sort(-1)[0])
        torch.testing.assert_close(shares.sort(-1)[0], weights.sort(-1)[0])
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(32))
        expected = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        got, _, used = Routed(layer, routing)(hidden, mask, rotary, real, torch.full((6,), 1 / 6), bias)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert used.sum() == 64


def test_the_auxiliary_loss_is_that_of_switch_over_real_tokens() -> None:
    from transformers.models.qwen2_moe.modeling_qwen2_moe import load_balancing_loss_func

    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(4)).requires_grad_()
    real = (torch.arange(40) % 5 > 0).float()
    index, _, probabilities = Routing(6, 2, False, False)(logits)
    ours = experts.auxiliary_loss(index, probabilities, real)
    # transformers counts every choice for itself, so that its loss is 2 where ours is 1.
    theirs = load_balancing_loss_func((logits,), 6, 2, real[None]) / 2
    torch.testing.assert_close(ours, torch.as_tensor(theirs))
    (expected,) = torch.autograd.grad(torch.as_tensor(theirs), logits, retain_graph=True)
    (got,) = torch.autograd.grad(ours, logits)
    torch.testing.assert_close(got, expected)
    assert not got[real == 0].any()


def test_a_batch_in_pieces_pulls_as_the_whole() -> None:
    probabilities = torch.rand(30, 4, dtype=torch.float64).softmax(-1)
    index, real = probabilities.topk(2).indices, torch.ones(30)
    whole = experts.auxiliary_loss(index, probabilities, real)
    counts = experts.load(index, 4, real)
    parts = sum(experts.pull(part, counts / counts.sum(), torch.ones(10)) for part in probabilities.split(10))
    torch.testing.assert_close(parts / 30, whole)


def test_load_bias_and_violation() -> None:
    index = torch.tensor([[0, 1], [0, 2], [0, 1], [3, 1]])
    loads = experts.load(index, 4, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert loads.tolist() == [3, 2, 1, 0] and loads.dtype == torch.int64
    assert experts.violation(loads.double()).item() == 1.0
    bias = experts.moved_bias(torch.zeros(4), torch.tensor([4.0, 2.0, 2.0, 0.0]), 0.001)
    assert bias.tolist() == pytest.approx([-0.001, 0, 0, 0.001])


def test_the_bias_balances_a_router_that_prefers_one() -> None:
    """Scores that lean to expert 0: without the bias it gets everything, with it no more than a bit over its share."""
    chance = torch.Generator().manual_seed(6)
    lean = torch.tensor([3.0, 1.0, 0.0, 0.0, -1.0, -2.0])
    routing, bias, real = Routing(6, 2, True, True), torch.zeros(6), torch.ones(512)
    found = []
    for _ in range(400):
        index, _, _ = routing(torch.randn(512, 6, generator=chance) + lean, bias)
        loads = experts.load(index, 6, real).double()
        found.append(experts.violation(loads).item())
        bias = experts.moved_bias(bias, loads, 0.005)
    assert found[0] > 1.5 and sum(found[-20:]) / 20 < 0.15


def test_active_parameters(model: Any) -> None:
    held = sum(block.experts.gate_up_proj.numel() + block.experts.down_proj.numel() for block in experts.blocks(model))
    assert len(experts.blocks(model)) == 2 and held == 2 * 6 * 3 * 24 * 32
    assert experts.inactive_parameters(model) == held * 4 // 6
    dense = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **_COMMON))
    assert experts.inactive_parameters(dense) == 0
    whole = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    assert multiplied_weights(model) == whole - held * 4 // 6
