"""Presets: the counted parameters are those of the model that transformers builds, and the names tell the truth."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from hanmo.errors import HanmoError
from hanmo.models.experts import inactive_parameters
from hanmo.models.families import AUTO, learns
from hanmo.models.presets import PRESETS, build_config, count_active, count_parameters, full_name, preset
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.start import new_model
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Rows

#: A vocabulary that fits each size, as in recipes/.
VOCABULARY = {
    "hanmo-1m": 2048,
    "hanmo-2m": 2048,
    "hanmo-4m": 4096,
    "hanmo-8m": 8192,
    "hanmo-16m": 8192,
    "hanmo-42m": 16384,
    "hanmo-92m": 16384,
    "hanmo-210m": 32768,
    "hanmo-440m": 32768,
    "hanmo-1b1": 32000,
    "hanmo-1b5": 65536,
}


OURS = [name for name in PRESETS if name.startswith("hanmo-") and "moe" not in name]
#: Mixtures of experts, with a vocabulary that fits.
MIXED = {name: 2048 if "2m" in name else 32768 if "1b" in name else 8192 for name in PRESETS if "-moe-" in name}
#: By preset: parameters as published, in millions, and how many digits of that count.
PUBLISHED = {
    "tinyllm-16m": (16.7, 1),
    "tinyllm-42m": (43.3, 1),
    "tinyllm-92m": (92.1, 1),
    "tinyllm-210m": (212.8, 1),
    "tinyllm-440m": (441, 0),
    "tinyllm-1b5": (1480, -1),
    "tinyllama-1.1b-zh": (1235.314688, 6),
}


#: Parameters of the published models, counted with their vocabulary and context.
COUNTED = {
    "tinyllama-1.1b-zh": 1_235_314_688,
    "linglong-317m": 316_991_488,
    "linglong-317m-backward": 316_991_488,
    "linglong-318m-pinyin": 318_377_984,
    "linglong-106m": 96_066_048,
    "linglong-106m-word": 105_994_752,
    "zhouwenwang-110m": 101_376_000,
    "zhouwenwang-1.3b": 1_252_122_624,
    "t5-60m": 60_511_616,
    "randeng-77m": 77_372_160,
    "randeng-770m": 727_737_088,
}


def on_meta(name: str, vocabulary: int, context: int = 512) -> Any:
    """The model without its weights' memory."""
    auto = getattr(transformers, AUTO[learns(name)[0]])
    with torch.device("meta"):
        return auto.from_config(build_config(name, vocabulary, context))


def parameters(model: Any) -> int:
    # parameters() names tied weights once.
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("vocabulary", [259, 8192, 50_001])
def test_counts_are_those_of_the_built_model(name: str, vocabulary: int) -> None:
    assert parameters(on_meta(name, vocabulary, 512)) == count_parameters(name, vocabulary, 512)
    assert count_parameters(name, vocabulary, 64) <= count_parameters(name, vocabulary, 512)


@pytest.mark.parametrize("name", COUNTED)
def test_published_models_have_the_counted_parameters(name: str) -> None:
    shape = preset(name)
    assert parameters(on_meta(name, shape.vocab, shape.context)) == COUNTED[name]


def test_published_models_have_about_what_their_names_say() -> None:
    for name, said in {"wenzhong-3.5b": 3.556e9, "erlangshen-1.3b": 1.26e9}.items():
        shape = preset(name)
        assert count_parameters(name, shape.vocab, shape.context) / said == pytest.approx(1, rel=0.01), name


@pytest.mark.parametrize("name", OURS)
def test_a_name_tells_its_size(name: str) -> None:
    size = re.fullmatch(r"hanmo-(\d+)(m|b)(\d?)", name)
    assert size is not None
    said = float(f"{size[1]}.{size[3] or 0}") * {"m": 1e6, "b": 1e9}[size[2]]
    assert said / 1.35 < count_parameters(name, VOCABULARY[name]) < said * 1.35


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_published_parameters(name: str) -> None:
    model = on_meta(name, preset(name).vocab)
    said, digits = PUBLISHED[name]
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, digits) == said
    assert model.lm_head.weight is not model.get_input_embeddings().weight


def test_tiny_llms_have_biases_where_theirs_have() -> None:
    biases = {name.split(".", 3)[-1] for name, _ in on_meta("tinyllm-16m", 100).named_parameters() if "bias" in name}
    assert biases == {f"self_attn.{part}_proj.bias" for part in "qkv"}


