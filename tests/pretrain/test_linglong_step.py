"""LingLong and GPT-2 over packed rows: their own losses and gradients, whatever is packed beside what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from hanmo.models.presets import build_config
from hanmo.pretrain.loading import without_dropout
from hanmo.pretrain.optimizer import Muon, build_optimizers
from hanmo.pretrain.rows import filled_up, taken
from hanmo.pretrain.rules import Rates
from hanmo.pretrain.steps import step_of
from hanmo.tokens.order import Order, Rows
from hanmo.tokens.shards import Tokens, split_of


def model_of(preset: str, **own: Any) -> Any:
    """A random model whose layers count for much, with blocks of 8 tokens."""
    torch.manual_seed(0)
    config = build_config(preset, 320, 32)
    for key, value in {"attn_stride": 8, "attn_c": 2, **own}.items():
        setattr(config, key, value)
    model = AutoModelForCausalLM.from_config(config).train()
    without_dropout(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".h." in name and parameter.dim() == 2:
                parameter.mul_(5)
    return model


def rows_of(pinyin: bool = False, first: int = 0, count: int = 3) -> Rows:
    """Rows of 32 over short and long documents."""
    generator = np.random.default_rng(0)
    texts = [[*generator.integers(3, 320, length), 0] for length in (30, 3, 11, 27, 2, 19, 50, 7, 8, 16)]
    flat = np.array([token for text in texts for token in text], np.uint16)
    readings = Tokens([(flat % 20).astype(np.uint16)]) if pinyin else None
    ends = np.cumsum([len(text) for text in texts])
    return Order(split_of(flat, ends), 32, seed=1, pinyin=readings).rows(first, count)


def alone(model: Any, rows: Rows) -> torch.Tensor:
    """The summed loss with every document run through the model's own forward pass by itself."""
    total = torch.zeros(())
    for row in range(len(rows.inputs)):
        for segment in np.unique(rows.segment[row]):
            here = rows.segment[row] == segment
            more = {} if rows.pinyin is None else {"pinyin_ids": torch.from_numpy(rows.pinyin[row][here])[None]}
            logits = model(input_ids=torch.from_numpy(rows.inputs[row][here])[None], **more).logits[0]
            total = total + F.cross_entropy(logits, torch.from_numpy(rows.targets[row][here]), reduction="sum")
    return total


def step(model: Any, **options: Any) -> Any:
    """The model's step, in fp32 and eager."""
    return step_of(model, "causal")(model, torch.float32, compiled=False, context=32, **options)


CASES = {
    "sparse": ("linglong-1m", {}),
    "dense": ("linglong-1m", {"attn_mode": "dense"}),
    "pinyin": ("linglong-1m-pinyin", {"n_vocab_pinyin": 20}),
    "gpt2": ("wenzhong-2m", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_every_document_alone(case: str) -> None:
    name, own = CASES[case]
    model, rows = model_of(name, **own), rows_of(pinyin=case == "pinyin")
    loss = step(model).loss(rows)
    loss.backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    plain = alone(model, rows)
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=1e-3, atol=2e-3, msg=name)


def test_sparse_layers_are_sparse() -> None:
    rows = rows_of()
    sparse, dense = (
        float(step(model_of("linglong-1m", attn_mode=mode)).loss(rows).detach()) for mode in ("sparse", "dense")
    )
    assert abs(sparse - dense) > 1e-3


def test_shapes_do_not_depend_on_where_documents_begin() -> None:
    made = step(model_of("linglong-1m"))
    shapes = set()
    layer = made._through.layer

    def seen(number: int, hidden: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        shapes.add((number % 2, tuple((tensor.shape, tensor.dtype) for tensor in given)))
        return layer(number, hidden, *given)

    made._through.layer = seen
    losses = [float(made.loss(rows_of(first=first)).detach()) for first in range(4)]
    assert len(set(losses)) == 4 and len(shapes) == 2


@pytest.mark.parametrize("case", ["sparse", "pinyin"])
def test_rows_are_independent_of_what_is_computed_with_them(case: str) -> None:
    name, own = CASES[case]
    made, rows = step(model_of(name, **own)), rows_of(pinyin=case == "pinyin", count=4)
    together = float(made.loss(rows).detach())
    parts = sum(float(made.loss(taken(rows, slice(n, n + 1))).detach()) for n in range(4))
    filled = float(made.loss(filled_up(rows, 6)).detach())
    assert parts == pytest.approx(together, rel=1e-6) and filled == pytest.approx(together, rel=1e-6)


def test_recomputed_layers_give_the_same_bits() -> None:
    found = []
    for recompute in (False, True):
        model = model_of("linglong-1m")
        loss = step(model, recompute=recompute).loss(rows_of())
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


RATES = Rates(matrix=0.02, embedding=0.003, head=0.004, other=0.005)


@pytest.mark.parametrize(("preset", "tables"), [("linglong-1m-pinyin", 3), ("wenzhong-2m", 2), ("hanmo-1m", 1)])
def test_tables_have_adamw_and_matrices_muon(preset: str, tables: int) -> None:
    model = AutoModelForCausalLM.from_config(build_config(preset, 320, 32))
    adamw, muon = build_optimizers(model, "muon", RATES, 0.0)
    assert {group["lr"]: len(group["params"]) for group in adamw.param_groups}[0.003] == tables
    names = {id(p): name for name, p in model.named_parameters()}
    inner = [names[id(p)] for group in muon.param_groups for p in group["params"]]
    assert inner and all(".h." in name or ".layers." in name for name in inner)
    assert [group["transposed"] for group in muon.param_groups] == [preset != "hanmo-1m"]


def test_a_conv1d_moves_as_the_linear_layer_that_it_is() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(12, 4), torch.randn(12, 4)  # twelve outputs of four inputs
    linear, conv = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(weight.T.clone())
    muon = Muon([{"params": [linear]}, {"params": [conv], "transposed": True}], 0.02)
    linear.grad, conv.grad = gradient.clone(), gradient.T.clone()
    muon.step()
    torch.testing.assert_close(conv.T, linear, rtol=1e-2, atol=1e-3)
    assert float((linear.detach() - weight).norm()) == pytest.approx(0.02 * 3**0.5 * 2, rel=0.3)
