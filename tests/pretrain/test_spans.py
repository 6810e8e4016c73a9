"""Span corruption: what is cut out can be put back, in the shares that were asked for, and no special token is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.pretrain.objectives.spans import corrupt

SENTINELS = list(range(900, 940))
CLS, SEP = 1, 2
IDS = st.lists(st.integers(1, 60), max_size=120).map(lambda ids: np.array(ids, np.int64))


def restored(inputs: np.ndarray, targets: np.ndarray) -> list[int]:
    """The text again: each sentinel of the input replaced by what follows it in the target."""
    spans: dict[int, list[int]] = {}
    for index in targets.tolist():
        if index in SENTINELS:
            current = spans.setdefault(index, [])
        else:
            current.append(index)
    found: list[int] = []
    for index in inputs.tolist():
        found += spans.pop(index) if index in spans else [index]
    assert not spans, "every sentinel of the target is in the input"
    return found


@given(ids=IDS, seed=st.integers(0, 2**31), row=st.integers(0, 2**40), share=st.floats(0.05, 0.9), mean=st.floats(1, 9))
def test_everything_can_be_put_back(ids: np.ndarray, seed: int, row: int, share: float, mean: float) -> None:
    inputs, targets = corrupt(ids, seed, row, SENTINELS, [CLS, SEP], share, mean)
    assert inputs.dtype == targets.dtype == np.int64
    assert restored(inputs, targets) == ids.tolist()
    marks = [index for index in inputs.tolist() if index in SENTINELS]
    assert marks == SENTINELS[: len(marks)] == [index for index in targets.tolist() if index in SENTINELS]
    assert not {CLS, SEP} & set(targets.tolist()), "special tokens stay in the input"
    again = corrupt(ids, seed, row, SENTINELS, [CLS, SEP], share, mean)
    assert np.array_equal(inputs, again[0]) and np.array_equal(targets, again[1])


@given(length=st.integers(20, 200), row=st.integers(0, 1000), mean=st.sampled_from([1, 2, 3, 5]))
def test_as_many_are_cut_out_as_asked(length: int, row: int, mean: int) -> None:
    ids = np.arange(10, 10 + length)
    inputs, targets = corrupt(ids, 0, row, SENTINELS, [CLS], 0.15, mean)
    spans = sum(index in SENTINELS for index in targets.tolist())
    cut = len(targets) - spans
    assert cut == round(0.15 * length) and len(inputs) == length - cut + spans
    assert spans == max(1, round(cut / mean)), "stretches do not touch each other"


def test_the_mean_length_is_3_and_every_place_is_as_likely() -> None:
    ids, count = np.arange(10, 210), np.zeros(200)
    lengths: list[int] = []
    for row in range(2000):
        _, targets = corrupt(ids, 7, row, SENTINELS, [])
        text = targets[targets < 900]
        count[text - 10] += 1
        marks = np.flatnonzero(np.append(targets, 900) >= 900)
        lengths += (np.diff(marks) - 1).tolist()
    assert np.mean(lengths) == pytest.approx(3.0) and min(lengths) == 1 and max(lengths) > 9
    # 2,000 draws of 15 %: five standard deviations are 80. A row's ends are in reach of stretches from one side only.
    assert np.abs(count[5:-5] - 300).max() < 80 and count.min() > 70


def test_rows_differ_and_seeds_differ() -> None:
    ids = np.arange(10, 110)
    drawn = [tuple(corrupt(ids, seed, row, SENTINELS, [])[1].tolist()) for seed, row in ((0, 0), (0, 1), (1, 0))]
    assert len(set(drawn)) == 3


def test_a_stretch_ends_at_a_special_token() -> None:
    """Documents of two tokens: no stretch is longer, and with the sentinels at an end the rest stays."""
    ids = np.array([CLS, 11, 12, SEP] * 30)
    inputs, targets = corrupt(ids, 0, 0, SENTINELS[:5], [CLS, SEP], 0.8, 3)
    assert sum(index in SENTINELS for index in targets.tolist()) == 5
    assert np.diff(np.flatnonzero(np.append(targets, 900) >= 900)).max() <= 3
    assert (inputs == CLS).sum() == (inputs == SEP).sum() == 30 and restored(inputs, targets) == ids.tolist()


@pytest.mark.parametrize("ids", [[], [5], [CLS, SEP], [CLS, 5, SEP]])
def test_rows_without_text_stay(ids: list[int]) -> None:
    inputs, targets = corrupt(np.array(ids, np.int64), 0, 0, SENTINELS, [CLS, SEP])
    assert inputs.tolist() == ids and targets.tolist() == []


def test_a_sentinel_in_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match="row 3: a sentinel is in the text"):
        corrupt(np.array([5, 901, 6]), 0, 3, SENTINELS, [])
