"""The stream of packed rows: every token once a pass, documents apart, and no memory of how it was asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.tokens.order import Order
from hanmo.tokens.shards import split_of


def make(lengths: list[int], context: int, seed: int = 3) -> tuple[np.ndarray, Order]:
    """Documents 1..n of the given lengths, each closed by 0, tokens numbered from 1 so that all differ."""
    ends = np.cumsum(lengths)
    tokens = np.arange(1, ends[-1] + 1)
    tokens[ends - 1] = 0
    return tokens, Order(split_of(tokens, ends), context, seed)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 23), min_size=1, max_size=30), st.integers(1, 40), st.integers(0, 5))
def test_every_target_once_a_pass(lengths: list[int], context: int, seed: int) -> None:
    tokens, order = make(lengths, context, seed)
    rows = order.rows(0, -(-3 * order.total // context))
    stream = rows.targets.reshape(-1)
    for number in range(3):
        part = stream[number * order.total : (number + 1) * order.total]
        assert sorted(part) == sorted(tokens)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 23), min_size=1, max_size=30), st.integers(1, 40))
def test_inputs_are_the_tokens_before(lengths: list[int], context: int) -> None:
    tokens, order = make(lengths, context)
    before = {int(token): int(tokens[i - 1]) for i, token in enumerate(tokens) if token}
    starts = {int(tokens[0])} | {int(tokens[i + 1]) for i in np.flatnonzero(tokens == 0) if i + 1 < len(tokens)}
    rows = order.rows(0, 5)
    for row in range(5):
        for place in range(context):
            target, read = int(rows.targets[row, place]), int(rows.inputs[row, place])
            if target == 0:
                continue
            assert read == (0 if target in starts else before[target])


def test_positions_restart_and_segments_count() -> None:
    _, order = make([3, 4, 2], 9)
    rows = order.rows(0, 1)
    new = rows.position[0] == 0
    assert new.sum() == 3
    assert rows.segment[0].tolist() == (np.cumsum(new) - 1).tolist()
    assert ((rows.inputs[0] == 0) == new).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), st.integers(1, 7))
def test_rows_do_not_depend_on_how_they_are_asked_for(first: int, count: int) -> None:
    _, order = make([5, 9, 1, 17, 2], 8)
    together = order.rows(first, count)
    _, fresh = make([5, 9, 1, 17, 2], 8)
    for index in reversed(range(count)):
        alone = fresh.rows(first + index, 1)
        for name in ("inputs", "targets", "position", "segment"):
            assert (getattr(alone, name)[0] == getattr(together, name)[index]).all()


def test_passes_and_seeds_differ() -> None:
    _, order = make([4] * 40, 160)
    first, second = order.rows(0, 1).targets[0], order.rows(1, 1).targets[0]
    assert sorted(first) == sorted(second) and (first != second).any()
    _, other = make([4] * 40, 160, seed=4)
    assert (other.rows(0, 1).targets[0] != first).any()


def test_rows_of_a_long_document_are_far_apart() -> None:
    tokens, order = make([400] * 20, 10)
    document = np.arange(1, len(tokens) + 1) // 400
    of_row = [int(document[row.max() - 1]) for row in order.rows(0, 800).targets]
    together = sum(a == b for a, b in pairwise(of_row))
    assert together < 90, "40 are expected of a shuffle, 780 without one"
    assert of_row != [int(document[row.max() - 1]) for row in order.rows(800, 800).targets]
