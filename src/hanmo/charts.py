"""Geometry of the pages' pictures: axes with round numbers, curves as paths, the flow of documents as ribbons.

All coordinates are percentages of the picture's width and height, y downwards. The page stretches each picture to the
room it has (strokes keep their width, labels are ordinary text beside it), so one drawing serves screen, phone and
paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Points = Sequence[Sequence[float]]

#: Nearer values are one: steps between them would have no number of their own.
_FLAT = 1e-300


@dataclass(frozen=True)
class Axis:
    """The range of an axis and its labelled places (percent of the way, label)."""

    low: float
    high: float
    ticks: list[tuple[float, str]]

    def place(self, value: float) -> float:
        """Percent of the way from low to high."""
        return 100 * (value - self.low) / (self.high - self.low)


def axis(low: float, high: float, about: int = 5, pad: bool = True) -> Axis:
    """An axis over [low, high] with about so many round ticks; with `pad` widened to whole steps."""
    if high - low < _FLAT:
        spread = abs(low) / 2 if abs(low) > _FLAT else 1.0
        low, high = low - spread, high + spread
    step = _round_step((high - low) / max(1, about - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if pad:
        low, high = first * step, last * step
    values = [index * step for index in range(first, last + 1)]
    inside = [value for value in values if low - 1e-9 * step <= value <= high + 1e-9 * step]
    scaled = Axis(low, high, [])
    return Axis(low, high, [(scaled.place(value), short(value, step)) for value in inside])


def _round_step(raw: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))


def short(value: float, step: float | None = None) -> str:
    """A number as short as an axis wants it: 2500000 -> 2.5M, 0.0005 -> 5e-4; `step` says which digits matter."""
    if abs(value) < 1e-12:
        return "0"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size and not (unit == "k" and abs(value) < 1e4):
            return f"{value / size:.4g}{unit}"
    if abs(value) < 1e-2:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if step is None:
        return f"{value:.4g}"
    # As many decimals as tell two neighbours apart: 0.25 and 2.5 have one more digit than their power of ten.
    decimals = next(count for count in range(12) if abs(round(step, count) - step) < 1e-9 * step)
    return f"{value:.{decimals}f}"


def path(points: Points, x: Axis, y: Axis) -> str:
    """An SVG path through the points."""
    places = (f"{x.place(px):.3f} {100 - y.place(py):.3f}" for px, py in points)
    return "M" + "L".join(places)


def flow(
    flows: Sequence[tuple[str, str, int]],
    ends: Sequence[str],
    gap: float = 4.5,
    thinnest: float = 0.5,
    spacing: float = 7.5,
) -> dict[str, Any]:
    """A Sankey diagram of two columns.

    Args:
        flows: (from, to, how many); those it comes from stand in the order in which they first occur.
        ends: order of the column it goes to; those that nothing reaches are left out.
        gap: room between nodes, in percent of the height.
        thinnest: height of the smallest ribbon, so that a rare reason is still seen.
        spacing: least distance of two labels.

    Returns:
        {left, right, ribbons}: nodes {name, value, top, height, label} and ribbons {source, target, value, d}.
    """
    flows = [item for item in flows if item[2] > 0]
    total = sum(value for _, _, value in flows) or 1
    reached = {item[1] for item in flows}
    lefts, rights = list(dict.fromkeys(item[0] for item in flows)), [end for end in ends if end in reached]
    # A ribbon is as thick on both sides; the column with more gaps decides the scale.
    free = 100 - gap * (max(len(lefts), len(rights), 1) - 1)
    raw = [max(thinnest, free * value / total) for _, _, value in flows]
    scale = free / (sum(raw) or 1)
    thick = [height * scale for height in raw]

    def column(names: list[str], side: int) -> list[dict[str, Any]]:
        heights = {n: sum(t for item, t in zip(flows, thick, strict=True) if item[side] == n) for n in names}
        at = (100 - sum(heights.values()) - gap * (len(names) - 1)) / 2
        nodes = []
        for name in names:
            value = sum(item[2] for item in flows if item[side] == name)
            nodes.append({"name": name, "value": value, "share": value / total, "top": at, "height": heights[name]})
            at += heights[name] + gap
        for node, label in zip(nodes, spread([n["top"] + n["height"] / 2 for n in nodes], spacing), strict=True):
            node["label"] = label
        return nodes

    left, right = column(lefts, 0), column(rights, 1)
    from_top = {node["name"]: node["top"] for node in left}
    to_top = {node["name"]: node["top"] for node in right}
    ribbons = []
    for (source, target, value), height in zip(flows, thick, strict=True):
        a, b = from_top[source], to_top[target]
        from_top[source], to_top[target] = a + height, b + height
        there = f"M0 {a:.3f}C50 {a:.3f} 50 {b:.3f} 100 {b:.3f}"
        back = f"V{b + height:.3f}C50 {b + height:.3f} 50 {a + height:.3f} 0 {a + height:.3f}Z"
        ribbons.append({"source": source, "target": target, "value": value, "d": there + back})
    return {"left": left, "right": right, "ribbons": ribbons}


def spread(places: Sequence[float], least: float, low: float = 0.0, high: float = 100.0) -> list[float]:
    """Places moved apart to a least distance, in their order, as near to where they were as the room allows."""
    if not places:
        return []
    least = min(least, (high - low) / len(places))
    down: list[float] = []
    for place in places:
        down.append(max(place, down[-1] + least if down else low + least / 2))
    found = [0.0] * len(down)
    ceiling = high - least / 2
    for index in range(len(down) - 1, -1, -1):
        found[index] = min(down[index], ceiling)
        ceiling = found[index] - least
    return found
