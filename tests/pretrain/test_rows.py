"""How many lanes rows are worth."""

from __future__ import annotations

import pytest

from hanmo.pretrain.rows import lanes_for


@pytest.mark.parametrize(
    ("rows", "threads", "lanes"), [(16, 4, 4), (7, 4, 4), (5, 4, 1), (3, 4, 1), (1, 1, 1), (12, 1, 1), (2, 2, 2)]
)
def test_lanes_are_taken_where_few_cores_wait(rows: int, threads: int, lanes: int) -> None:
    assert lanes_for(rows, threads) == lanes
