"""Pieces of a batch of rows, and rows that only fill up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hanmo.models.loss import IGNORE
from hanmo.tokens.order import Read, Rows

T = TypeVar("T", Rows, Read)

#: The least part of the cores' time that lanes must fill; below it all cores work on one lane.
WORTH = 0.8


def lanes_for(rows: int, threads: int) -> int:
    """Lanes that compute so many rows on so many threads (see `hanmo.pretrain.lanes`): 1 where more would idle."""
    size = -(-rows // threads)
    return -(-rows // size) if rows >= WORTH * size * threads else 1


def taken(rows: Rows, part: slice) -> Rows:
    """The rows of a stretch."""
    return _each(rows, lambda _, array: array[part])


def filled_up(rows: Rows, count: int) -> Rows:
    """The rows with as many behind them, without targets, as make `count`: each of one document of zeros."""
    short = count - len(rows.inputs)
    if not short:
        return rows

    def longer(name: str, array: NDArray) -> NDArray:
        more = np.full((short, array.shape[1]), IGNORE if name == "targets" else 0, array.dtype)
        if name == "position":
            more[:] = np.arange(array.shape[1])
        return np.concatenate([array, more])

    return _each(rows, longer)


def _each(rows: T, change: Callable[[str, NDArray], NDArray]) -> T:
    """Rows of which every array is what `change` makes of its name and itself."""
    found: dict[str, Any] = {}
    for field in fields(rows):
        value = getattr(rows, field.name)
        if isinstance(value, Read):
            value = _each(value, change)
        elif value is not None:
            value = change(field.name, value)
        found[field.name] = value
    return replace(rows, **found)
