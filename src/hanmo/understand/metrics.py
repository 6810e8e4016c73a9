"""Scores as CLUE defines them, each with an interval and what guessing would reach."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from hanmo.evaluate.items import wilson
from hanmo.understand.entities import Entity


def accuracy(predicted: Sequence[Any], gold: Sequence[Any], guesses: Sequence[float]) -> dict[str, Any]:
    """Accuracy with its Wilson 95 % interval.

    Args:
        guesses: for each item, how likely a blind guess is right.

    Returns:
        n, accuracy, low, high, `chance` (the mean of the guesses) and `majority` (always the commonest label).
    """
    right = [one == other for one, other in zip(predicted, gold, strict=True)]
    low, high = wilson(sum(right), len(right))
    return {
        "n": len(right),
        "accuracy": sum(right) / len(right),
        "low": low,
        "high": high,
        "chance": sum(guesses) / len(guesses),
        "majority": max(Counter(gold).values()) / len(gold),
    }


def f1_of(tp: float, found: float, there: float) -> float:
    """2 PR / (P + R); 0 where nothing was right."""
    return 2 * tp / (found + there) if tp else 0.0


def entity_f1(
    predicted: Sequence[Sequence[Entity]], gold: Sequence[Sequence[Entity]], resamples: int = 1000, seed: int = 7
) -> dict[str, Any]:
    """Precision, recall and F1 of whole entities (place and type), over all of them and as the mean of the types' F1.

    CLUE's baselines report the first, its server the second. The interval is a bootstrap over sentences of the first.
    """
    counts = np.zeros((len(gold), 3))
    by_kind: dict[str, Counter[str]] = {}
    for row, (ours, theirs) in enumerate(zip(predicted, gold, strict=True)):
        mine, right = set(ours), set(theirs)
        counts[row] = len(mine & right), len(mine), len(right)
        for name, entities in (("tp", mine & right), ("found", mine), ("there", right)):
            for *_, kind in entities:
                by_kind.setdefault(kind, Counter())[name] += 1
    tp, found, there = counts.sum(0)
    drawn = np.random.default_rng(seed).multinomial(len(gold), np.full(len(gold), 1 / len(gold)), resamples) @ counts
    low, high = np.quantile([f1_of(*row) for row in drawn], [0.025, 0.975])
    kinds = {kind: f1_of(one["tp"], one["found"], one["there"]) for kind, one in sorted(by_kind.items())}
    asked = [kinds[kind] for kind, one in by_kind.items() if one["there"]]
    return {
        "n": len(gold),
        "entities": int(there),
        "f1": f1_of(tp, found, there),
        "low": float(low),
        "high": float(high),
        "precision": tp / found if found else 0.0,
        "recall": tp / there if there else 0.0,
        "macro_f1": sum(asked) / max(len(asked), 1),
        "by_type": kinds,
        "chance": 0.0,
    }


_HAN = re.compile(r"[\u2e80-\u2fff\u3005\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def units(text: str) -> list[str]:
    """What reading is scored by: Chinese characters and whole words of other scripts, in lower case, no punctuation."""
    found: list[str] = []
    word = ""
    for character in text.lower():
        kind = unicodedata.category(character)
        han = bool(_HAN.fullmatch(character))
        if not han and (kind[0] in "LN" or kind[0] == "M"):
            word += character
            continue
        if word:
            found.append(word)
            word = ""
        if han:
            found.append(character)
    return [*found, word] if word else found


def longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest run of units that both have."""
    best, before = 0, [0] * (len(other) + 1)
    for unit in one:
        row = [0] * (len(other) + 1)
        for column, against in enumerate(other, 1):
            if unit == against:
                row[column] = before[column - 1] + 1
                best = max(best, row[column])
        before = row
    return best


def reading(
    predicted: Sequence[str], gold: Sequence[Sequence[str]], resamples: int = 1000, seed: int = 7
) -> dict[str, Any]:
    """Exact match and F1 of answers as CMRC 2018 has them (Cui et al., arXiv:1810.07366): of the best answer.

    F1 counts the longest run of characters and words that both share. The intervals are bootstraps over questions.
    """
    scores = np.zeros((len(gold), 2))
    for row, (ours, theirs) in enumerate(zip(predicted, gold, strict=True)):
        mine = units(ours)
        for answer in theirs:
            right = units(answer)
            same = float(mine == right)
            scores[row, 0] = max(scores[row, 0], same)
            scores[row, 1] = max(scores[row, 1], f1_of(longest_run(mine, right), len(mine), len(right)))
    em, f1 = scores.mean(0)
    drawn = np.random.default_rng(seed).multinomial(len(gold), np.full(len(gold), 1 / len(gold)), resamples) @ scores
    (low, f1_low), (high, f1_high) = np.quantile(drawn / len(gold), [0.025, 0.975], axis=0)
    return {
        "n": len(gold),
        "em": float(em),
        "low": float(low),
        "high": float(high),
        "f1": float(f1),
        "f1_low": float(f1_low),
        "f1_high": float(f1_high),
        "chance": 0.0,
    }
