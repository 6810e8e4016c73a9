"""Megatron's T5: published names, a plain reference in float64, generation with cache and batch, and its folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, EncoderDecoderCache

from hanmo.errors import HanmoError
from hanmo.models.loss import IGNORE
from hanmo.models.megatron_t5.config import MegatronT5Config
from hanmo.models.megatron_t5.convert import convert, from_published, recognises
from hanmo.models.megatron_t5.model import MegatronT5ForConditionalGeneration

#: As published files have it: nothing of positions, and a stock T5's end. Two encoder and three decoder layers.
CONFIG = {
    "model_type": "T5",
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "layer_norm_epsilon": 1e-5,
    "feed_forward_proj": "gelu",
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
PLACES = 40


def published(name: str = "T5") -> dict[str, Tensor]:
    """Weights with a published checkpoint's names and shapes."""
    generator = torch.Generator().manual_seed(1)
    d, f, inner = CONFIG["d_model"], CONFIG["d_ff"], CONFIG["num_heads"] * CONFIG["d_kv"]
    state: dict[str, Tensor] = {}

    def draw(name: str, *shape: int, one: bool = False) -> None:
        state[name] = torch.randn(*shape, generator=generator) * 0.4 + float(one)

    def norm(name: str) -> None:
        draw(f"{name}.weight", d, one=True)
        draw(f"{name}.bias", d)

    def linear(name: str, rows: int, columns: int) -> None:
        draw(f"{name}.weight", rows, columns)
        draw(f"{name}.bias", rows)

    draw("shared.word_embeddings.weight", CONFIG["vocab_size"], d)
    draw("shared.position_embeddings.weight", PLACES, d)
    for half, layers in (("encoder", CONFIG["num_layers"]), ("decoder", CONFIG["num_decoder_layers"])):
        for part in ("word", "position"):
            kind = f"{part}_embeddings.weight"
            state[f"{half}.embed_tokens.{kind}"] = state[f"shared.{kind}"].clone()
        state[f"{half}.embed_tokens.position_ids"] = torch.arange(PLACES)[None]
        for number in range(layers):
            at = f"{half}.block.{number}.{name}Layer"
            attentions = ["SelfAttention.SelfAttention", "CrossAttention.EncDecAttention"]
            for attention in attentions[: 1 + (half == "decoder")]:
                norm(f"{at}{attention.split('.')[0]}.layer_norm")
                for part in "qkv":
                    linear(f"{at}{attention}.{part}", inner, d)
                linear(f"{at}{attention}.o", d, inner)
            norm(f"{at}FF.layer_norm")
            linear(f"{at}FF.DenseReluDense.wi", f, d)
            linear(f"{at}FF.DenseReluDense.wo", d, f)
        norm(f"{half}.final_layer_norm")
    state["shared.position_ids"] = torch.arange(PLACES)[None]
    draw("lm_head_bias", CONFIG["vocab_size"])
    return state


def reference(ids: list[int], written: list[int]) -> np.ndarray:
    """Logits [written, vocabulary] in float64, query by query and head by head."""
    w = {name: value.double().numpy() for name, value in published().items()}

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def attention(x: np.ndarray, states: np.ndarray, name: str, causal: bool) -> np.ndarray:
        query, key, value = linear(x, f"{name}.q"), linear(states, f"{name}.k"), linear(states, f"{name}.v")
        found = np.zeros_like(query)
        for head in range(CONFIG["num_heads"]):
            part = slice(head * CONFIG["d_kv"], (head + 1) * CONFIG["d_kv"])
            for q in range(len(x)):
                seen = slice(0, q + 1 if causal else len(states))
                scores = key[seen, part] @ query[q, part] / math.sqrt(CONFIG["d_kv"])
                weights = np.exp(scores - scores.max())
                found[q, part] = (weights / weights.sum()) @ value[seen, part]
        return linear(found, f"{name}.o")

    def half(name: str, tokens: list[int], layers: int, states: np.ndarray | None) -> np.ndarray:
        x = w["shared.word_embeddings.weight"][tokens] + w["shared.position_embeddings.weight"][: len(tokens)]
        for number in range(layers):
            at = f"{name}.block.{number}.T5Layer"
            own = normed(x, f"{at}SelfAttention.layer_norm")
            x = x + attention(own, own, f"{at}SelfAttention.SelfAttention", states is not None)
            if states is not None:
                own = normed(x, f"{at}CrossAttention.layer_norm")
                x = x + attention(own, states, f"{at}CrossAttention.EncDecAttention", False)
            wide = linear(normed(x, f"{at}FF.layer_norm"), f"{at}FF.DenseReluDense.wi")
            wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
            x = x + linear(wide, f"{at}FF.DenseReluDense.wo")
        return normed(x, f"{name}.final_layer_norm")

    states = half("encoder", ids, CONFIG["num_layers"], None)
    last = half("decoder", written, CONFIG["num_decoder_layers"], states)
    return last @ w["shared.word_embeddings.weight"].T + w["lm_head_bias"]


