"""Batched generation says what every prompt alone would get."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from hanmo.evaluate.generate import _choose, generate


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


def prompts_of(count: int, opening: int, seed: int = 3) -> list[list[int]]:
    dice = random.Random(seed)
    head = [dice.randrange(3, 400) for _ in range(opening)]
    return [head + [dice.randrange(3, 400) for _ in range(dice.randrange(1, 40))] for _ in range(count)]


def alone(model, prompt: list[int], new: int, stops: set[int]) -> list[int]:
    """Greedy decoding without batch, cache or mask."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) - len(prompt) < new:
            token = model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item()
            if token in stops:
                break
            ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("opening", [0, 30])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_greedy_equals_one_by_one(model, opening: int, batch: int) -> None:
    prompts = prompts_of(15, opening)
    stops = set(range(0, 120))
    expected = [alone(model, prompt, 24, stops) for prompt in prompts]
    assert len({len(answer) for answer in expected}) > 3, "answers should stop at unlike lengths"
    found = generate(model, prompts, stop_ids=sorted(stops), max_new_tokens=24, batch_prompts=batch)
    assert found == expected


def test_equals_transformers_generate(model) -> None:
    prompts = prompts_of(4, 0)
    found = generate(model, prompts, stop_ids=[2, 0], max_new_tokens=30)
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False, eos_token_id=[2, 0]
        )[0, len(prompt) :].tolist()
        assert [t for t in theirs if t not in (0, 2)] == answer


def test_identical_prompts_and_a_prompt_that_is_the_opening(model) -> None:
    head = prompts_of(1, 30)[0]
    prompts = [head, head, head[:31], head]
    found = generate(model, prompts, stop_ids=[], max_new_tokens=8)
    assert found == [alone(model, prompt, 8, set()) for prompt in prompts]


def test_sampling_depends_on_seed_and_place_only(model) -> None:
    prompts = prompts_of(10, 0)
    options = {"stop_ids": [0], "max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9}
    first = generate(model, prompts, seed=1, batch_prompts=10, **options)
    assert generate(model, prompts, seed=1, batch_prompts=3, **options) == first
    assert generate(model, prompts, seed=2, batch_prompts=10, **options) != first


def test_sampling_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(_choose(logits, 1.0, 1.0, [generator])[0] for _ in range(4000))
    assert all(abs(drawn[i] / 4000 - p) < 0.03 for i, p in enumerate([0.5, 0.3, 0.15, 0.05]))
    cut = Counter(_choose(logits, 1.0, 0.79, [generator])[0] for _ in range(1000))
    assert set(cut) == {0, 1}, "0.5 alone is less than 0.79, with 0.3 it is enough"
    assert abs(cut[0] / 1000 - 0.625) < 0.06


def test_stops(model) -> None:
    prompt = prompts_of(1, 0)[0]
    free = generate(model, [prompt], stop_ids=[], max_new_tokens=10)[0]
    assert len(free) == 10
    assert generate(model, [prompt], stop_ids=[free[4]], max_new_tokens=10)[0] == free[: free.index(free[4])]
    room = generate(model, [prompt], stop_ids=[], max_new_tokens=10, context=len(prompt) + 2)
    assert room == [free[:2]]


def test_faults(model) -> None:
    with pytest.raises(ValueError, match="prompt 1 has 0 tokens"):
        generate(model, [[1], []], stop_ids=[], max_new_tokens=1)
    with pytest.raises(ValueError, match="256 tokens; it must have 1 to 255"):
        generate(model, [[5] * 256], stop_ids=[], max_new_tokens=1)
