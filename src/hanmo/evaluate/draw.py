"""The report's curves: which series share a panel, and how each is drawn (see `hanmo.charts` for the geometry)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanmo.charts import Axis, Points, axis, path

#: What belongs into one panel, in the order of the panels; series not named here get panels of their own behind these.
PANELS: tuple[tuple[str, ...], ...] = (
    ("loss", "validation_loss"),
    ("heldout_bpb", "bits_per_byte"),
    ("lr", "learning_rate"),
    ("token_accuracy",),
    ("margin", "validation_margin"),
    ("accuracy", "validation_accuracy", "validation_preference_accuracy"),
    ("reward_chosen", "reward_rejected"),
    ("log_prob_chosen", "log_prob_rejected", "validation_log_prob_chosen", "validation_log_prob_rejected"),
    ("reward_mean", "validation_reward"),
    ("answer_tokens", "validation_answer_tokens"),
    ("kl",),
    ("tokens_per_second",),
    ("mfu",),
    ("gradient_norm",),
)
#: Series that have no noise to smooth.
_SMOOTH_ALREADY = ("lr", "learning_rate", "heldout_bpb", "validation_")
#: Series whose axis starts at zero, since their size matters and not only their change.
FROM_ZERO = ("lr", "learning_rate", "tokens_per_second", "mfu", "gradient_norm")
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
    if names[0] in FROM_ZERO or names[0].endswith("accuracy"):
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
