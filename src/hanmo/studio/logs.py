"""Training logs as columns of numbers, read on as they grow, and thinned to what a screen can show.

A log of 100,000 steps has more points than a screen has columns. A series is cut into stretches of equally many points;
of each the page gets the mean and the lowest and highest value: no spike is lost, whatever the zoom.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from hanmo.evaluate.collect import told_apart
from hanmo.evaluate.draw import FROM_ZERO, PANELS

Across = Literal["step", "tokens", "seconds"]
ACROSS: tuple[Across, ...] = ("step", "tokens", "seconds")
#: Places on an axis, or figures that another one tells.
_NOT_CURVES = frozenset({"step", "tokens", "seconds", "epoch", "model_flops_per_second"})
_NUMBERS = {int, float}
#: Bytes before the end of what was read that must still be there for reading on.
_TAIL = 64
#: Logs kept in memory; of 100,000 lines each takes about 16 MB.
_KEPT = 12


class Log:
    """One log.jsonl."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._read, self._tail = 0, b""
        #: name -> [(steps, values)] of every reading, float64.
        self._parts: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}

    def refresh(self) -> None:
        """Read what was added; all of it again where the file was cut or written anew."""
        with self._lock, self.path.open("rb") as file:
            start = max(0, self._read - _TAIL)
            file.seek(start)
            if file.read(self._read - start) != self._tail:
                self._forget()
                file.seek(0)
            new = file.read()
            end = new.rfind(b"\n") + 1  # a line that is being written is left for the next time
            # Lines of one shape are taken as columns: many times quicker than number by number.
            shapes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
            for text in new[:end].split(b"\n"):
                if (line := _line(text)) is not None:
                    shapes.setdefault(tuple(line), []).append(line)
            for shape, lines in shapes.items():
                self._take(shape, lines)
            self._read += end
            self._tail = (self._tail + new[:end])[-_TAIL:]

    def _take(self, shape: tuple[str, ...], lines: list[dict[str, Any]]) -> None:
        """Add lines that have the same names in the same order."""
        columns = dict(zip(shape, zip(*(line.values() for line in lines), strict=True), strict=True))
        steps = np.array(columns["step"], np.float64)
        for name, column in columns.items():
            if name in _NOT_CURVES and name not in ACROSS:
                continue
            curve = name if name in ACROSS else told_apart(name, shape)
            if set(map(type, column)) <= _NUMBERS:
                at, values = steps, np.array(column, np.float64)
            else:
                chosen = [index for index, value in enumerate(column) if type(value) in _NUMBERS]
                at, values = steps[chosen], np.array([column[index] for index in chosen], np.float64)
            finite = np.isfinite(values)
            if finite.any():
                self._parts.setdefault(curve, []).append((at[finite], values[finite]))

    def curves(
        self, points: int, across: Across = "step", low: float | None = None, high: float | None = None
    ) -> dict[str, Any]:
        """What the page draws: {x, panels: [{names, zero}], series: {name: {x, mean, low?, high?}}, end}.

        Args:
            points: at most so many of each series.
            across: what the x axis counts; a line that does not say it is placed by its step. Falls back on steps.
            low, high: the part of the axis that is wanted.
        """
        with self._lock:
            series = {name: _joined(parts) for name, parts in self._parts.items()}
        steps, places = series.get(across, (np.empty(0), np.empty(0)))
        series = {name: found for name, found in series.items() if name not in _NOT_CURVES}
        if across != "step" and len(steps) > 1:
            series = {name: (np.interp(x, steps, places), y) for name, (x, y) in series.items()}
        else:
            across = "step"
        end = max((float(x[-1]) for x, _ in series.values()), default=0.0)
        if low is not None or high is not None:
            series = {name: _between(x, y, low, high) for name, (x, y) in series.items()}
        groups = [[name for name in group if name in series] for group in PANELS]
        named = {name for group in groups for name in group}
        groups += [[name] for name in series if name not in named]
        return {
            "x": across,
            "end": end,
            "panels": [{"names": group, "zero": group[0] in FROM_ZERO} for group in groups if group],
            "series": {name: thinned(x, y, points) for name, (x, y) in series.items()},
        }


def _line(text: bytes) -> dict[str, Any] | None:
    """A line of a log; None for what a kill has torn."""
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            line = json.loads(text)  # which knows NaN, too
        except ValueError:
            return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None


def _joined(
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(steps, values) of a series in the order of steps."""
    steps, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    if np.any(steps[1:] < steps[:-1]):
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
    return steps, values


def _between(
    x: NDArray[np.float64], y: NDArray[np.float64], low: float | None, high: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points in [low, high] and one more on either side, so that lines run to the edge."""
    first = max(0, int(np.searchsorted(x, low, "left")) - 1) if low is not None else 0
    last = int(np.searchsorted(x, high, "right")) + 1 if high is not None else len(x)
    return x[first:last], y[first:last]


def thinned(x: NDArray[np.float64], y: NDArray[np.float64], points: int) -> dict[str, NDArray[np.float32]]:
    """At most `points` stretches of a series: {x, mean}, and where stretches hold several points {low, high}.

    Args:
        x, y: float64, shape [n].
    """
    if len(x) <= points:
        return {"x": x.astype(np.float32), "mean": y.astype(np.float32)}
    starts = np.linspace(0, len(x), points, endpoint=False).astype(np.int64)
    sizes = np.diff(starts, append=len(x))
    found = {
        "x": np.add.reduceat(x, starts) / sizes,
        "mean": np.add.reduceat(y, starts) / sizes,
        "low": np.minimum.reduceat(y, starts),
        "high": np.maximum.reduceat(y, starts),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


class Logs:
    """The logs that are being looked at."""

    def __init__(self) -> None:
        self._logs: OrderedDict[Path, Log] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path) -> Log:
        """A log, read up to its end.

        Raises:
            OSError: it cannot be read.
        """
        with self._lock:
            log = self._logs.pop(path, None) or Log(path)
            self._logs[path] = log
            while len(self._logs) > _KEPT:
                self._logs.popitem(last=False)
        log.refresh()
        return log


#: Bytes of a log that is read whole for a glimpse.
_SHORT = 1 << 15


def glimpse(path: Path, points: int = 40) -> list[float]:
    """The losses at about so many places of a log, from a few reads however long it is; [] where there is none."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size < _SHORT:
                lines = file.read().split(b"\n")
            else:
                lines = [_line_at(file, size, place / points) for place in range(points)]
    except OSError:
        return []
    found = []
    for text in lines:
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if isinstance(line, dict) and isinstance(line.get("loss"), int | float):
            found.append(float(line["loss"]))
    return found[:: max(1, len(found) // points)]


def _line_at(file: IO[bytes], size: int, share: float) -> bytes:
    """The first whole line with a loss behind that share of the file."""
    file.seek(int(size * share))
    for line in file.read(1 << 12).split(b"\n")[1:-1]:
        if b'"loss"' in line:
            return line
    return b""
