"""Bits per byte by our own runs: a law is found where there is one, and the result is of the runs that lie here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hanmo.files import read_json
from hanmo.plan import bits

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import expected_bits


def test_a_law_is_found_again() -> None:
    sizes = np.array([(n, d) for n in (1e6, 4e6, 9e6) for d in (1e6, 5e6, 2e7)])
    runs = np.column_stack([sizes, 0.6 + 40 / (sizes[:, 0] ** 0.1 * sizes[:, 1] ** 0.15)])
    law = expected_bits.fitted(runs, 0.6)
    assert law == pytest.approx([np.log(40), -0.1, -0.15], rel=1e-6)
    assert expected_bits.said(law, 0.6, 1e8, 1e9) == pytest.approx(0.6 + 40 / (1e8**0.1 * 1e9**0.15))
    assert expected_bits.judged(runs, 0.6)["left out, one at a time"]["largest"] < 1e-6
    assert expected_bits.judged(runs, 0.0)["left out, one at a time"]["largest"] > 1e-3


def test_the_result_is_of_the_runs_that_lie_here() -> None:
    result, runs = read_json(expected_bits.RESULT), expected_bits.runs()
    assert [list(run.values()) for run in result["runs"]] == runs.tolist()
    for floor in expected_bits.FLOORS:
        found, kept = expected_bits.judged(runs, floor), result["by floor"][str(floor)]
        for name, figures in found.items():
            assert figures == pytest.approx(kept[name], rel=1e-6), name


def test_the_planner_says_what_the_fits_say() -> None:
    runs, fits = expected_bits.runs(), expected_bits.FLOORS
    for floor, *law in bits.FITS:
        fitted = expected_bits.fitted(runs, floor)
        assert law == pytest.approx([fitted[0], -fitted[1], -fitted[2]], abs=1e-4)
    assert tuple(floor for floor, *_ in bits.FITS) == fits
    errors = [expected_bits.judged(runs, floor)["left out, one at a time"]["largest"] for floor in fits]
    assert max(errors) == pytest.approx(bits.ERROR, abs=1e-3)
    # Every run that the fits are of lies within its span; a day of one card's is a span of a third.
    for parameters, tokens, measured in runs:
        least, most = bits.expected_bits(parameters, tokens)
        assert least < measured < most and bits.beyond(parameters, tokens) == pytest.approx(1, abs=0.03)
    least, most = bits.expected_bits(103_000_000, 4_500_000_000)
    assert (round(least, 2), round(most, 2)) == (0.87, 1.23)
    assert bits.beyond(103_000_000, 4_500_000_000) == pytest.approx(1125)
    assert bits.beyond(2_000_000, 33_000) == pytest.approx(10)
