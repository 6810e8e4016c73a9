"""Pieces of a batch of rows, and rows that only fill up."""

from __future__ import annotations

import numpy as np

from hanmo.models.loss import IGNORE
from hanmo.tokens.order import Rows

#: The least part of the cores' time that lanes must fill; below it all cores work on one lane.
WORTH = 0.8


def lanes_for(rows: int, threads: int) -> int:
    """Lanes that compute so many rows on so many threads (see `hanmo.pretrain.lanes`): 1 where more would idle."""
    size = -(-rows // threads)
    return -(-rows // size) if rows >= WORTH * size * threads else 1


def taken(rows: Rows, part: slice) -> Rows:
    """The rows of a stretch."""
    return Rows(rows.inputs[part], rows.targets[part], rows.position[part], rows.segment[part])


def filled_up(rows: Rows, count: int) -> Rows:
    """The rows with as many behind them, without targets, as make `count`."""
    short = count - len(rows.inputs)
    if not short:
        return rows
    shape = (short, rows.inputs.shape[1])
    position = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return Rows(
        np.concatenate([rows.inputs, np.zeros(shape, np.int64)]),
        np.concatenate([rows.targets, np.full(shape, IGNORE, np.int64)]),
        np.concatenate([rows.position, position]),
        np.concatenate([rows.segment, np.zeros(shape, np.int32)]),
    )
