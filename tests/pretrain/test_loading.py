"""Continuing checkpoints: which are taken, which are refused and with what mend, and another vocabulary on the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_runs import run_stage, saved  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.files import read_json, read_jsonl
from hanmo.models.folder import resolve
from hanmo.pretrain.loading import load_model
from hanmo.pretrain.settings import PretrainSettings
from hanmo.tokenizer import load, save

SHAPE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 0,
    "pad_token_id": None,
    "bos_token_id": None,
}


def folder_of(config, out: Path, tokenizer: Path | None) -> Path:
    """A random model of that configuration, saved as transformers does."""
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(out)
    if tokenizer:
        save(load(tokenizer), out)
    return out


def loaded(folder: Path, data: Path, out: Path, **options):
    settings = PretrainSettings(context=32, batch_tokens=128, **options)
    return load_model(settings, folder, 400, data / "tokenizer", out)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("Llama", {}),
        ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("Qwen2", {"tie_word_embeddings": False}),
        ("Qwen3", {"head_dim": 16, "attention_bias": True}),
        ("Mistral", {"sliding_window": None, "head_dim": 16}),
        ("GPT2", {"n_inner": 48}),
    ],
)
def test_decoders_of_the_kin_are_continued(family, more, tokens, tiny_tokenizer_dir, tmp_path: Path) -> None:
    config = getattr(transformers, f"{family}Config")(**SHAPE, **more)
    folder = folder_of(config, tmp_path / "given", tiny_tokenizer_dir)
    run_stage(tokens, tmp_path / "run", folder, tokens=2560)
    losses = [line["loss"] for _, line in read_jsonl(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert losses[-1] < losses[0]
    before, after = saved(folder), saved(tmp_path / "run" / "model")
    assert before.keys() == after.keys()
    assert all((before[name] != after[name]).any() for name in before)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert type(again).__name__ in (f"{family}ForCausalLM", f"{family}LMHeadModel")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        # Scores of its second layer are divided by two.
        (transformers.GPT2Config(**SHAPE, scale_attn_by_inverse_layer_idx=True), r"its layers differ in attn.scaling"),
        (transformers.GemmaConfig(**SHAPE, head_dim=8), "GemmaForCausalLM: its decoder is not one .* can be trained"),
        (
            transformers.GraniteConfig(**SHAPE, embedding_multiplier=12.0),
            r"GraniteForCausalLM: .* \(loss [\d.]+ instead of [\d.]+ on a probe\)",
        ),
        # One of its layers has no rotary embeddings, and the packed step runs all layers alike.
        (transformers.SmolLM3Config(**SHAPE, no_rope_layers=[1, 0]), "SmolLM3ForCausalLM: its decoder is not one"),
        (
            transformers.MistralConfig(**SHAPE, sliding_window=16),
            r"\(a sliding window of 16 tokens\); lower context to 16",
        ),
        (
            transformers.BertConfig(**SHAPE | {"num_hidden_layers": 1}, is_decoder=False),
            "set objective: masked for an encoder",
        ),
    ],
)
def test_what_the_step_cannot_run_is_one_line(config, line: str, tokens, tiny_tokenizer_dir, tmp_path: Path) -> None:
    folder = folder_of(config, tmp_path / "given", tiny_tokenizer_dir)
    with pytest.raises(HanmoError, match=line) as said:
        loaded(folder, tokens, tmp_path / "run")
    assert "\n" not in str(said.value) and str(said.value).startswith(str(folder))


def test_a_context_beyond_the_models_is_refused(tokens, tiny_model_dir, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="context: 512 is longer than the model's 256; lower it"):
        load_model(PretrainSettings(context=512), tiny_model_dir, 400, tokens / "tokenizer", tmp_path)


def test_a_folder_that_is_no_model_is_one_line(tokens, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(HanmoError, match="no model that transformers can load here"):
        loaded(tmp_path, tokens, tmp_path / "run")


def test_odd_weights_are_listed_and_only_taken_when_asked(tokens, tiny_tokenizer_dir, tmp_path: Path, capfd) -> None:
    folder = folder_of(transformers.LlamaConfig(**SHAPE), tmp_path / "given", tiny_tokenizer_dir)
    weights = load_file(folder / "model.safetensors")
    kept = weights["model.layers.0.mlp.up_proj.weight"].clone()
    del weights["lm_head.weight"], weights["model.layers.1.mlp.down_proj.weight"]
    weights["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(7, 32)
    weights["stray.weight"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    out = tmp_path / "run"
    with pytest.raises(
        HanmoError,
        match=re.escape(
            "not the weights of LlamaForCausalLM: 2 missing (lm_head.weight, model.layers.1.mlp.down_proj.weight); "
            "1 unexpected (stray.weight); 1 mismatched (model.layers.0.self_attn.q_proj.weight [7, 32] for [32, 32])"
        ),
    ):
        loaded(folder, tokens, out)
    assert read_json(out / "loading.json")["unexpected"] == ["stray.weight"]
    first, second = (loaded(folder, tokens, out, strict=False) for _ in range(2))
    assert torch.equal(first.model.layers[0].mlp.up_proj.weight, kept)
    # What is drawn is drawn from the seed: a run that is killed and begun again starts alike.
    assert torch.equal(first.lm_head.weight, second.lm_head.weight) and first.lm_head.weight.std() > 0.01
    assert "strict: false: LlamaForCausalLM: 2 missing" in " ".join(capfd.readouterr().err.split())
    run_stage(tokens, tmp_path / "whole", folder, strict=False)
    assert (tmp_path / "whole" / "model" / "config.json").is_file()


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory) -> Path:
    """A tokenizer of 384 tokens that shares bytes and marks with the tiny one, and nothing else."""
    from tokenizers import pre_tokenizers, trainers

    from hanmo.tokenizer import build, skeleton
    from hanmo.tokenizer.chat import SPECIAL_TOKENS

    tokenizer = skeleton()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["民法典规定，自然人享有生命权、身体权和健康权。任何组织或者个人不得侵害他人。"] * 4, trainer
    )
    folder = tmp_path_factory.mktemp("other")
    build(tokenizer, folder)
    return folder


def test_another_vocabulary_is_refused_with_the_mend_or_swapped(
    make_tokens, other_tokenizer, tiny_model_dir, tmp_path: Path, capfd
) -> None:
    ours, theirs = load(other_tokenizer).get_vocab(), load(tiny_model_dir).get_vocab()
    data = make_tokens("law", ["law"], other_tokenizer, len(ours))
    with pytest.raises(HanmoError, match=r"made with another tokenizer \(\d+ of \d+ ids differ: .*hanmo model resize"):
        run_stage(data, tmp_path / "run", tiny_model_dir)
    out = tmp_path / "swapped"
    run_stage(data, out, tiny_model_dir, vocabulary="swap")
    said = f"vocabulary: swap: {len(ours.keys() & theirs)} of {len(ours)} tokens keep their row"
    assert said in " ".join(capfd.readouterr().err.split())
    assert load(out / "model").get_vocab() == ours
    assert saved(out / "model")["model.embed_tokens.weight"].shape[0] == 384
    assert not (out / "given").exists()


def test_the_warm_up_of_a_continued_run_begins_anew(tokens, tiny_model_dir, tmp_path: Path) -> None:
    run_stage(tokens, tmp_path / "run", tiny_model_dir, warmup_tokens=512, lr=1e-3)
    rates = [line["lr"] for _, line in read_jsonl(tmp_path / "run" / "log.jsonl") if "lr" in line]
    assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3]) and rates[-1] < 5e-4


def test_a_stages_folder_can_be_continued_and_dropout_is_off(tokens, tiny_tokenizer_dir, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**SHAPE, attention_dropout=0.3)
    folder_of(config, tmp_path / "stage" / "model", tiny_tokenizer_dir)
    model = loaded(resolve(tmp_path / "stage"), tokens, tmp_path)
    assert model.training and model.model.layers[0].self_attn.attention_dropout == 0
    assert model.config.attention_dropout == 0.3
