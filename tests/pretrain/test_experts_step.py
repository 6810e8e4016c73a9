"""Training experts: the model's own loss, balance that no cut of a step changes, resumption, several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from group import together  # type: ignore[import-not-found]
from tiny_runs import lines, make_order, make_settings, run_stage, weights  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM

from hanmo.errors import HanmoError, Interrupted
from hanmo.models.experts import blocks
from hanmo.models.loss import IGNORE
from hanmo.models.presets import build_config
from hanmo.pretrain.distributed import World, joined
from hanmo.pretrain.optimizer import Muon, build_optimizers
from hanmo.pretrain.rules import Rates
from hanmo.pretrain.settings import ExpertSettings
from hanmo.pretrain.steps.experts import ExpertsStep
from hanmo.pretrain.trainer import Trainer
from hanmo.tokens.order import Order

PRESETS = {"bias": "hanmo-moe-2m-a1m", "auxiliary": "hanmo-moe-2m-a1m-qwen2"}
ALONE = World(torch.device("cpu"))


def make(balance: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(build_config(PRESETS[balance], 320, 32, layers=2)).train()


def made(model: Any, **more: Any) -> ExpertsStep:
    return ExpertsStep(model, torch.float32, compiled=False, context=32, **more)


def trainer(out: Path, balance: str, world: World | None = None, **more: Any) -> Trainer:
    # Large amounts, so that balancing shows within a few steps.
    experts = ExpertSettings(weight=0.5, rate=0.02)
    settings = make_settings().model_copy(
        update={"threads": 1, "warmup_tokens": 0, "tokens": 6 * 128, "micro_tokens": 32, **more}
    )

    def step(*arguments: Any) -> ExpertsStep:
        return ExpertsStep(*arguments, experts=experts)

    return Trainer(make(balance), settings, make_order(), out, torch.float32, world=world, step=step)


def outcome(found: Trainer) -> dict[str, torch.Tensor]:
    """Weights, biases and shares at the end of a run."""
    return weights(found.model) | {name: tensor.clone() for name, tensor in found.spread.state().items()}


@pytest.mark.parametrize("balance", PRESETS)
def test_the_loss_is_that_of_every_document_alone(balance: str, tiny_order: Order) -> None:
    model, rows = make(balance), tiny_order.rows(0, 3)
    for block in blocks(model):
        if balance == "bias":
            block.gate.e_score_correction_bias.copy_(torch.randn(8, generator=torch.Generator().manual_seed(1)) * 0.1)
    expected = torch.zeros(())
    for inputs, targets, segment in zip(rows.inputs, rows.targets, rows.segment, strict=True):
        for document in np.unique(segment):
            here = segment == document
            logits = model(torch.from_numpy(inputs[here])[None]).logits[0]
            expected = expected + F.cross_entropy(
                logits, torch.from_numpy(targets[here]), ignore_index=IGNORE, reduction="sum"
            )
    step = made(model)
    loss = step.loss(rows)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    step.settle(ALONE, True)
    shares = step.figures()["experts"]["shares"]
    assert len(shares) == 2 and all(sum(layer) == pytest.approx(1, abs=1e-3) for layer in shares)


def test_the_auxiliary_loss_pulls_by_the_shares_of_the_step_before(tiny_order: Order) -> None:
    model, rows = make("auxiliary"), tiny_order.rows(0, 4)

    def router_gradient(step: ExpertsStep) -> torch.Tensor:
        model.zero_grad()
        step.begin()
        step.loss(rows).backward()
        return blocks(model)[0].gate.weight.grad.clone()

    plain = router_gradient(made(model, experts=ExpertSettings(balance="none")))
    step = made(model, experts=ExpertSettings(weight=0.3))
    torch.testing.assert_close(router_gradient(step), plain)
    step.settle(ALONE, True)
    assert not torch.allclose(router_gradient(step), plain, rtol=1e-2)
    shares = step.state()["experts.shares"].clone()
    step.settle(ALONE, False)
    assert step.state()["experts.shares"].equal(shares)


def test_recomputed_and_compiled_layers_give_the_same(tiny_order: Order) -> None:
    rows, found = tiny_order.rows(0, 2), []
    for how in ({"compiled": False}, {"compiled": False, "recompute": True}, {"compiled": True}):
        model = make("bias")
        step = ExpertsStep(model, torch.float32, context=32, **how)
        loss = step.loss(rows)
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.parameters()], step._loads))
    for loss, gradients, loads in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        torch.testing.assert_close(gradients, found[0][1], rtol=1e-4, atol=1e-4)
        assert loads.equal(found[0][2]) and loads.sum() == 2 * 2 * np.count_nonzero(rows.targets != IGNORE)


def first_step(found: Trainer) -> dict[str, torch.Tensor]:
    """The whole gradients of the first step behind a step of uneven shares, and the balance after it."""
    shares = found.spread.state()["experts.shares"]
    shares.copy_(torch.arange(1, 9) / 36)
    kept = {}

    def keep(limit: float) -> torch.Tensor:
        kept.update({name: p.grad.clone() for name, p in found.model.named_parameters()})
        return torch.zeros(())

    found.spread.clip = keep  # type: ignore[method-assign]
    rows = found._rows(0)
    found._one_step(rows, int(found.world.sum(int(np.count_nonzero(rows.targets != IGNORE)))[0]))
    return kept | {name: tensor.clone() for name, tensor in found.spread.state().items()}


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        # How many tokens an expert had is a whole number, and so what follows from it is the same.
        how = {"rtol": 0, "atol": 0} if name.startswith("experts.") else {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(value, two[name], msg=lambda words, name=name: f"{name}: {words}", **how)


@pytest.mark.parametrize("balance", PRESETS)
def test_micro_batches_and_a_stop_change_nothing(balance: str, tmp_path: Path) -> None:
    large = first_step(trainer(tmp_path / "large", balance, micro_tokens=128))
    close(first_step(trainer(tmp_path / "small", balance)), large)
    whole = trainer(tmp_path / "whole", balance)
    whole.run()
    state = whole.spread.state()
    assert all(state[f"experts.bias.{n}"].any() for n in range(2)) if balance == "bias" else len(state) == 1
    torn = trainer(tmp_path / "torn", balance)
    one_step = torn._one_step

    def stopping(*arguments: Any) -> float:
        if torn.step == 2:
            torn._stop.set()
        return one_step(*arguments)

    torn._one_step = stopping  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        torn.run()
    again = trainer(tmp_path / "torn", balance)
    assert again.resume()
    again.run()
    expected = outcome(whole)
    assert all(tensor.equal(expected[name]) for name, tensor in outcome(again).items())
    logged = lines(tmp_path / "torn" / "log.jsonl")
    assert all(line["experts"]["violation"] > 0 for line in logged if line["step"])


def two(out: Path) -> None:
    """In a group: a step, and no cutting."""
    for balance in PRESETS:
        with joined(make_settings().model_copy(update={"threads": 1})) as world:
            found = first_step(trainer(out / balance, balance, world))
            close(found, torch.load(out / f"{balance}.pt"))
            with pytest.raises(HanmoError, match="set parallel: ddp"):
                trainer(out / "cut", balance, world, parallel="fsdp")


def test_two_processes_come_to_the_same(tmp_path: Path) -> None:
    for balance in PRESETS:
        torch.save(first_step(trainer(tmp_path / f"{balance}-alone", balance)), tmp_path / f"{balance}.pt")
    together(2, two, tmp_path)


def test_muon_treats_every_expert_for_itself() -> None:
    model = make("bias")
    parts = build_optimizers(model, "muon", Rates(0.02, 1e-3, 1e-3, 1e-3), 0.0)
    stacks = [p for group in parts[1].param_groups for p in group["params"] if p.dim() == 3]
    routers = [p for group in parts[0].param_groups for p in group["params"] if p.shape == (8, 128)]
    assert len(stacks) == 4 and len(routers) == 2
    stack = torch.nn.Parameter(torch.zeros(3, 6, 4))
    single = [torch.nn.Parameter(torch.zeros(6, 4)) for _ in range(3)]
    stack.grad = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(2))
    for parameter, grad in zip(single, stack.grad, strict=True):
        parameter.grad = grad.clone()
    Muon([stack]).step()
    Muon(single).step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in single]), rtol=2e-2, atol=1e-4)


def test_a_class_without_a_bias_and_dense_first_layers_are_refused() -> None:
    with pytest.raises(HanmoError, match="no bias to balance by"):
        made(make("auxiliary"), experts=ExpertSettings(balance="bias"))
    config = build_config(PRESETS["bias"], 320, 32, layers=2)
    config.first_k_dense_replace = 1
    with pytest.raises(HanmoError, match="experts in every layer"):
        made(AutoModelForCausalLM.from_config(config))


def test_a_stage_trains_and_continues(tokens: Path, tmp_path: Path) -> None:
    counts = run_stage(tokens, tmp_path / "one", preset="hanmo-moe-2m-a1m", experts={"rate": 0.01}, eval_every=5)
    assert counts["active_parameters"] < counts["parameters"] and counts["heldout_bpb"] > 0
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "one" / "model")
    assert all(block.gate.e_score_correction_bias.any() for block in blocks(model))
    logged = [line["experts"] for line in lines(tmp_path / "one" / "log.jsonl") if "experts" in line]
    assert len(logged) == 10 and np.shape(logged[0]["shares"]) == (4, 8)
    again = run_stage(tokens, tmp_path / "two", model=tmp_path / "one", tokens=256)
    assert again["steps"] == 2
