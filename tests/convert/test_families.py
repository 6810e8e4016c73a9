"""Every stock family as GGUF in real llama.cpp: the logits of transformers, from weights of which none is trivial."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hanmo.convert import convert_gguf, parity, toy
from hanmo.convert.architectures import ARCHITECTURES
from hanmo.convert.llamacpp import LlamaCpp
from hanmo.convert.trials import OPENINGS, hard_lines
from hanmo.errors import HanmoError
from hanmo.models.save import save_model
from hanmo.tokenizer import encode_text, load


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    toy.make_tokenizer(folder)
    return folder


def randomise(model: Any, seed: int = 5) -> None:
    """Gains away from one, biases and the experts' choice away from nought, matrices that name no token for ever."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "rotary" in name or "inv_freq" in name:
                continue
            noise = torch.randn(tensor.shape, generator=chance)
            if name.endswith("e_score_correction_bias"):
                tensor.copy_(noise * 0.2)
            elif tensor.dim() == 1:
                tensor.add_(noise * 0.2)
            else:
                tensor.copy_(noise * 0.11)


@pytest.fixture(scope="module", params=toy.FAMILIES)
def folder(request: pytest.FixtureRequest, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = load(tokenizer_dir)
    model: Any = AutoModelForCausalLM.from_config(toy.configuration(request.param, len(tokenizer)))
    randomise(model)
    path = tmp_path_factory.mktemp("family") / request.param
    save_model(model, tokenizer, path, [0])
    return path


@pytest.fixture(scope="module")
def f32(folder: Path) -> Path:
    return convert_gguf(folder, folder.parent / "f32.gguf", "f32").path


@pytest.mark.usefixtures("llama_cpp")
def test_logits_are_those_of_transformers(folder: Path, f32: Path) -> None:
    ids = encode_text(load(folder), "".join(OPENINGS) * 4)[:200]
    model = parity._load(folder)
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    got = LlamaCpp(f32, 256).feed(ids)
    assert expected.std() > 0.5
    # llama.cpp looks GELU up in a table of half precision.
    limit = 1e-3 if folder.name == "gpt2" else 1e-4
    assert np.abs(got - expected).max() < limit * np.abs(expected).max()


@pytest.mark.usefixtures("llama_cpp")
def test_greedy_tokens_and_perplexity(folder: Path, f32: Path) -> None:
    prompts = [encode_text(load(folder), text) for text in OPENINGS[:3]]
    report = parity.greedy(folder, f32, prompts, tokens=24)
    assert report["steps"] == 72 and report["differences"] == []
    half = convert_gguf(folder, folder.parent / "f16.gguf", "f16").path
    # Keys in F16 tip which experts of random weights are taken, so that only exact ones say whether all is right.
    exact = parity.perplexity(folder, {"f32": f32}, OPENINGS, half_cache=False)["llama_cpp"]
    usual = parity.perplexity(folder, {"f32": f32, "f16": half}, OPENINGS)["llama_cpp"]
    assert abs(exact["f32"]["relative"]) < 1e-4, exact
    assert all(abs(found["relative"]) < 0.02 for found in usual.values()), usual


def test_every_weight_is_written_once(folder: Path) -> None:
    report = convert_gguf(folder, folder.parent / "q8.gguf", "q8_0")
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    bias = sum(buffer.numel() for name, buffer in model.named_buffers() if "correction" in name)
    assert report.parameters == sum(p.numel() for p in model.parameters()) + bias
    assert report.instead == {}
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(report.path).tensors}
    for name, kind in kinds.items():
        exact = "_norm" in name or name.endswith((".bias", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight"))
        assert kind == ("F32" if exact or name == "position_embd.weight" else "Q8_0"), name


@pytest.fixture(scope="module")
def own_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with a tokenizer of GPT-2's own kind: no expression of its own, one special token at the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*hard_lines(1000, seed=1), *[toy.PAGE] * 20], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}', encoding="utf-8")
    end = tokenizer.get_vocab_size() - 1
    config = toy.configuration("gpt2", end + 1)
    config.eos_token_id = end
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("llama_cpp")
def test_gpt2s_own_tokenizer(own_gpt2: Path) -> None:
    path = convert_gguf(own_gpt2, own_gpt2 / "m.gguf", "f16").path
    report = parity.token_ids(own_gpt2, path, hard_lines(600))
    assert report == {"lines": 600, "identical": 600, "identical_special": 600, "first_difference": None}
    engine = LlamaCpp(path)
    assert engine.metadata["tokenizer.ggml.pre"] == "gpt-2"
    end = engine.vocab_size - 1
    assert [token for token in range(engine.vocab_size) if engine.ends_generation(token)] == [end]


def test_every_architecture_has_a_toy() -> None:
    found = {toy.configuration(family, 64).model_type for family in toy.FAMILIES}
    decoders = [name for name, one in ARCHITECTURES.items() if not one.encoder]
    assert found == set(toy.FAMILIES) and len(found) == len(decoders)


def refused(folder: Path, tmp_path: Path, **changes: Any) -> str:
    """The one line that answers a folder whose config.json says something else."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True))
    config = json.loads((copy / "config.json").read_text(encoding="utf-8")) | changes
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(HanmoError) as caught:
        convert_gguf(copy, tmp_path / "out.gguf", "f32")
    assert not (tmp_path / "out.gguf").exists() and "\n" not in str(caught.value)
    return str(caught.value)


_REFUSED: dict[str, tuple[tuple[dict[str, Any], str], ...]] = {
    "qwen3": (({"attention_bias": True}, "attention_bias"),),
    "qwen2": (({"use_sliding_window": True}, "use_sliding_window"), ({"head_dim": 16}, "head_dim is 16")),
    "llama": (({"mlp_bias": True}, "mlp_bias"),),
    "gpt2": (
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
    ),
    "qwen2_moe": (
        ({"norm_topk_prob": True}, "norm_topk_prob"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"num_experts": 9}, "of expert 8"),
    ),
    "glm4_moe": (
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers is 1"),
        ({"n_group": 2}, "n_group"),
        ({"first_k_dense_replace": 0}, "missing"),
    ),
}


def test_what_llama_cpp_does_not_compute_is_refused(folder: Path, tmp_path: Path) -> None:
    for change, word in _REFUSED[folder.name]:
        assert word in refused(folder, tmp_path, **change)


@pytest.mark.parametrize("folder", ["qwen2_moe", "glm4_moe"], indirect=True)
def test_an_expert_that_is_missing_or_of_another_shape(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    name = "model.layers.2.mlp.experts.5.up_proj.weight"
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert "others of its kind" in refused(copy, tmp_path / "a")
    del tensors[name]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert "blk.2.ffn_up_exps.weight of expert 5" in refused(copy, tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("LingLongForCausalLM", "behind `import hanmo`"),
        ("UnifiedForMaskedLM", "behind `import hanmo`"),
        ("MegatronT5ForConditionalGeneration", "behind `import hanmo`"),
        ("MegatronBertForMaskedLM", "transformers reads as it is"),
        ("ModernBertForSequenceClassification", "vLLM serves as a pooling model"),
    ],
)
def test_other_classes_are_told_where_they_can_go(tokenizer_dir: Path, tmp_path: Path, name: str, word: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"architectures": [name]}), encoding="utf-8")
    with pytest.raises(HanmoError) as caught:
        convert_gguf(tmp_path / "m", tmp_path / "m.gguf")
    assert name in str(caught.value) and word in str(caught.value)
