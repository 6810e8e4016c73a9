"""Megatron's T5: a plain reference in float64, generation with cache and batch, and its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, EncoderDecoderCache

from fabricated_checkpoints import randeng
from hanmo.models.loss import IGNORE
from hanmo.models.megatron_t5.config import MegatronT5Config
from hanmo.models.megatron_t5.model import MegatronT5ForConditionalGeneration
from plain_references import randeng as randeng_in_float64

#: Two encoder and three decoder layers.
CONFIG = {
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "vocab_size": 60,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def reference(ids: list[int], written: list[int]) -> np.ndarray:
    """Logits [written, vocabulary] in float64."""
    return randeng_in_float64(randeng(), ids, written, CONFIG["num_heads"]).numpy()


def make() -> MegatronT5ForConditionalGeneration:
    model = MegatronT5ForConditionalGeneration(MegatronT5Config(**CONFIG))
    model.load_state_dict(randeng(), strict=False)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> MegatronT5ForConditionalGeneration:
    return make()


IDS, WRITTEN = [5, 9, 33, 59, 4, 9], [1, 7, 7, 20]


def test_published_weights_load_as_they_are(model: MegatronT5ForConditionalGeneration) -> None:
    """Their names are the modules' own: all of them but the buffers that count."""
    odd = model.load_state_dict(randeng(), strict=False)
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
    model = MegatronT5ForConditionalGeneration(MegatronT5Config(**CONFIG))
    assert not model.lm_head_bias.any() and not model.encoder.block[0].T5LayerFF.DenseReluDense.wi.bias.any()
    assert float(model.shared.word_embeddings.weight.std()) == pytest.approx(0.02, rel=0.1)
    assert (model.encoder.final_layer_norm.weight == 1).all()
