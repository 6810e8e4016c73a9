"""Plans of learning from rewards and of our own classes' tuning: what is followed, what fits, the words about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from transformers import AutoConfig, DynamicCache

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.models.families import AUTO
from hanmo.models.presets import build_config
from hanmo.models.save import save_model
from hanmo.plan import own, rewarded, tuning
from hanmo.plan.devices import KNOWN, Device
from hanmo.plan.rehearsal import Alive, Batch, rehearse_answers
from hanmo.plan.rehearsal_rows import rehearse_rows
from hanmo.plan.shape import of_config
from hanmo.plan.tuning_cost import plan_stage, show
from hanmo.posttrain.attention import NAME
from hanmo.posttrain.settings import RlSettings, SftSettings
from hanmo.pretrain.loading import without_dropout
from hanmo.pretrain.steps import step_of
from hanmo.tokenizer import load
from hanmo.tokens.order import Read, Rows

CPU = Device("cpu", 1e11, 64e9, cpu=True, width=4, measured=True)


@pytest.fixture(scope="module")
def shallow(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder with two layers in its configuration, which is all that a plan reads of it."""
    folder = tmp_path_factory.mktemp("shallow") / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"num_hidden_layers": 2, "layer_types": config["layer_types"][:2]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 dialogues of 12 to 52 characters."""
    path = tmp_path_factory.mktemp("records") / "sft.jsonl"
    lines = [{"instruction": "问" * (number + 1), "output": "答" * 11} for number in range(40)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def asked(**given: Any) -> RlSettings:
    base = {"rewards": {"length": 1.0}, "prompts": 2, "generations": 4, "answer_tokens": 16, "precision": "fp32"}
    return RlSettings(**(base | given))


def test_a_rehearsal_follows_the_writing_of_answers(shallow: Path) -> None:
    config = AutoConfig.from_pretrained(shallow)
    seen = rehearse_answers(config, 8, 20, 100, torch.float32, NAME)
    with torch.no_grad(), Alive() as alive:
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=NAME).eval()
        weights, cache = alive.now, DynamicCache(config=config)
        ids = torch.zeros(8, 99, dtype=torch.int64)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        held = alive.peak = alive.now
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True, logits_to_keep=1)
    assert held > weights
    assert 1 < seen / (alive.peak - weights) < 1.35, "and the probabilities that are sorted"
    assert rehearse_answers(config, 16, 20, 100, torch.float32, NAME) > 1.8 * seen


def test_what_learning_from_rewards_needs(shallow: Path, records: Path) -> None:
    inputs = {"model": [shallow], "records": [records]}
    task = rewarded.task_of(asked(), inputs, CPU)
    assert (task.records.count, task.records.held) == (36, 4) and task.answer == 16 and task.micro == 8
    assert task.records.longest > 16 + 40 and task.records.mean < task.records.longest
    need = task.need(8, False)
    model = task.rehearsed(8, False).parameters
    assert need.parts["reference model"] == 4 * model and need.parts["optimiser state"] == 8 * model
    assert "reference model" not in rewarded.task_of(asked(beta=0.0), inputs, CPU).need(8, False).parts
    judged = rewarded.task_of(asked(rewards={"model": 1.0}), inputs | {"reward": [shallow]}, CPU)
    assert judged.need(8, False).parts["reward model"] == pytest.approx(4 * model, rel=0.01)
    many = rewarded.task_of(asked(prompts=40, answer_tokens=60, micro_batch=2), inputs, CPU)
    assert many.need(2, False).moment == "writing answers" and many.writing > 4 * task.writing


def test_every_kind_of_work_costs_time(shallow: Path, records: Path) -> None:
    inputs = {"model": [shallow], "records": [records]}

    def rate(**given: Any) -> float:
        return plan_stage(rewarded.task_of(asked(**given), inputs, CPU), CPU)["tokens_per_second"]

    assert rate(beta=0.0) > rate() > rate(method="rloo")
    assert rate(recompute="layers") < rate()
    assert rate(generations=8) > rate(), "more rows in the steps of writing"
    plan = plan_stage(rewarded.task_of(asked(steps=7), inputs, CPU), CPU)
    assert plan["steps"] == 7 and plan["tokens"] == pytest.approx(7 * 8 * (plan["tokens"] / 56))
    assert plan["answers"]["count"] == 8 and 0 < plan["answers"]["share_of_time"] < 1
    assert plan["hours"] == pytest.approx(plan["tokens"] / plan["tokens_per_second"] / 3600, rel=1e-3)


def test_rewards_take_fewer_answers_at_a_time(shallow: Path, records: Path, monkeypatch, capfd) -> None:
    inputs, settings = {"model": [shallow], "records": [records]}, asked()
    task = rewarded.task_of(settings, inputs, CPU)
    room = task.need(2, False).total / tuning.MARGIN
    short = Device("cpu", 1e11, room, cpu=True, width=4, measured=True)
    monkeypatch.setattr(rewarded, "here", lambda *_, **__: short)
    assert rewarded.fitted(settings, inputs) == settings.model_copy(update={"micro_batch": 2})
    assert "fit: micro_batch: 2" in capfd.readouterr().err
    words = rewarded.explain(settings, inputs, Device("cpu", 1e11, task.need(4, False).total, cpu=True, width=4))
    assert words.startswith("8 answers of up to") and "set micro_batch: " in words
    tiny = Device("cpu", 1e11, 1e8, cpu=True, width=4)
    monkeypatch.setattr(rewarded, "here", lambda *_, **__: tiny)
    with pytest.raises(HanmoError, match=r"even one answer of .* fewer prompts or generations, fewer answer_tokens"):
        rewarded.fitted(settings, inputs)


@pytest.mark.parametrize(
    ("preset", "objective"), [("zhouwenwang-2m", "unified"), ("t5-1m", "spans"), ("linglong-1m", "causal")]
)
def test_a_rehearsal_follows_a_step_on_labelled_rows(preset: str, objective: str) -> None:
    config = build_config(preset, 512, 64)
    config.num_hidden_layers = config.num_decoder_layers = 1
    seen = rehearse_rows(config, objective, Batch(2, 64, 1.0), torch.float32, False, False)
    with Alive() as alive:
        model = getattr(transformers, AUTO[objective]).from_config(config, dtype=torch.float32).train()
        without_dropout(model)
        held = alive.now
        numbers, segment = np.ones((2, 64), np.int64), np.zeros((2, 64), np.int32)
        types = numbers if objective == "unified" else None
        read = Read(numbers, segment, segment) if objective == "spans" else None
        rows = Rows(numbers, numbers, segment, segment, types=types, read=read)
        step: Any = step_of(model, objective)(model, torch.float32, compiled=False, context=64)
        alive.peak = alive.now
        step.loss(rows).backward()
    assert seen.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert seen.step == pytest.approx(alive.peak - held, rel=0.02)
    again = rehearse_rows(config, objective, Batch(2, 64, 1.0), torch.float32, True, False)
    assert again.kept < seen.kept and rehearse_rows(config, objective, Batch(4, 64, 1.0), torch.float32, False, True)


@pytest.fixture(scope="module")
def unified(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained unified model with the tiny model's tokenizer."""
    tokenizer = load(tiny_model_dir)
    config = build_config("zhouwenwang-2m", len(tokenizer), 256)
    config.num_hidden_layers = 1
    folder = tmp_path_factory.mktemp("unified") / "model"
    save_model(getattr(transformers, AUTO["unified"]).from_config(config), tokenizer, folder, [0])
    return folder


