"""Statistics of exams: how sure a score is, and whether one model is better than another on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hanmo.evaluate.items import wilson


def tally(right: Sequence[bool], guesses: Sequence[float]) -> dict[str, Any]:
    """n, k, accuracy, its Wilson 95 % interval, the mean chance level, and where the interval lies to it."""
    count, hits = len(right), sum(right)
    low, high = wilson(hits, count)
    level = sum(guesses) / max(count, 1)
    versus = "above" if low > level else "below" if high < level else "same"
    return {
        "n": count,
        "k": hits,
        "accuracy": hits / max(count, 1),
        "low": low,
        "high": high,
        "chance": level,
        "versus_chance": versus,
    }


def compare(first: Sequence[bool], second: Sequence[bool], resamples: int = 2000, seed: int = 7) -> dict[str, Any]:
    """Two models on the same items: who gained what, and whether the difference could be luck.

    Returns:
        gained (wrong, then right), lost (right, then wrong), difference of accuracies with its 95 % interval from a
        bootstrap over items (low, high), and p of the exact McNemar test (two-sided binomial on gained against lost).
    """
    a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    if len(a) != len(b):
        raise ValueError(f"compared over unlike items: {len(a)} and {len(b)}")
    gained, lost = int(((b - a) == 1).sum()), int(((b - a) == -1).sum())
    count = len(a)
    # Only the numbers of gained, lost and unchanged items matter, so whole resamples are one multinomial draw.
    drawn = np.random.default_rng(seed).multinomial(
        count, [gained / count, lost / count, 1 - (gained + lost) / count], resamples
    )
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [0.025, 0.975])
    return {
        "n": count,
        "gained": gained,
        "lost": lost,
        "difference": (gained - lost) / count,
        "low": float(low),
        "high": float(high),
        "p": mcnemar(gained, lost),
    }


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p that gained and lost come from one coin (McNemar 1947, exact form)."""
    count, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count)
