"""Bits per byte by our own runs: a law is found where there is one, and the result is of the runs that lie here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hanmo.files import read_json

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