def test_our_own_classes_take_fewer_rows(unified: Path, records: Path, monkeypatch, capfd) -> None:
    inputs, settings = {"model": [unified], "records": [records]}, SftSettings(batch_size=16, epochs=3)
    task = tuning.task_of(settings, inputs, CPU)
    assert isinstance(task, own.Own) and task.length == 256 and 0 < task.rows_a_record < 1
    assert task.whole == round(16 * task.rows_a_record) == task.micro and 0 < task.records.learnt < 1
    one, least = task.need(1, False), task.need(1, True)
    assert least.total < one.total < task.need(task.micro, False).total
    monkeypatch.setattr(
        tuning, "here", lambda *_, **__: Device("cpu", 1e11, one.total / tuning.MARGIN, cpu=True, width=4)
    )
    assert tuning.fitted(settings, inputs) == settings.model_copy(update={"micro_batch": 1})
    assert "fit: micro_batch: 1" in capfd.readouterr().err
    words = tuning.explain(settings, inputs, Device("cpu", 1e11, one.total, cpu=True, width=4))
    assert words.startswith("even one row of 256 tokens"), "Python alone takes most of it"
    monkeypatch.setattr(tuning, "here", lambda *_, **__: Device("cpu", 1e11, 1e8, cpu=True, width=4))
    with pytest.raises(HanmoError, match=r"even one row of 256 tokens .* take a smaller max_length"):
        tuning.fitted(settings, inputs)
    plan = plan_stage(task, CPU)
    assert plan["steps"] == pytest.approx(plan["tokens"] / task.step_tokens, abs=1) and plan["hours"] > 0
    shape = of_config("", task.config, 256)
    assert plan["parameters"] == shape.parameters


def test_the_plan_of_a_recipe(shallow: Path, unified: Path, records: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "align.yaml"
    path.write_text(
        "stages:\n"
        f"  - {{name: talk, do: sft, from: {{model: {shallow}, records: {records}}}}}\n"
        f"  - {{name: earn, do: grpo, from: {{model: talk, records: {records}, reward: talk}}, "
        "rewards: {model: 1.0}, steps: 5, answer_tokens: 16}\n"
        f"  - {{name: both, do: sft, from: {{model: {unified}, records: {records}}}}}\n"
        "  - {name: world, do: microworld}\n"
        f"  - {{name: later, do: sft, from: {{model: {unified}, records: world}}}}\n",
        encoding="utf-8",
    )
    done = CliRunner().invoke(cli, ["plan", str(path), "--device", "l4", "--price", "2", "--sample", "0", "--json"])
    assert done.exit_code == 0, done.output
    talk, earn, both, later = json.loads(done.stdout)["tuning"]
    assert (earn["do"], earn["steps"], earn["fits"]) == ("grpo", 5, True)
    parts = earn["memory"]["parts"]
    assert parts["reference_model"] == parts["reward_model"] == 4 * talk["parameters"] and parts["writing_answers"] > 0
    assert earn["cost"] == pytest.approx(2 * earn["hours"]) and both["records"] == 39 and both["steps"] > 0
    assert later["records"] is later["hours"] is None and later["tokens_per_second"] > 0
    show([earn, both], KNOWN["l4"], 2.0)
    shown = capsys.readouterr().out
    assert "64 answers of up to 16 tokens" in shown and "both (sft): hanmo_unified" in shown
