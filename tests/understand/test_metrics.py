"""Scores on small cases that were counted by hand."""

from __future__ import annotations

import pytest

from hanmo.understand import metrics


def test_accuracy_has_chance_and_the_commonest_label() -> None:
    found = metrics.accuracy(["a", "b", "a", "a"], ["a", "b", "b", "b"], [0.5] * 4)
    assert (found["n"], found["accuracy"], found["chance"], found["majority"]) == (4, 0.5, 0.5, 0.75)
    assert found["low"] < 0.5 < found["high"]


def test_entities_count_whole_with_place_and_type() -> None:
    gold = [[(0, 2, "PER"), (3, 5, "LOC")], [(0, 1, "PER")], []]
    ours = [[(0, 2, "PER"), (3, 5, "ORG")], [(0, 2, "PER")], []]
    found = metrics.entity_f1(ours, gold)
    assert found["precision"] == pytest.approx(1 / 3) and found["recall"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx(1 / 3) and found["entities"] == 3
    assert found["by_type"] == {"LOC": 0.0, "ORG": 0.0, "PER": 0.5}
    assert found["macro_f1"] == pytest.approx(0.25)  # of the types that were asked for
    assert found["low"] <= found["f1"] <= found["high"]


def test_units_are_characters_and_words() -> None:
    assert metrics.units("《Deep Blue》是 1997年的！") == ["deep", "blue", "是", "1997", "年", "的"]
    assert metrics.longest_run(list("abcxyz"), list("zabcy")) == 3


def test_reading_takes_the_best_answer_and_the_longest_run() -> None:
    found = metrics.reading(["北京市", "三四", "。"], [["北京", "北京市。"], ["一二三"], ["好"]])
    assert found["em"] == pytest.approx(1 / 3)
    # 三 alone is shared: precision 1/2, recall 1/3.
    assert found["f1"] == pytest.approx((1 + 0.4 + 0) / 3)
    assert found["n"] == 3
