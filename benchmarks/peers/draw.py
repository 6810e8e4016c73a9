"""The race as a picture: bits per byte over seconds of training, the seconds on a logarithmic axis."""

from __future__ import annotations

import math
from typing import Any

from hanmo.charts import Axis, axis

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 480, 64, 24, 190, 52
#: Tell the curves apart also for readers who do not tell red from green.
COLOURS = ("#c0392b", "#1f77b4", "#e69f00", "#009e73", "#7b4fa3", "#555555", "#56b4e9")


def _seconds(low: float, high: float) -> Axis:
    """Powers of ten with 2 and 5 between them."""
    low, high = math.log10(low), math.log10(high)
    marks = [factor * 10**power for power in range(-2, 6) for factor in (1, 2, 5)]
    plain = Axis(low, high, [])
    return Axis(low, high, [(plain.place(math.log10(m)), f"{m:g}") for m in marks if low <= math.log10(m) <= high])


def draw(runners: dict[str, Any]) -> str:
    """An SVG of the curves (solid: without start-up; dotted: with it)."""
    curves = {name: facts["curve"] for name, facts in runners.items() if facts["curve"]}
    points = [point for curve in curves.values() for point in curve]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    if not points:
        return parts[0] + "</svg>\n"
    times = [point[clock] for point in points for clock in ("seconds", "seconds_with_startup")]
    x = _seconds(max(0.01, min(times) * 0.9), max(times) * 1.1)
    bits = [point["bits_per_byte"] for point in points]
    y = axis(min(bits), min(max(bits), 3 * min(bits)), 7)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(seconds: float, value: float) -> tuple[float, float]:
        across = LEFT + wide * x.place(math.log10(max(seconds, 0.01))) / 100
        return across, TOP + high * (100 - min(100.0, y.place(value))) / 100

    for where, label in x.ticks:
        across = LEFT + wide * where / 100
        parts.append(f'<path d="M{across:.1f} {TOP}V{TOP + high}" stroke="#eee"/>')
        parts.append(f'<text x="{across:.1f}" y="{TOP + high + 18}" text-anchor="middle">{label}</text>')
    for where, label in y.ticks:
        down = TOP + high * (100 - where) / 100
        parts.append(f'<path d="M{LEFT} {down:.1f}H{LEFT + wide}" stroke="#eee"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{label}</text>')
    parts.append(f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 10}" text-anchor="middle">seconds of training</text>')
    parts.append(f'<text x="{LEFT}" y="15">held-out bits per byte</text>')
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        for clock, style in (("seconds", ""), ("seconds_with_startup", ' stroke-dasharray="2 4"')):
            line = "L".join("{:.1f} {:.1f}".format(*place(p[clock], p["bits_per_byte"])) for p in curve)
            parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"{style}/>')
        for point in curve:
            across, down = place(point["seconds"], point["bits_per_byte"])
            parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>')
        height = TOP + 16 + 22 * index
        parts.append(f'<path d="M{LEFT + wide + 14} {height - 4}h22" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{LEFT + wide + 42}" y="{height}">{name}</text>')
    return "\n".join(parts) + "</svg>\n"
