"""Logs: read on as they grow, whole after a cut, and thinned without losing a spike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.studio.logs import Log, Logs, glimpse, thinned


def write(path: Path, steps: range, mode: str = "w") -> None:
    with path.open(mode) as file:
        for step in steps:
            file.write(json.dumps({"step": step, "tokens": 64 * step, "seconds": step / 4, "loss": 8 / step}) + "\n")


def steps(log: Log) -> list[float]:
    log.refresh()
    return log.curves(10_000)["series"]["loss"]["x"].tolist()


def test_a_log_is_read_on_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 4))
    log = Log(path)
    assert steps(log) == [1, 2, 3]
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert steps(log) == [1, 2, 3], "a line that is being written waits"
    with path.open("a") as file:
        file.write('ss": 2.0}\n')
    assert steps(log) == [1, 2, 3, 4]


@pytest.mark.parametrize("after", [range(1, 3), range(1, 60), range(40, 200), range(1, 1)])
def test_a_log_that_was_cut_or_begun_anew_is_read_again(tmp_path: Path, after: range) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 50))
    log = Log(path)
    assert len(steps(log)) == 49
    write(path, after)
    log.refresh()
    series = log.curves(10_000)["series"]
    assert (series["loss"]["x"].tolist() if series else []) == list(after)


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = ['{"step": 1, "loss": 3}', "torn", "[]", '{"loss": 1}', '{"step": 2, "loss": NaN, "lr": 0.5}', "\x00"]
    path.write_text("\n".join([*lines, '{"step": 3, "loss": true, "kl": "x", "heldout_bpb": 1.5}', ""]))
    series = Logs().open(path).curves(100)["series"]
    assert {name: (s["x"].tolist(), s["mean"].tolist()) for name, s in series.items()} == {
        "loss": ([1.0], [3.0]),
        "lr": ([2.0], [0.5]),
        "heldout_bpb": ([3.0], [1.5]),
    }


def test_axes_and_ranges(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 101))
    with path.open("a") as file:
        file.write('{"step": 50, "heldout_bpb": 1.0}\n')
    log = Logs().open(path)
    assert log.curves(10)["panels"][0] == {"names": ["loss"], "zero": False}
    by_tokens = log.curves(1000, "tokens")
    assert by_tokens["x"] == "tokens" and by_tokens["end"] == 6400
    assert by_tokens["series"]["heldout_bpb"]["x"].tolist() == [3200], "placed by its step"
    part = log.curves(1000, "seconds", 10, 20)["series"]["loss"]["x"]
    assert part[0] == 9.75 and part[-1] == 20.25, "one more on either side, so that lines run to the edge"
    write(path, range(1, 3))
    path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 1}\n')
    assert Logs().open(path).curves(10, "tokens")["x"] == "step", "no line says its tokens"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(2, 50))
def test_thinning_keeps_every_extreme_and_every_mean(values: list[float], points: int) -> None:
    y = np.array(values)
    x = np.arange(len(y), dtype=np.float64)
    found = thinned(x, y, points)
    assert len(found["x"]) == min(points, len(y)) and np.all(np.diff(found["x"]) > 0)
    low, high = found.get("low", found["mean"]), found.get("high", found["mean"])
    assert low.min() == np.float32(y.min()) and high.max() == np.float32(y.max())
    assert np.all(low <= found["mean"] + 1) and np.all(found["mean"] <= high + 1)
    assert "low" in found or found["mean"].tolist() == y.astype(np.float32).tolist()


def test_a_glimpse_of_a_long_log_reads_little_of_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 20_001))
    found = glimpse(path)
    assert len(found) == 40 and found == sorted(found, reverse=True) and found[0] < 8.1
    write(path, range(1, 6))
    assert glimpse(path) == [8 / step for step in range(1, 6)]
    assert glimpse(tmp_path / "none") == []
