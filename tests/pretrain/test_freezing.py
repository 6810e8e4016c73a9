"""Frozen parts: the same to the bit, out of the optimiser and of the arithmetic; and how they are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import run_stage, saved  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.models.loss import chunk_step, chunk_step_frozen, linear_cross_entropy
from hanmo.models.parts import chosen, modules_of
from hanmo.pretrain.freezing import freeze
from hanmo.pretrain.optimizer import build_optimizers
from hanmo.pretrain.rules import Rates
from hanmo.pretrain.steps.packed import PackedStep

RATES = Rates(matrix=1e-2, embedding=1e-3, head=1e-3, other=1e-3)


def test_frozen_parts_are_the_same_to_the_bit(tokens, tiny_model_dir, tmp_path: Path, capfd) -> None:
    frozen = ["embeddings", "layers.0-1", "layers.2.attention", "norm"]
    counts = run_stage(tokens, tmp_path / "run", tiny_model_dir, freeze=frozen, weight_decay=0.1)
    before, after = saved(tiny_model_dir), saved(tmp_path / "run" / "model")
    same = {name for name in before if torch.equal(before[name], after[name])}
    parts = ("model.embed_tokens", "model.layers.0.", "model.layers.1.", "model.layers.2.self_attn.", "model.norm")
    assert same == {name for name in before if name.startswith(parts)}
    assert counts["frozen"] == sum(before[name].numel() for name in same)
    assert "parameters (embeddings, layers.0-1, layers.2.attention, norm)" in capfd.readouterr().err


def test_a_frozen_run_resumes_to_the_bit(tokens, tiny_model_dir, tmp_path: Path) -> None:
    run_stage(tokens, tmp_path / "whole", tiny_model_dir, freeze=["layers.0-2"], tokens=2560)
    run_stage(tokens, tmp_path / "grown", tiny_model_dir, freeze=["layers.0-2"], tokens=1280)
    run_stage(tokens, tmp_path / "grown", tiny_model_dir, freeze=["layers.0-2"], tokens=2560)
    whole, grown = (saved(tmp_path / name / "model") for name in ("whole", "grown"))
    assert all(torch.equal(whole[name], grown[name]) for name in whole)


def test_what_is_frozen_costs_no_gradient(tiny_model, tiny_order, monkeypatch) -> None:
    model = tiny_model()
    freeze(model, ["embeddings", "layers.0-2"])
    optimised = {
        id(p) for o in build_optimizers(model, "muon", RATES, 0.0) for g in o.param_groups for p in g["params"]
    }
    assert optimised == {id(p) for p in model.parameters() if p.requires_grad}
    rows = tiny_order.rows(0, 2)
    free = tiny_model()
    PackedStep(free, torch.float32, compiled=False, context=32).loss(rows).backward()
    step = PackedStep(model, torch.float32, compiled=False, context=32)
    loss = step.loss(rows)
    loss.backward()
    assert step._chunk is chunk_step_frozen  # the head is the embedding
    torch.testing.assert_close(loss, step.loss(rows))
    for (name, one), (_, other) in zip(model.named_parameters(), free.named_parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4, msg=name)
        else:
            assert one.grad is None


def test_everything_but_the_norms_can_be_frozen(tiny_model, tiny_order) -> None:
    model = tiny_model()
    freeze(model, ["embeddings", "layers.*"])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["model.norm.weight"]
    for kind in ("muon", "adamw"):
        (optimizer,) = build_optimizers(model, kind, RATES, 0.1)
        before = model.model.norm.weight.detach().clone()
        PackedStep(model, torch.float32, compiled=False, context=32).loss(tiny_order.rows(0, 1)).backward()
        optimizer.step()
        assert not torch.equal(model.model.norm.weight, before)


def test_the_fused_loss_without_a_heads_gradient() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4)
    targets = torch.tensor([1, 8, -100, 0, 3, -100])
    for step in (chunk_step_frozen, chunk_step):
        loss = linear_cross_entropy(hidden, weight, targets, chunk=4, step=step)
        (gradient,) = torch.autograd.grad(loss, hidden)
        plain = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(gradient, torch.autograd.grad(plain, hidden)[0])


@pytest.mark.parametrize(
    ("patterns", "line"),
    [
        (["embedings"], r"freeze: no part 'embedings'; did you mean 'embeddings'\? \(known: embeddings, layers.0-3, "),
        (["layers.0-9"], r"freeze: 'layers.0-9': no part 'layers.4' \(known: .*layers.0-3.attention"),
        (["layers.3-1"], r"freeze: 'layers.3-1': no part 'layers.3-1'"),
        (["head"], "freeze: this model's head is its input embedding"),
        (["*"], "freeze: nothing is left to train"),
    ],
)
def test_slips_name_the_known_parts(tiny_model, patterns: list[str], line: str) -> None:
    with pytest.raises(HanmoError, match=line):
        freeze(tiny_model(), [p for p in patterns if p != "*"] or ["embeddings", "layers.*", "norm"])


def test_patterns_go_by_the_models_order(tiny_model) -> None:
    names = modules_of(tiny_model())
    assert chosen(["norm", "layers.1-2.mlp", "layers.*.attention"], names, "x") == [
        "layers.0.attention",
        "layers.1.attention",
        "layers.1.mlp",
        "layers.2.attention",
        "layers.2.mlp",
        "layers.3.attention",
        "norm",
    ]
