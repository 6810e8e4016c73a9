"""New models: layers that add nothing yet, and the bigram model around them, also in a run that is killed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import QUICK, make_order, run_stage  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from hanmo.errors import HanmoError
from hanmo.files import read_jsonl
from hanmo.models import bigram
from hanmo.models.presets import build_config
from hanmo.pretrain import start
from hanmo.pretrain.distributed import World
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.start import begin_with_bigrams, new_model
from hanmo.pretrain.steps.packed import PackedStep


@pytest.fixture
def bigram_settings() -> PretrainSettings:
    return PretrainSettings(**{**QUICK, "start": "bigram"})


def test_layers_add_nothing_at_first(bigram_settings: PretrainSettings) -> None:
    model = new_model(bigram_settings, 320)
    ids = torch.randint(0, 320, (2, 8))
    with torch.no_grad():
        plain = model.lm_head(model.model.norm(model.get_input_embeddings()(ids)))
        assert torch.equal(model(ids).logits, plain)
    assert model.model.layers[0].mlp.up_proj.weight.std() > 0.05
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_a_random_start_is_as_transformers_draws_it() -> None:
    torch.manual_seed(PretrainSettings(**QUICK).seed)
    stock = Qwen3ForCausalLM(build_config("hanmo-1m", 320, 32)).state_dict()
    ours = new_model(PretrainSettings(**QUICK), 320).state_dict()
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


def test_it_is_the_seed_that_draws(bigram_settings: PretrainSettings) -> None:
    other = PretrainSettings(**{**QUICK, "seed": 2})
    one, same, two = (
        new_model(s, 320).state_dict() for s in (PretrainSettings(**QUICK), PretrainSettings(**QUICK), other)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], two["model.embed_tokens.weight"])


def test_a_bigram_start_knows_what_follows(tmp_path: Path, bigram_settings: PretrainSettings) -> None:
    order = make_order()
    losses = {}
    for name in ("random", "bigram"):
        model = new_model(bigram_settings.model_copy(update={"start": name}), 320)
        if name == "bigram":
            begin_with_bigrams(model, order, 1280, World(torch.device("cpu")), tmp_path / "start.safetensors")
        rows = order.rows(0, 8)
        losses[name] = PackedStep(model, torch.float32, False, 32).loss(rows).item() / rows.targets.size
    # Each token is followed by the next number, which 1,300 tokens say of 300.
    assert losses["random"] > 5.5 and losses["bigram"] < 3


def test_what_was_fitted_is_kept_for_a_run_that_begins_again(tmp_path: Path, bigram_settings: PretrainSettings) -> None:
    kept, world = tmp_path / "given" / "start.safetensors", World(torch.device("cpu"))
    one, two = (new_model(bigram_settings, 320) for _ in range(2))
    begin_with_bigrams(one, make_order(), 1280, world, kept)
    begin_with_bigrams(two, None, 1280, world, kept)  # type: ignore[arg-type]
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name])


def test_a_run(tokens: Path, tmp_path: Path) -> None:
    random, pairs = (run_stage(tokens, tmp_path / name, start=name) for name in ("random", "bigram"))
    assert pairs["start_seconds"] > 0 and "start_seconds" not in random
    logs = {name: read_jsonl(tmp_path / name / "log.jsonl") for name in ("random", "bigram")}
    first = {name: next(line["loss"] for _, line in log if "loss" in line) for name, log in logs.items()}
    assert first["bigram"] < first["random"] - 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "bigram" / "model")
    assert not model.config.tie_word_embeddings and "lm_head.weight" in load_file(
        tmp_path / "bigram" / "model" / "model.safetensors"
    )
    assert not (tmp_path / "bigram" / "given").exists()
    again = run_stage(tokens, tmp_path / "again", start="bigram")
    assert again["loss"] == pairs["loss"]
    # A larger budget goes on from there.
    longer = run_stage(tokens, tmp_path / "bigram", start="bigram", tokens=2560)
    whole = run_stage(tokens, tmp_path / "whole", start="bigram", tokens=2560)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("bigram", "whole")]
    assert longer["loss"] == whole["loss"] and all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


def test_only_for_new_models(tokens: Path, tmp_path: Path) -> None:
    run_stage(tokens, tmp_path / "one")
    with pytest.raises(HanmoError, match="start: bigram is for new models"):
        run_stage(tokens, tmp_path / "two", tmp_path / "one" / "model", start="bigram")


def test_a_short_run_gets_a_rough_fit(
    tmp_path: Path,
    bigram_settings: PretrainSettings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start, "SHORT", 1000)
    rounds, fit = [], bigram.fit
    monkeypatch.setattr(bigram, "fit", lambda *pairs: rounds.append(pairs[-1]) or fit(*pairs))
    world, model = World(torch.device("cpu")), new_model(bigram_settings, 320)
    for budget in (20, 1280):
        begin_with_bigrams(model, make_order(), budget, world, tmp_path / f"{budget}.safetensors")
    assert rounds == [1, bigram.ROUNDS]
    few, many = re.findall(r"bigram model of ([\d.]+)(k?) tokens", capsys.readouterr().err)
    assert few[1] == "" and 400 < float(few[0]) <= 20 * start.SAMPLE_SHARE and many[1] == "k"
