"""How good a reward model's comparisons are: accuracy, and whether its probabilities mean what they say.

By Bradley and Terry's model (1952) the chosen answer is the better one with probability sigmoid(margin). The better
answer of a held-out pair is known, so what can be checked is the model's confidence in its own pick,
sigmoid(|margin|), between a half and one: of the picks it makes with confidence 0.8, eight of ten should be right. The
expected calibration error (Guo et al. 2017, arXiv:1706.04599) is the mean distance of the two over bins of confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hanmo.evaluate.items import wilson

#: Bins of confidence, of equal width over [0.5, 1].
BINS = 10


def calibration(margins: Sequence[float], resamples: int = 1000, seed: int = 7) -> dict[str, Any]:
    """Judge comparisons.

    Args:
        margins: of each held-out pair, the reward of the chosen answer less that of the rejected one.
        resamples: of the bootstrap over pairs, for the interval of `ece`.

    Returns:
        n; accuracy with Wilson's 95 % interval `low`, `high` (a tie counts half); loss (Bradley-Terry, nats; ln 2 is
        a coin's); margin, its mean; ece with `ece_low`, `ece_high`; and `bins`: [{from, to, n, confidence, accuracy,
        low, high}], without empty ones.
    """
    values = np.asarray(margins, dtype=np.float64)
    count = len(values)
    right = (values > 0) + 0.5 * (values == 0)
    confidence = 1 / (1 + np.exp(-np.abs(values)))
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    low, high = share_interval(right)
    bins = []
    for index in range(BINS):
        inside = place == index
        if not inside.any():
            continue
        below, above = share_interval(right[inside])
        bins.append(
            {
                "from": round(0.5 + index / (2 * BINS), 4),
                "to": round(0.5 + (index + 1) / (2 * BINS), 4),
                "n": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
                "low": below,
                "high": above,
            }
        )
    draws = np.random.default_rng(seed).integers(0, count, (resamples, count))
    errors = [_error(place[draw], confidence[draw], right[draw]) for draw in draws]
    ece_low, ece_high = np.quantile(errors, [0.025, 0.975])
    return {
        "n": count,
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "loss": float(np.logaddexp(0, -values).mean()),
        "margin": float(values.mean()),
        "ece": _error(place, confidence, right),
        "ece_low": float(ece_low),
        "ece_high": float(ece_high),
        "bins": bins,
    }


def share_interval(right: Any) -> tuple[float, float]:
    """Wilson's 95 % interval of the mean of values in [0, 1], where some may count half."""
    return wilson(float(np.sum(right)), len(right))  # type: ignore[arg-type]


def _error(place: Any, confidence: Any, right: Any) -> float:
    """The distance of confidence and accuracy, over bins by their shares."""
    gaps = np.bincount(place, confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(place))


def mean_interval(values: Sequence[float], resamples: int = 2000, seed: int = 7) -> dict[str, float]:
    """{mean, low, high} of values: the bootstrap's 95 % interval over them."""
    found = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(found), (resamples, len(found)))
    low, high = np.quantile(found[draws].mean(axis=1), [0.025, 0.975])
    return {"mean": float(found.mean()), "low": float(low), "high": float(high)}


def difference_interval(
    left: Sequence[float], right: Sequence[float], resamples: int = 2000, seed: int = 7
) -> dict[str, float]:
    """{mean, low, high} of the difference of two groups' means: the bootstrap's 95 % interval, over each group."""
    sides = [np.asarray(values, dtype=np.float64) for values in (left, right)]
    generator = np.random.default_rng(seed)
    drawn = [side[generator.integers(0, len(side), (resamples, len(side)))].mean(axis=1) for side in sides]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return {"mean": float(sides[0].mean() - sides[1].mean()), "low": float(low), "high": float(high)}
