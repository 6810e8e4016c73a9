"""Figures that are made of sums over items, with 95 % intervals from a bootstrap over the items.

Every figure here (a mean, F1 over all words, BLEU of a corpus) is a function of sums of numbers that each item brings.
Items drawn with replacement therefore are a matrix product, and two models are compared on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanmo.evaluate.items import wilson

#: Draws of items that are held at a time.
_HELD = 4_000_000
Total = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """One figure.

    Attributes:
        sums: [items, k], what each item brings.
        total: [..., k] sums -> [...] figures.
        share: it is the share of the items that are right; its interval is Wilson's, which is sound for none or all.
    """

    sums: np.ndarray
    total: Total
    share: bool = False


def mean(values: Sequence[float]) -> Measure:
    """The mean of a number for each item."""
    return Measure(np.stack([np.asarray(values, np.float64), np.ones(len(values))], axis=1), _ratio(0, 1))


def share(right: Sequence[bool]) -> Measure:
    """The share of items that are right."""
    return Measure(mean([float(one) for one in right]).sums, _ratio(0, 1), share=True)


def precision_recall_f1(name: str, counts: Sequence[tuple[float, float, float]]) -> dict[str, Measure]:
    """Over all items together, from (right, given, wanted) of each: NAME_precision, NAME_recall, NAME_f1."""
    sums = np.asarray(counts, np.float64).reshape(-1, 3)

    def f1(total: np.ndarray) -> np.ndarray:
        return _divided(2 * total[..., 0], total[..., 1] + total[..., 2])

    named = {"precision": _ratio(0, 1), "recall": _ratio(0, 2), "f1": f1}
    return {f"{name}_{part}".lstrip("_"): Measure(sums, total) for part, total in named.items()}


def figures(measures: Mapping[str, Measure], resamples: int = 1000, seed: int = 7) -> dict[str, dict[str, float]]:
    """{name: {value, low, high}} of measures of the same items."""
    drawn = _drawn(measures, resamples, seed)
    found = {}
    for name, one in measures.items():
        value = float(one.total(one.sums.sum(axis=0)))
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        if one.share:
            low, high = wilson(round(float(one.sums[:, 0].sum())), len(one.sums))
        found[name] = {"value": value, "low": float(low), "high": float(high)}
    return found


def differences(
    first: Mapping[str, Measure], second: Mapping[str, Measure], resamples: int = 1000, seed: int = 7
) -> dict[str, dict[str, float]]:
    """{name: {difference, low, high}}, second less first, of two models' measures of the same items, paired."""
    a, b = (_drawn(one, resamples, seed) for one in (first, second))
    found = {}
    for name, one in first.items():
        other = second[name]
        change = float(other.total(other.sums.sum(axis=0)) - one.total(one.sums.sum(axis=0)))
        low, high = np.quantile(b[name] - a[name], [0.025, 0.975])
        found[name] = {"difference": change, "low": float(low), "high": float(high)}
    return found


def _drawn(measures: Mapping[str, Measure], resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Figures of each measure, [resamples]; the same draws for any measures of as many items."""
    items = {len(one.sums) for one in measures.values()}
    if len(items) != 1 or 0 in items:
        raise ValueError(f"measures of unlike numbers of items, or of none: {sorted(items)}")
    (count,) = items
    parts: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for weights in _weights(count, resamples, seed):
        for name, one in measures.items():
            parts[name].append(np.asarray(one.total(weights @ one.sums)))
    return {name: np.concatenate(found) for name, found in parts.items()}


def _weights(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each item is drawn, [some resamples, items] at a time."""
    generator = np.random.default_rng(seed)
    step = max(1, _HELD // count)
    for start in range(0, resamples, step):
        yield generator.multinomial(count, np.full(count, 1 / count), min(step, resamples - start)).astype(np.float64)


def _divided(above: Any, below: Any) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(np.asarray(above, np.float64)), where=np.asarray(below) != 0)


def _ratio(above: int, below: int) -> Total:
    return lambda total: _divided(total[..., above], total[..., below])