def make() -> MegatronT5ForConditionalGeneration:
    found = convert(CONFIG, published())
    model = MegatronT5ForConditionalGeneration(found.config)
    model.load_state_dict(found.weights, strict=False)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> MegatronT5ForConditionalGeneration:
    return make()


IDS, WRITTEN = [5, 9, 33, 59, 4, 9], [1, 7, 7, 20]


@pytest.mark.parametrize("name", ["T5", "MegatronT5"])
def test_logits_of_a_published_folder_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(published(name) | {"odd.weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    model, left_over = from_published(tmp_path)
    assert left_over == ["odd.weight"] and model.config.max_position_embeddings == PLACES
    with torch.no_grad():
        found = model.double()(torch.tensor([IDS]), decoder_input_ids=torch.tensor([WRITTEN])).logits[0]
    expected = reference(IDS, WRITTEN)
    assert np.abs(found.numpy() - expected).max() < 1e-9 * np.abs(expected).max()


def test_published_weights_load_as_they_are() -> None:
    """Their names are the modules' own: all of them but the buffers that count."""
    model = MegatronT5ForConditionalGeneration(convert(CONFIG, published()).config)
    odd = model.load_state_dict(published(), strict=False)
    assert odd.missing_keys == [] and all(name.endswith("position_ids") for name in odd.unexpected_keys)


def texts() -> list[Tensor]:
    return [torch.randint(3, 60, (1, length), generator=torch.Generator().manual_seed(length)) for length in (4, 9, 6)]


def written(model: MegatronT5ForConditionalGeneration, ids: Tensor, **given: object) -> list[list[int]]:
    return model.generate(ids, max_new_tokens=15, do_sample=False, eos_token_id=None, **given).tolist()  # type: ignore[operator]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_written_with_a_cache_without_and_in_a_batch(attention: str, side: str) -> None:
    model = make()
    model.set_attn_implementation(attention)
    alone = [written(model, ids, use_cache=False)[0] for ids in texts()]
    assert [written(model, ids)[0] for ids in texts()] == alone
    assert all(row[0] == CONFIG["decoder_start_token_id"] and len(row) == 16 for row in alone)
    longest = max(ids.shape[1] for ids in texts())
    lacks = [longest - ids.shape[1] for ids in texts()]
    pads = [(lack, 0) if side == "left" else (0, lack) for lack in lacks]
    batch = torch.cat([F.pad(ids, pad) for ids, pad in zip(texts(), pads, strict=True)])
    mask = torch.cat([F.pad(torch.ones_like(ids), pad) for ids, pad in zip(texts(), pads, strict=True)])
    static = {"cache_implementation": "static", "disable_compile": True}
    for cache in ({"use_cache": True}, {"use_cache": False}, static):
        assert written(model, batch, attention_mask=mask, **cache) == alone


def test_greedy_tokens_are_those_of_the_reference(model: MegatronT5ForConditionalGeneration) -> None:
    text = [1]
    for _ in range(6):
        text.append(int(reference(IDS, text)[-1].argmax()))
    assert written(model, torch.tensor([IDS]))[0][:7] == text


def test_the_encoder_is_asked_once(model: MegatronT5ForConditionalGeneration) -> None:
    found = model(torch.tensor([IDS]), decoder_input_ids=torch.tensor([[1]]), use_cache=True)
    cache = found.past_key_values
    assert isinstance(cache, EncoderDecoderCache) and cache.get_seq_length() == 1
    # Behind the cache, other states change nothing: their keys are there already.
    states = (torch.zeros_like(found.encoder_last_hidden_state),)
    with torch.no_grad():
        more = model(encoder_outputs=states, decoder_input_ids=torch.tensor([[7]]), past_key_values=cache)
    expected = reference(IDS, [1, 7])[-1]
    assert np.abs(more.logits[0, -1].numpy() - expected).max() < 1e-3


def test_beams_and_sampling(model: MegatronT5ForConditionalGeneration) -> None:
    ids = texts()[1].repeat(2, 1)
    assert written(model, ids, num_beams=3) == written(model, ids, num_beams=3, use_cache=False)
    assert model.generate(ids, max_new_tokens=5, do_sample=True, num_return_sequences=2).shape[0] == 4


def test_a_loss_from_labels_alone(model: MegatronT5ForConditionalGeneration) -> None:
    labels = torch.tensor([[7, 20, IGNORE, 2]])
    with torch.no_grad():
        found = model(torch.tensor([IDS]), labels=labels)
    # What is not to be learned is read as padding.
    expected = torch.from_numpy(reference(IDS, [1, 7, 20, 0])).log_softmax(-1)
    nats = -(expected[0, 7] + expected[1, 20] + expected[3, 2]) / 3
    assert float(found.loss) == pytest.approx(float(nats), rel=1e-4)


def test_gradients_reach_everything() -> None:
    model = make().train()
    model(torch.tensor([IDS]), labels=torch.tensor([WRITTEN])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.gradient_checkpointing_enable()
    model(torch.tensor([IDS]), labels=torch.tensor([WRITTEN])).loss.backward()


def test_a_folder_of_it(model: MegatronT5ForConditionalGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(again, MegatronT5ForConditionalGeneration) and not any(info[kind] for kind in info)
    assert again.encoder.embed_tokens is again.decoder.embed_tokens is again.shared
    ids = torch.tensor([IDS])
    with torch.no_grad():
        both = [each(ids, decoder_input_ids=torch.tensor([WRITTEN])).logits for each in (model, again.eval())]
    assert torch.equal(*both) and again.config.model_type == "hanmo_megatron_t5"


def test_more_tokens_than_positions_are_said(model: MegatronT5ForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="41 tokens in a row, and the model has 40 positions"):
        model(torch.ones(1, 41, dtype=torch.long), decoder_input_ids=torch.tensor([[1]]))


@torch.no_grad()
def test_new_weights() -> None:
    torch.manual_seed(0)
    model = MegatronT5ForConditionalGeneration(MegatronT5Config(**{**CONFIG, "model_type": "hanmo_megatron_t5"}))
    assert not model.lm_head_bias.any() and not model.encoder.block[0].T5LayerFF.DenseReluDense.wi.bias.any()
    assert float(model.shared.word_embeddings.weight.std()) == pytest.approx(0.02, rel=0.1)
    assert (model.encoder.final_layer_norm.weight == 1).all()


def test_ids_of_the_published_vocabulary() -> None:
    state = published()
    for name in [name for name in state if name.endswith("word_embeddings.weight")]:
        state[name] = torch.zeros(21248, 24)
    config = convert(CONFIG | {"eos_token_id": 1}, state | {"lm_head_bias": torch.zeros(21248)}).config
    assert (config.decoder_start_token_id, config.eos_token_id, config.pad_token_id) == (21128, 21129, 0)


def test_what_does_not_fit_is_one_line() -> None:
    state = published()
    assert recognises(state) and not recognises({"shared.weight", "lm_head.weight"})
    with pytest.raises(HanmoError, match="not a Randeng Megatron-T5 checkpoint"):
        convert(CONFIG, {"shared.weight": torch.zeros(2)})
    with pytest.raises(HanmoError, match=r"shape \[40, 24\] in the weights, \[48, 24\] by config"):
        convert(CONFIG | {"d_ff": 48}, state)
    with pytest.raises(HanmoError, match=r"feed_forward_proj: gated-gelu is none of gelu, relu"):
        convert(CONFIG | {"feed_forward_proj": "gated-gelu"}, state)
    del state["decoder.final_layer_norm.bias"]
    with pytest.raises(HanmoError, match=r"1 weights are missing \(decoder.final_layer_norm.bias\)"):
        convert(CONFIG, state)
