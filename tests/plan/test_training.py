"""The plan of training stages: of a recipe with only pretraining, of others' models; faults are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.plan.bits import expected_bits
from hanmo.plan.devices import KNOWN, Device
from hanmo.plan.training import AUTO_VOCABULARY, plan_training
from hanmo.recipe import load_recipe

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "tie_word_embeddings": False,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """One pretraining over tokens that are there."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    split = {"tokens": 10_000, "documents": 100, "bytes": 30_000}
    facts = {"vocab_size": 8192, "train": split, "heldout": {**split, "tokens": 1000, "documents": 10}}
    (folder / "tokens.json").write_text(json.dumps(facts), encoding="utf-8")
    path = tmp_path / "small.yaml"
    path.write_text(
        "stages:\n  - {name: base, do: pretrain, from: {data: ./tokens}, preset: hanmo-92m, context: 1024, "
        "tokens: 2B, batch_tokens: 131072}\n",
        encoding="utf-8",
    )
    return path


def test_the_sums(recipe: Path) -> None:
    [plan] = plan_training(load_recipe(recipe), KNOWN["a100"], 8, mfu=0.4, price=2.0)
    assert plan["fits"] and plan["settings"] == {} and plan["device_flops"] == 312e12
    assert plan["tokens_per_second"] == pytest.approx(8 * 312e12 * 0.4 / plan["flops_per_token"])
    assert plan["steps"] == 15259 and plan["tokens"] == 15259 * 131072
    assert plan["hours"] == pytest.approx(plan["tokens"] / plan["tokens_per_second"] / 3600)
    assert plan["bits_per_byte"] == expected_bits(plan["parameters"], plan["tokens"])
    assert plan["kwh"] == pytest.approx(8 * 0.4 * plan["hours"]) and plan["cost"] == pytest.approx(16 * plan["hours"])
    assert plan["layout"] == {
        "micro_tokens": 8192,
        "recompute": "none",
        "parallel": "ddp",
        "processes": 8,
        "accumulation": 2,
    }
    matrices, others = plan["parameters_by_part"]["layers"], plan["parameters"] - plan["parameters_by_part"]["layers"]
    assert plan["disk"]["checkpoints"] == 3 * (4 * plan["parameters"] + 4 * matrices + 8 * others)
    assert plan["disk"]["shards"] == 11_000 * 2 + 110 * 14
    assert plan["memory"]["parts"]["gradients_fp32"] == 4 * plan["parameters"]
    assert plan["memory"]["peak"] < plan["memory"]["room"]


def test_what_fits_is_found_on_small_devices(recipe: Path) -> None:
    small = Device("small", 1e13, 4.3e9)
    [plan] = plan_training(load_recipe(recipe), small)
    assert plan["fits"] and plan["settings"] and plan["memory"]["peak"] <= 4.3e9
    assert plan["layout"]["recompute"] == "layers" or plan["layout"]["micro_tokens"] < 8192
    [plan] = plan_training(load_recipe(recipe), Device("tiny", 1e13, 1e9))
    assert not plan["fits"] and plan["settings"] is None and plan["layout"]["micro_tokens"] == 8192
    whole = plan_training(load_recipe(recipe, ["base.preset=hanmo-1b5"]), KNOWN["t4"], 8)[0]
    assert whole["fits"] and whole["layout"]["parallel"] == "fsdp"


def test_models_that_are_given_and_stages_that_follow(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    path = tmp_path / "r.yaml"
    path.write_text(
        "stages:\n"
        "  - {do: microworld}\n"
        "  - {do: corpus, from: microworld}\n"
        "  - {do: tokenizer, from: corpus, vocab_size: auto}\n"
        "  - {do: tokens, from: {corpus: corpus, tokenizer: tokenizer}}\n"
        "  - {name: base, do: pretrain, from: {data: tokens}, preset: hanmo-1m, tokens: 1M}\n"
        "  - {name: law, do: pretrain, from: {data: tokens, model: base}, context: 256}\n"
        "  - {name: other, do: pretrain, from: {data: tokens, model: ./given}}\n",
        encoding="utf-8",
    )
    base, law, other = plan_training(load_recipe(path), KNOWN["l4"])
    assert base["vocabulary"] == AUTO_VOCABULARY and base["disk"]["shards"] == 2_000_000
    assert law["parameters"] == base["parameters"] and law["flops_per_token"] < base["flops_per_token"]
    assert other["parameters"] == 2 * 500 * 64 + 2 * (4 * 64 * 64 + 3 * 64 + 3 * 64 * 128 + 2 * 64) + 64


def test_the_command(recipe: Path) -> None:
    words = [
        "plan",
        str(recipe),
        "base.tokens=1B",
        "--device",
        "h100",
        "--devices",
        "4",
        "--price",
        "2.5",
        "--sample",
        "0",
    ]
    done = CliRunner().invoke(cli, [*words, "--json"])
    assert done.exit_code == 0, done.output
    [plan] = json.loads(done.stdout)["training"]
    assert plan["stage"] == "base" and plan["devices"] == 4 and plan["tokens"] == pytest.approx(1e9, rel=1e-3)
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0 and "tokens/s, MFU" in shown.output and "at 2.5 a device and hour" in shown.output


def test_a_plan_of_this_machine_is_measured(recipe: Path) -> None:
    done = CliRunner().invoke(cli, ["plan", str(recipe), "base.preset=hanmo-1m", "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    [plan] = json.loads(done.stdout[done.stdout.index("{") :])["training"]
    assert plan["device_flops"] > 1e9 and plan["kwh"] is None and plan["memory"]["room"] > 1e8
    assert "the way from text to tokens is not planned: small: no corpus stage in it" in done.stderr


def test_faults_are_one_line(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(recipe.read_text().replace("data: ./tokens", "data: ./none"), encoding="utf-8")
    with pytest.raises(HanmoError, match=r"tokens.json: no such file"):
        plan_training(load_recipe(path), KNOWN["a100"])
    path.write_text("stages:\n  - do: microworld\n", encoding="utf-8")
    from hanmo.plan.whole import plan_recipe

    with pytest.raises(HanmoError, match="no training in it, and --sample 0 leaves its text out"):
        plan_recipe(load_recipe(path), sample=0)
