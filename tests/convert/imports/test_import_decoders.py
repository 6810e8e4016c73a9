"""Decoders of other projects: the imported model computes what the original's formulas give, to `EXACT`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from fabricated_checkpoints import EXACT, IDS, distance, folder, gpt2_shapes, hf_decoder_shapes, llama2_shapes, logits
from hanmo.convert.imports import import_model
from hanmo.files import read_json
from plain_references import fabricate, gpt2, hf_decoder, llama2c

TINYLLM: dict[str, Any] = {
    "architectures": ["TinyllmForCausalLM"],
    "auto_map": {"AutoConfig": "hostile.Config", "AutoModelForCausalLM": "hostile.Model"},
    "model_type": "tinyllm",
    "hidden_size": 24,
    "intermediate_size": 99,  # the published tables and weights differ
    "vocab_size": 64797,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "use_flash_attn": "auto",
}


def tinyllm() -> dict[str, torch.Tensor]:
    return fabricate(hf_decoder_shapes(biased=True) | {"lm_head.weight": (37, 24)})


def test_tinyllm_folder_becomes_qwen2_and_no_code_of_it_runs(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    weights = fabricate(hf_decoder_shapes(rows=400, biased=True) | {"lm_head.weight": (400, 24)})
    source = folder(tmp_path / "there", weights, TINYLLM)
    (source / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit\n")
    (source / "generation_config.json").write_text('{"eos_token_id": 2, "do_sample": true, "top_p": 0.8, "chat": 1}')
    shutil.copytree(tiny_tokenizer_dir, source, dirs_exist_ok=True)
    record = import_model(source, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert record["class"] == "Qwen2ForCausalLM" and record["kind"] == "Tiny LLM zh" and not record["tied"]
    assert record["config_unused"] == ["use_flash_attn"] and record["parameters"] == sum(
        w.numel() for w in weights.values()
    )
    config = read_json(tmp_path / "out" / "config.json")
    assert config["model_type"] == "qwen2" and "auto_map" not in config
    assert (config["vocab_size"], config["intermediate_size"], config["rope_theta"]) == (400, 40, 10000.0)
    assert read_json(tmp_path / "out" / "generation_config.json")["top_p"] == 0.8
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("春天") == AutoTokenizer.from_pretrained(
        tiny_tokenizer_dir
    ).encode("春天")
    reference = hf_decoder(weights, IDS, 6, 1e-6, 1e4) @ weights["lm_head.weight"].double().T
    assert distance(logits(AutoModelForCausalLM, tmp_path / "out"), reference) < EXACT


def test_tinyllm_in_shards_of_the_old_form(tmp_path: Path) -> None:
    weights = tinyllm() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    source = tmp_path / "there"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(TINYLLM))
    names = list(weights)
    places = {name: f"pytorch_model-0000{1 + (i % 2)}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(places.values()):
        torch.save({n: weights[n] for n in names if places[n] == file}, source / file)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    torch.save({"not": "weights"}, source / "training_args.bin")
    record = import_model(source, tmp_path / "out")
    assert record["derived"] == ["model.layers.0.self_attn.rotary_emb.inv_freq"]
    reference = hf_decoder(weights, IDS, 6, 1e-6, 1e4) @ weights["lm_head.weight"].double().T
    assert distance(logits(AutoModelForCausalLM, tmp_path / "out"), reference) < EXACT


def test_a_reward_model_scores_the_last_token(tmp_path: Path) -> None:
    weights = fabricate(hf_decoder_shapes(biased=True) | {"score.weight": (1, 24)})
    source = folder(tmp_path / "there", weights, {**TINYLLM, "architectures": ["TinyllmForSequenceClassification"]})
    record = import_model(source, tmp_path / "out")
    assert record["class"] == "Qwen2ForSequenceClassification" and record["kind"] == "Tiny LLM zh reward model"
    assert not (tmp_path / "out" / "generation_config.json").exists()
    reference = hf_decoder(weights, IDS, 6, 1e-6, 1e4)[-1] @ weights["score.weight"].double().T
    assert distance(logits(AutoModelForSequenceClassification, tmp_path / "out"), reference) < EXACT


def minimind(**more: Any) -> dict[str, torch.Tensor]:
    weights = fabricate(hf_decoder_shapes(width=32, head=8, kv_heads=2, normed=True, **more), dtype=torch.float16)
    return weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_minimind_half_precision_state_dict_needs_no_configuration(tmp_path: Path, wrapped: bool) -> None:
    weights = minimind()
    content = {"model": {f"_orig_mod.{k}": v for k, v in weights.items()}, "epoch": 3} if wrapped else weights
    torch.save(content, tmp_path / "pretrain_32.pth")
    record = import_model(tmp_path / "pretrain_32.pth", tmp_path / "out")
    assert record["class"] == "Qwen3ForCausalLM" and record["kind"] == "MiniMind" and record["tied"]
    assert record["dtype"] == "float16" and "rotary base 1e+06" in record["notes"][0]
    reference = hf_decoder(weights, IDS, 8, 1e-6, 1e6) @ weights["model.embed_tokens.weight"].double().T
    assert distance(logits(AutoModelForCausalLM, tmp_path / "out"), reference) < EXACT


def test_ids_that_no_configuration_tells_come_from_the_tokenizer(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    torch.save(minimind(rows=400), tmp_path / "full_sft.pth")
    record = import_model(tmp_path / "full_sft.pth", tmp_path / "out", tokenizer=tiny_tokenizer_dir)
    assert record["tokenizer"] == "json"
    assert read_json(tmp_path / "out" / "generation_config.json")["eos_token_id"] == 0
    assert read_json(tmp_path / "out" / "config.json")["eos_token_id"] == 0


def test_minimind_folder_keeps_its_rotary_base_and_an_own_head(tmp_path: Path) -> None:
    weights = minimind() | fabricate({"lm_head.weight": (37, 32)}, 3, torch.float16)
    config = {
        "model_type": "minimind",
        "auto_map": {"AutoModelForCausalLM": "model_minimind.MiniMindForCausalLM"},
        "rope_theta": 5e5,
        "rms_norm_eps": 1e-5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "use_moe": False,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }
    record = import_model(folder(tmp_path / "there", weights, config), tmp_path / "out")
    assert not record["tied"]  # the tensors say so
    reference = hf_decoder(weights, IDS, 8, 1e-5, 5e5) @ weights["lm_head.weight"].double().T
    assert distance(logits(AutoModelForCausalLM, tmp_path / "out"), reference) < EXACT


def test_minimind_before_the_norms_is_a_llama(tmp_path: Path) -> None:
    weights = fabricate(hf_decoder_shapes(kv_heads=2))
    config = {"model_type": "minimind", "num_attention_heads": 4, "num_key_value_heads": 2}
    record = import_model(folder(tmp_path / "there", weights, config), tmp_path / "out")
    assert record["class"] == "LlamaForCausalLM" and record["kind"] == "MiniMind 2"
    reference = hf_decoder(weights, IDS, 6, 1e-5, 1e6) @ weights["model.embed_tokens.weight"].double().T
    assert distance(logits(AutoModelForCausalLM, tmp_path / "out"), reference) < EXACT


@pytest.mark.parametrize("form", ["model_args", "params.json", "tables", "biased, untied"])
def test_llama2_state_dicts_turn_neighbours_into_halves(tmp_path: Path, form: str) -> None:
    weights = fabricate(llama2_shapes(biased=form == "biased, untied"))
    content: dict[str, Any] = dict(weights)
    match form:
        case "model_args":
            weights["output.weight"] = weights["tok_embeddings.weight"].clone()
            arguments = {"dim": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 64, "norm_eps": 1e-4}
            content = {
                "model": {f"_orig_mod.{k}": v for k, v in weights.items()},
                "model_args": arguments,
                "optimizer": {"state": {}, "param_groups": []},
                "iter_num": 5,
            }
        case "params.json":
            (tmp_path / "params.json").write_text('{"dim": 24, "n_layers": 2, "n_heads": 4, "norm_eps": 1e-05}')
        case "tables":
            content |= {"freqs_cos": torch.zeros(64, 3), "freqs_sin": torch.zeros(64, 3)}
        case _:
            weights["output.weight"] = fabricate({"output.weight": (37, 24)}, 9)["output.weight"]
            content = {f"module.{k}": v for k, v in weights.items()}
            (tmp_path / "params.json").write_text('{"n_heads": 4}')
    torch.save(content, tmp_path / "model.pt")
    record = import_model(tmp_path / "model.pt", tmp_path / "out")
    assert record["class"] == "LlamaForCausalLM" and record["tied"] == (form != "biased, untied")
    found = logits(AutoModelForCausalLM, tmp_path / "out")
    assert distance(found, llama2c(weights, IDS, 4, 1e-4 if form == "model_args" else 1e-5)) < EXACT


@pytest.mark.parametrize("at", ["", "transformer."])
@pytest.mark.parametrize("old", [False, True])
def test_gpt2_with_and_without_prefix_buffers_and_head(tmp_path: Path, at: str, old: bool) -> None:
    weights = fabricate(gpt2_shapes(at=at))
    config = {"model_type": "gpt2", "n_head": 3, "n_ctx": 16, "layer_norm_epsilon": 1e-3, "eos_token_id": 36}
    source = tmp_path / "there"
    if old:
        buffers = {f"{at}h.{n}.attn.bias": torch.ones(1, 1, 16, 16).tril().byte() for n in range(2)}
        buffers |= {f"{at}h.{n}.attn.masked_bias": torch.tensor(-1e4) for n in range(2)}
        source.mkdir()
        (source / "config.json").write_text(json.dumps(config))
        torch.save(weights | buffers, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        folder(source, weights | {"lm_head.weight": weights[f"{at}wte.weight"].clone()}, config)
    record = import_model(source, tmp_path / "out")
    assert record["class"] == "GPT2LMHeadModel" and record["tied"] and len(record["derived"]) == (4 if old else 1)
    assert read_json(tmp_path / "out" / "generation_config.json")["eos_token_id"] == 36
    assert distance(logits(AutoModelForCausalLM, tmp_path / "out"), gpt2(weights, IDS, 3, at, 1e-3)) < EXACT


def test_weights_in_several_types_keep_their_values(tmp_path: Path) -> None:
    weights = tinyllm()
    weights["lm_head.weight"] = weights["lm_head.weight"].bfloat16()
    record = import_model(folder(tmp_path / "there", weights, TINYLLM), tmp_path / "out")
    assert record["dtype"] == "float32"
    reference = hf_decoder(weights, IDS, 6, 1e-6, 1e4) @ weights["lm_head.weight"].double().T
    assert distance(logits(AutoModelForCausalLM, tmp_path / "out"), reference) < EXACT


def test_large_models_are_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hanmo.convert.imports import write

    monkeypatch.setattr(write, "SHARD", 8000)
    weights = tinyllm()
    import_model(folder(tmp_path / "there", weights, TINYLLM), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    reference = hf_decoder(weights, IDS, 6, 1e-6, 1e4) @ weights["lm_head.weight"].double().T
    assert distance(logits(AutoModelForCausalLM, tmp_path / "out"), reference) < EXACT
