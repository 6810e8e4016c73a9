"""The bigram fit against a direct count, and the weights against the logits they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hanmo.models import bigram


def chain(vocabulary: int, count: int, seed: int = 0) -> tuple[np.ndarray, Tensor]:
    """A random Markov chain whose transitions are of rank 3, and a walk of it."""
    chooser = np.random.default_rng(seed)
    table = chooser.dirichlet(np.full(3, 0.5), vocabulary) @ chooser.dirichlet(np.full(vocabulary, 0.1), 3)
    edges = table.cumsum(1)
    walk = [0]
    for draw in chooser.random(count):
        walk.append(min(vocabulary - 1, int(np.searchsorted(edges[walk[-1]], draw))))
    return table, torch.tensor(walk)


def nats(logits: Tensor, walk: Tensor) -> float:
    return float(F.cross_entropy(logits[walk[:-1]], walk[1:]))


def test_target_is_interpolated_kneser_ney() -> None:
    table = torch.tensor([[2.0, 0, 1], [0, 0, 4], [0, 0, 0]])
    rows = bigram._Target(table).rows(slice(0, 3))
    # Tokens follow in 1, 0 and 2 places (a tenth is added to each); the second row gave 0.75 / 4 away.
    lower = torch.tensor([1.1, 0.1, 2.1]) / 3.3
    assert torch.allclose(rows[0], torch.tensor([1.25, 0, 0.25]) / 3 + 1.5 / 3 * lower)
    assert torch.allclose(rows[1], torch.tensor([0, 0, 3.25]) / 4 + 0.75 / 4 * lower)
    assert torch.allclose(rows[2], lower)


def test_fit_is_near_the_chain_on_a_walk_it_has_not_seen() -> None:
    table, walk = chain(96, 60_000)
    walk, unseen = walk[:40_000], walk[40_000:]
    found = bigram.fit(walk[:-1], walk[1:], 96, 8)
    bound = nats(torch.tensor(table).log().float(), unseen)
    alone = nats(found.bias.expand(96, 96), unseen)
    ours = nats(found.first @ found.second.T + found.bias, unseen)
    assert bound < ours < bound + 0.15 * (alone - bound)


def test_newton_steps_come_nearer() -> None:
    _, walk = chain(96, 20_000)
    found = {}
    for rounds in (0, 1, 4):
        fitted = bigram.fit(walk[:-1], walk[1:], 96, 8, rounds)
        found[rounds] = nats(fitted.first @ fitted.second.T + fitted.bias, walk)
    assert found[4] < found[1] < found[0]


def test_seldom_tokens_get_their_frequency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigram, "TABLE", 32)
    _, walk = chain(96, 20_000)
    found = bigram.fit(walk[:-1], walk[1:], 100, 8)
    seen = torch.bincount(walk[1:], minlength=100)
    seldom = seen.argsort()[:60]
    assert not found.first[seldom].any() and not found.second[seldom].any()
    assert found.bias[seen.argmin()] < found.bias[seen.argmax()] and torch.isfinite(found.bias).all()
    # Before any context is known, probabilities go by frequency.
    assert np.corrcoef(found.bias.softmax(0), seen + 0.1)[0, 1] > 0.95


def test_vectors_give_the_logits_through_a_norm() -> None:
    _, walk = chain(96, 20_000)
    found = bigram.fit(walk[:-1], walk[1:], 96, 30)
    embedding, head = bigram.vectors(found, 32)
    assert torch.allclose(embedding.square().mean(1), torch.ones(96), atol=1e-4)
    logits = F.rms_norm(embedding, (32,)) @ head.T
    # One token in a thousand may be pulled in.
    difference = (logits - (found.first @ found.second.T + found.bias)).abs().amax(1)
    assert (difference > 1e-2).sum() <= 1
    assert math.isfinite(nats(logits, walk))


def test_fewer_tokens_than_the_rank() -> None:
    _, walk = chain(12, 2000)
    found = bigram.fit(walk[:-1], walk[1:], 16, 30)
    embedding, head = bigram.vectors(found, 32)
    assert torch.isfinite(embedding).all() and torch.isfinite(head).all()
    assert nats(embedding @ head.T, walk) < nats(found.bias.expand(16, 16), walk)


def test_the_same_pairs_give_the_same_bits() -> None:
    _, walk = chain(96, 5000)
    one, two = (bigram.fit(walk[:-1], walk[1:], 96, 8) for _ in range(2))
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("first", "second", "bias"))


def test_nothing_to_count() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        bigram.fit(torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=torch.int32), 8, 4)
