"""Answers behind contexts that share what they begin with cost what every pair alone costs."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hanmo.evaluate.continuations import alike_groups, likelihoods, text_nats
from hanmo.models.presets import build_config

SMALL = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 96,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def made(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "gpt2":
        sizes = {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 96}
        model: PreTrainedModel = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SMALL))
    elif kind == "moe":
        experts = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
        model = Qwen2MoeForCausalLM(Qwen2MoeConfig(**SMALL, **experts))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16))
    with torch.no_grad():
        for parameter in model.parameters():  # as made they are nearly uniform: nothing would be told apart
            parameter.mul_(3)
    return model.eval()


@pytest.fixture(scope="module")
def qwen() -> PreTrainedModel:
    return made("qwen3")


def alone(model: PreTrainedModel, context: Sequence[int], answer: Sequence[int]) -> tuple[float, bool]:
    ids = torch.tensor([[*context, *answer]])
    with torch.no_grad():
        logp = model(ids).logits[0].float().log_softmax(-1)[len(context) - 1 : -1]
    wanted = torch.tensor(list(answer))
    return float(logp.gather(1, wanted[:, None]).sum()), bool((logp.argmax(-1) == wanted).all())


def questions(seed: int) -> list[tuple[list[int], list[int]]]:
    """Three subjects with a long beginning of their own, four options to each question; one pair out of the row."""
    draw = random.Random(seed)

    def some(count: int) -> list[int]:
        return [draw.randrange(200) for _ in range(count)]

    pairs = []
    for _ in range(3):
        beginning = some(40)
        for _ in range(4):
            context = beginning + some(draw.randrange(3, 20))
            pairs += [(context, some(draw.choice((1, 1, 2, 5)))) for _ in range(4)]
    return [*pairs, (some(2), some(3)), pairs[0]]


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2", "moe"])
@pytest.mark.parametrize("batch_tokens", [64, 4096])
def test_as_each_pair_alone(kind: str, batch_tokens: int) -> None:
    model, pairs = made(kind), questions(1)
    finished: list[int] = []
    found = likelihoods(model, pairs, batch_tokens=batch_tokens, advance=finished.append)
    assert sum(finished) == len({(tuple(a), tuple(b)) for a, b in pairs})
    for (context, answer), one in zip(pairs, found, strict=True):
        nats, greedy = alone(model, context, answer)
        assert one.nats == pytest.approx(nats, abs=2e-5)
        assert (one.greedy, one.tokens) == (greedy, len(answer))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=1, max_size=8), st.integers(1, 4))
def test_any_contexts(qwen: PreTrainedModel, contexts: list[list[int]], size: int) -> None:
    pairs = [(context, [1] * size) for context in contexts] + [(contexts[0] * 2, [2])]
    for (context, answer), one in zip(pairs, likelihoods(qwen, pairs, batch_tokens=48), strict=True):
        assert one.nats == pytest.approx(alone(qwen, context, answer)[0], abs=2e-5)


def test_long_contexts_lose_their_left_end(qwen: PreTrainedModel) -> None:
    draw = random.Random(3)
    context = [draw.randrange(200) for _ in range(150)]
    (found,) = likelihoods(qwen, [(context, [5, 6])])
    assert found.nats == pytest.approx(alone(qwen, context[-95:], [5, 6])[0], abs=2e-5)


def test_empty_ones_are_refused(qwen: PreTrainedModel) -> None:
    for pair in (([], [1]), ([1], []), ([1], [1] * 97)):
        with pytest.raises(ValueError, match="pair 0"):
            likelihoods(qwen, [pair])


@pytest.mark.parametrize("seed", [1, 2])
def test_whole_texts(qwen: PreTrainedModel, seed: int) -> None:
    texts = [[*context, *answer] for context, answer in questions(seed)]
    for text, nats in zip(texts, text_nats(qwen, texts), strict=True):
        assert nats == pytest.approx(-alone(qwen, text[:1], text[1:])[0], abs=1e-4)


def test_groups_hold_every_place_once() -> None:
    prompts = [[*range(30), 1], [7] * 20, [*range(30), 2], [7] * 20]
    groups = list(alike_groups(prompts))
    assert sorted(place for group in groups for place in group) == [0, 1, 2, 3]
    assert sorted(map(sorted, groups)) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("preset", ["linglong-1m", "zhouwenwang-2m"])
def test_classes_of_ours_read_rows_of_one_length(preset: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(build_config(preset, 200, 128)).eval()
    pairs = questions(4)
    for (context, answer), one in zip(pairs, likelihoods(model, pairs), strict=True):
        assert one.nats == pytest.approx(alone(model, context, answer)[0], abs=2e-5)
