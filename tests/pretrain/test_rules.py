"""What a run takes where its settings leave it to rules, and that a larger budget keeps the batch it began with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import run_stage, saved  # type: ignore[import-not-found]

from hanmo.pretrain.rules import ADAMW, BIGRAM, CONTINUED, RANDOM, Rates, batch_tokens, warmup_tokens
from hanmo.pretrain.settings import PretrainSettings


def test_rates_by_rule() -> None:
    assert Rates.of(PretrainSettings(), 256) == RANDOM
    assert Rates.of(PretrainSettings(start="bigram"), 256) == BIGRAM
    assert Rates.of(PretrainSettings(), 2048, continued=True) == CONTINUED
    assert Rates.of(PretrainSettings(optimizer="adamw", matrix_lr=0.5), 256) == ADAMW


def test_wide_models_learn_more_slowly_outside_of_muon() -> None:
    wide = Rates.of(PretrainSettings(), 1024)
    assert (wide.matrix, wide.embedding, wide.other) == (RANDOM.matrix, RANDOM.embedding / 4, RANDOM.other)
    wide = Rates.of(PretrainSettings(start="bigram"), 512)
    assert (wide.embedding, wide.head) == (BIGRAM.embedding, BIGRAM.head / 2)
    assert Rates.of(PretrainSettings(optimizer="adamw"), 512).matrix == ADAMW.matrix / 2


def test_what_is_given_counts() -> None:
    found = Rates.of(PretrainSettings(lr=0.001, head_lr=0.5), 1024)
    assert found == Rates(RANDOM.matrix, 0.001, 0.5, 0.001)
    given = PretrainSettings(matrix_lr=0.5, embedding_lr=0.1)
    assert Rates.of(given, 256) == Rates(0.5, 0.1, RANDOM.head, RANDOM.other)
    assert Rates.of(PretrainSettings(optimizer="adamw", lr=0.25), 512) == Rates(0.25, 0.25, 0.25, 0.25)


@given(st.integers(1, 10**13), st.sampled_from([32, 100, 512, 2048]))
def test_the_batch_grows_with_the_budget_in_whole_rows(tokens: int, context: int) -> None:
    small, large = (batch_tokens(PretrainSettings(tokens=n, context=context)) for n in (tokens, 4 * tokens))
    assert small % context == 0 and context <= small <= large <= max(2 * small + context, context)
    assert batch_tokens(PretrainSettings(tokens=tokens, context=context, batch_tokens=7 * context)) == 7 * context


def test_the_warmup_follows_the_batch() -> None:
    for tokens in (20_000, 1_000_000, 10**9, 10**10):
        settings = PretrainSettings(tokens=tokens)
        assert warmup_tokens(settings) % batch_tokens(settings) == 0
        assert 0.03 < warmup_tokens(settings) / tokens < 0.126
    assert warmup_tokens(PretrainSettings(batch_tokens=2**21)) == 2000 * 2**21
    assert warmup_tokens(PretrainSettings(warmup_tokens=0)) == 0


@pytest.mark.parametrize("given", [0, 128])
def test_a_larger_budget_keeps_the_batch(tokens: Path, tmp_path: Path, given: int) -> None:
    free = {"batch_tokens": given, "warmup_tokens": 256}
    first = run_stage(tokens, tmp_path / "run", tokens=1280, **free)
    assert first["steps"] == 10
    grown = run_stage(tokens, tmp_path / "run", tokens=5120, **free)
    assert grown["steps"] == 40
    whole = run_stage(tokens, tmp_path / "whole", tokens=5120, **{**free, "batch_tokens": 128})
    assert whole["heldout_bpb"] == grown["heldout_bpb"]
    one, two = saved(tmp_path / "run" / "model"), saved(tmp_path / "whole" / "model")
    assert all(torch.equal(value, two[name]) for name, value in one.items())
