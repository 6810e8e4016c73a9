"""Bits per byte equal a naive computation, whatever the batches, the windows and the tokenizer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hanmo.errors import HanmoError
from hanmo.evaluate.bpb import Text, bits_per_byte, bootstrap_ratio, compare_bits, figures, score_texts
from hanmo.evaluate.likelihood import Row, document_nll, sequence_nll, windows

TEXTS = [
    "春天到了，花园里的花都开了。",
    "小猫醒了。",
    "",
    "The cat is happy，他们也很高兴。" * 9,
    "𠀀🙂 <|im_end|> def add(a, b):\n    return a + b\n" * 3,
    "今",
]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path):
    from hanmo.tokenizer import load

    return load(tiny_tokenizer_dir)


def naive(model: torch.nn.Module, ids: list[int], context: int) -> float:
    """One document, one window at a time, one token at a time."""
    sequence = [0, *ids, 0]
    total, paid = 0.0, 0
    with torch.no_grad():
        while paid < len(sequence) - 1:
            # What is predicted next: as much as fits at first, half a window at a time afterwards.
            end = min(context if paid == 0 else paid + context // 2, len(sequence) - 1)
            begin = max(0, end - context)
            logits = model(input_ids=torch.tensor([sequence[begin:end]])).logits[0].double()
            for position in range(paid, end):
                total -= F.log_softmax(logits[position - begin], -1)[sequence[position + 1]].item()
            paid = end
    return total


@pytest.mark.parametrize("context", [16, 37, 200])
@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_document_nll_equals_naive(model, tokenizer, context: int, batch_tokens: int) -> None:
    from hanmo.tokenizer import encode_text

    documents = [encode_text(tokenizer, text) for text in TEXTS]
    assert max(map(len, documents)) > 100
    found = document_nll(model, documents, context, batch_tokens=batch_tokens)
    expected = [naive(model, ids, context) for ids in documents]
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_figures_are_the_ratios_they_claim(model, tokenizer) -> None:
    from hanmo.tokenizer import encode_text

    texts = [Text(text, "甲" if index % 2 else "乙") for index, text in enumerate(TEXTS)]
    found = bits_per_byte(model, tokenizer, texts, 64)
    ids = [encode_text(tokenizer, text) for text in TEXTS]
    bits = sum(naive(model, item, 64) for item in ids) / math.log(2)
    joined = "".join(TEXTS)
    assert found["bits_per_byte"] == pytest.approx(bits / len(joined.encode()), rel=1e-6)
    assert found["bits_per_character"] == pytest.approx(bits / len(joined), rel=1e-6)
    assert found["bits_per_token"] == pytest.approx(bits / (sum(map(len, ids)) + len(ids)), rel=1e-6)
    assert found["characters_per_token"] == pytest.approx(len(joined) / sum(map(len, ids)))
    assert found["documents"] == len(TEXTS)
    assert found["low"] <= found["bits_per_byte"] <= found["high"]
    sources = found["sources"]
    assert set(sources) == {"甲", "乙"}
    whole = sum(part["bits_per_byte"] * part["bytes"] for part in sources.values())
    assert whole == pytest.approx(found["bits_per_byte"] * found["bytes"], rel=1e-9)


class Uniform(torch.nn.Module):
    """Gives every token of a vocabulary the same probability."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*input_ids.shape, -1)


def test_unit_does_not_depend_on_the_tokenizer(tokenizer) -> None:
    """A uniform model costs log2(V) bits per token and one end of text per document, exactly."""
    from hanmo.tokenizer import encode_text

    text = TEXTS[3]
    count = len(encode_text(tokenizer, text)) + 1
    found = bits_per_byte(Uniform(512), tokenizer, [text], 32)
    assert found["bits_per_byte"] == pytest.approx(count * 9 / len(text.encode()), rel=1e-6)
    assert found["bits_per_token"] == pytest.approx(9, rel=1e-6)


def test_mode_of_the_model_is_put_back(model) -> None:
    model.train()
    document_nll(model, [[5, 6]], 16)
    assert model.training
    model.eval()


def test_owner_collects_its_rows() -> None:
    rows = [Row(np.array([0, 1, 2]), 1, 1), Row(np.array([0, 1]), 1, 0), Row(np.array([1, 2, 3, 4]), 3, 1)]
    found = sequence_nll(Uniform(8), rows, 3, batch_tokens=5)
    np.testing.assert_allclose(found, np.array([1, 3, 0]) * math.log(8), rtol=1e-6)


def test_autocast_is_near(model) -> None:
    exact = document_nll(model, [list(range(3, 60))], 64)
    close = document_nll(model, [list(range(3, 60))], 64, autocast=torch.bfloat16)
    assert exact != close
    np.testing.assert_allclose(close, exact, rtol=0.05)


@given(length=st.integers(1, 400), context=st.integers(2, 64))
def test_windows_pay_for_every_token_once(length: int, context: int) -> None:
    paid_until = 0
    for begin, end, paid in windows(length, context):
        assert 0 <= begin <= paid == paid_until < end <= length
        assert end - begin == min(context, length)
        assert paid == 0 or paid - begin >= context // 2
        paid_until = end
    assert paid_until == length


def test_interval_covers_at_the_rate_it_says() -> None:
    """Over 200 draws of 80 documents, the interval holds the true ratio about 95 % of the time."""
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        below = generator.integers(50, 500, 80)
        above = below * generator.normal(2.0, 0.4, 80)
        low, high = bootstrap_ratio(above, below, 300, trial)
        hits += low <= 2.0 <= high
    assert 176 <= hits <= 199


def test_paired_difference_is_tight_and_signed(model, tokenizer) -> None:
    """Two models that differ by a constant share: the difference is certain, though each figure is not."""
    scores = score_texts(model, tokenizer, [text * 2 for text in TEXTS], 64)
    worse = replace(scores, nats=scores.nats + 0.1 * math.log(2) * scores.sizes)
    found = compare_bits(scores, worse)
    assert found["difference"] == pytest.approx(0.1)
    assert found["low"] == pytest.approx(0.1) and found["high"] == pytest.approx(0.1)
    one = figures(scores)
    assert one["high"] - one["low"] > 0.01
    with pytest.raises(ValueError, match="same documents"):
        compare_bits(scores, scores.of("elsewhere"))


def test_no_text_is_an_error(model, tokenizer) -> None:
    with pytest.raises(HanmoError, match="empty"):
        bits_per_byte(model, tokenizer, ["", ""], 16)