@pytest.mark.parametrize("name", ["tinyllm-16m", "tinyllama-1.1b-zh"])
def test_published_families_train_in_packed_rows(name: str) -> None:
    shape = {"layers": 2, "hidden": 64, "ffn": 96, "heads": 4, "kv_heads": 4, "head_dim": 16}
    settings = PretrainSettings.model_validate({"preset": name, "context": 32, "shape": shape})
    model = new_model(settings, 320)
    ids = torch.randint(0, 320, (2, 33))
    rows = Rows(
        ids[:, :-1].numpy(),
        ids[:, 1:].numpy(),
        np.tile(np.arange(32, dtype=np.int32), (2, 1)),
        np.zeros((2, 32), np.int32),
    )
    own = F.cross_entropy(model(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(PackedStep(model, torch.float32, False, 32).loss(rows), own, rtol=1e-4, atol=1e-3)


def test_sizes_grow() -> None:
    counts = [count_parameters(name, 8192) for name in OURS]
    assert counts == sorted(counts)


@pytest.mark.parametrize("name", MIXED)
def test_mixtures_tell_what_they_have_and_what_is_active(name: str) -> None:
    size = re.fullmatch(r"hanmo-moe-(\d+)([mb])-a(\d+)m(-qwen2)?", name)
    assert size is not None
    vocabulary = MIXED[name]
    model = on_meta(name, vocabulary)
    parameters = sum(weight.numel() for weight in model.parameters())
    assert count_parameters(name, vocabulary) == parameters
    assert count_active(name, vocabulary) == parameters - inactive_parameters(model)
    said = int(size[1]) * {"m": 1e6, "b": 1e9}[size[2]]
    assert said / 1.35 < parameters < said * 1.35
    assert int(size[3]) / 1.35 < count_active(name, vocabulary) / 1e6 < int(size[3]) * 1.35


def test_dense_models_are_all_active() -> None:
    assert count_active("hanmo-16m", 8192) == count_parameters("hanmo-16m", 8192)


@pytest.mark.parametrize("name", [*OURS, *MIXED])
def test_shapes_are_ones_that_engines_run(name: str) -> None:
    shape = preset(name)
    assert shape.heads % shape.kv_heads == 0, "every key-value head serves equally many query heads"
    assert shape.head_dim % 32 == 0 and shape.hidden % 64 == 0
    # A quantised block of llama.cpp (Q8_0) holds 32 numbers of a row.
    assert shape.ffn % 64 == 0 and (shape.heads * shape.head_dim) % 32 == 0
    assert shape.about


def test_vocabulary_is_rounded_up_to_64() -> None:
    assert [build_config("hanmo-1m", size, 64).vocab_size for size in (259, 320, 321, 8192)] == [320, 320, 384, 8192]


def test_config_is_stock_qwen3() -> None:
    config = build_config("hanmo-1m", 400, 256)
    assert (config.model_type, config.tie_word_embeddings, config.attention_bias) == ("qwen3", True, False)
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == (0, None, None)
    assert config.max_position_embeddings == 256
    with torch.device("meta"):
        assert isinstance(AutoModelForCausalLM.from_config(config), Qwen3ForCausalLM)


def test_embeddings_are_tied() -> None:
    model = on_meta("hanmo-1m", 400)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_no_biases() -> None:
    assert not [name for name, _ in on_meta("hanmo-1m", 400).named_parameters() if name.endswith("bias")]


def test_it_runs() -> None:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(build_config("hanmo-1m", 400, 64))
    logits = model(torch.randint(0, 400, (2, 16))).logits
    assert logits.shape == (2, 16, 448) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["hanmo-4", "hanmo-42M", "hanmo42m"])
def test_an_unknown_name_names_the_nearest(name: str) -> None:
    with pytest.raises(HanmoError, match=f"preset '{name}' is unknown; did you mean 'hanmo-") as caught:
        build_config(name, 400, 64)
    assert f"(known: {', '.join(PRESETS)})" in str(caught.value)


def test_a_foreign_name_lists_the_known() -> None:
    with pytest.raises(HanmoError, match=r"preset 'llama' is unknown \(known: hanmo-1m"):
        preset("llama")


def test_a_size_is_short_for_a_name() -> None:
    assert full_name("92m") == full_name("hanmo-92m") == full_name("92M") == "hanmo-92m"
    with pytest.raises(HanmoError, match="preset '93m' is unknown"):
        full_name("93m")


def test_a_shape_of_ones_own() -> None:
    settings = PretrainSettings.model_validate({"preset": "8m", "shape": {"layers": 2, "heads": 4, "kv_heads": 1}})
    config = settings.config(8192)
    assert (config.hidden_size, config.num_hidden_layers) == (320, 2)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 1)
    with pytest.raises(ValueError, match="start: bigram is for presets of ours"):
        PretrainSettings(preset="tinyllm-16m", start="bigram")
    with pytest.raises(ValueError, match="shape: 5 heads do not divide among 2 kv_heads"):
        PretrainSettings.model_validate({"preset": "8m", "shape": {"kv_heads": 2}})
