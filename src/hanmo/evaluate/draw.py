"""Geometry of the report's pictures: axes with round numbers, curves as paths, the flow of documents as ribbons.

All coordinates are percentages of the picture's width and height, y downwards. The page stretches each picture to the
room it has (strokes keep their width, labels are ordinary text beside it), so one drawing serves screen, phone and
paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Points = Sequence[Sequence[float]]

#: What belongs into one panel, in the order of the panels; series not named here get panels of their own behind these.
PANELS: tuple[tuple[str, ...], ...] = (
    ("loss", "validation_loss"),
    ("heldout_bpb",),
    ("lr", "learning_rate"),
    ("token_accuracy",),
    ("margin", "validation_margin"),
    ("accuracy", "validation_accuracy", "validation_preference_accuracy"),
    ("reward_chosen", "reward_rejected"),
    ("log_prob_chosen", "log_prob_rejected", "validation_log_prob_chosen", "validation_log_prob_rejected"),
    ("tokens_per_second",),
    ("gradient_norm",),
)
#: Series that have no noise to smooth.
_SMOOTH_ALREADY = ("lr", "learning_rate", "heldout_bpb", "validation_")
#: Series whose axis starts at zero, since their size matters and not only their change.
_FROM_ZERO = ("lr", "learning_rate", "tokens_per_second", "gradient_norm")
#: Widths of so many panels, in sixths of the page, so that every row is full.
_SPANS = {
    1: (6,),
    2: (4, 2),
    3: (2, 2, 2),
    4: (4, 2, 3, 3),
    5: (4, 2, 2, 2, 2),
    6: (4, 2, 3, 3, 3, 3),
    7: (4, 2, 2, 2, 2, 3, 3),
    8: (4, 2, 2, 2, 2, 2, 2, 2),
}
_MOST_PANELS = 8


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
    if not high > low:
        spread = abs(low) / 2 or 1.0
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


def smoothed(points: Points, reach: int) -> list[list[float]]:
    """The mean over `reach` points on either side, and over fewer near the ends: as many before as behind, so that a
    steep fall is not drawn later than it was."""
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    found = []
    for index, (x, _) in enumerate(points):
        near = min(reach, index, len(points) - 1 - index)
        found.append([x, (sums[index + near + 1] - sums[index - near]) / (2 * near + 1)])
    return found


def panels(curves: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels of one training run, each {names, x, y, lines, span, data}; all have the same x axis, from zero on.

    `lines` holds {name, d, kind}: kind "noise" is the raw series behind its smoothed self, "dots" a series of few
    points (drawn with a mark at each), "line" anything else. `data` is what the page shows under the pointer.
    """
    series: Mapping[str, Points] = curves["series"]
    groups = [[name for name in group if name in series] for group in PANELS]
    named = {name for group in groups for name in group}
    groups += [[name] for name in series if name not in named]
    x = axis(0.0, max(points[-1][0] for points in series.values()), 5, pad=False)
    drawn = [_panel({name: series[name] for name in group}, x) for group in groups if group][:_MOST_PANELS]
    for panel, span in zip(drawn, _SPANS[len(drawn)], strict=True):
        panel["span"] = span
    return drawn


def _panel(series: Mapping[str, Points], x: Axis) -> dict[str, Any]:
    names = list(series)
    ys = [y for points in series.values() for _, y in points]
    low, high = min(ys), max(ys)
    if names[0] in _FROM_ZERO or names[0].endswith("accuracy"):
        low = min(0.0, low)
    y = axis(low, high, 5)
    lines, data = [], []
    for number, (name, points) in enumerate(series.items()):
        noisy = len(points) > 30 and not name.startswith(_SMOOTH_ALREADY)
        shown = smoothed(points, max(2, len(points) // 50)) if noisy else list(points)
        if noisy:
            lines.append({"name": name, "number": number, "kind": "noise", "d": path(points, x, y)})
        few = len(points) <= 20 and not name.startswith(("lr", "learning_rate"))
        line = {"name": name, "number": number, "kind": "dots" if few else "line", "d": path(shown, x, y)}
        line["dots"] = [(x.place(px), 100 - y.place(py)) for px, py in points] if few else []
        lines.append(line)
        data.append({"name": name, "points": [[_trim(px), _trim(py)] for px, py in shown]})
    return {
        "names": names,
        "x": x,
        "y": y,
        "lines": lines,
        "data": {"x": [x.low, x.high], "y": [y.low, y.high], "series": data},
    }


def _trim(value: float) -> float:
    """Five digits are more than a screen shows, and keep the page small."""
    return float(f"{value:.5g}")


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
