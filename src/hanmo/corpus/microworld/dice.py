"""Reproducible randomness: the same seed gives the same choices on every machine and Python version.

Only ``random.Random(int).random()`` is promised by the Python documentation to keep its sequence for ever;
``choice``, ``sample`` and ``shuffle`` are not (they have changed between releases), and ``hash()`` of a string differs
from process to process. So everything here is built on ``random()`` alone, and named sub-streams are derived with
SHA-256. A sub-stream makes parts of the corpus independent of each other: more documents do not change the exam.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A stream of random choices named by a seed and a path, e.g. ``Dice(7, "exam", "home")``."""

    def __init__(self, seed: int, *path: str | int) -> None:
        name = "/".join(str(part) for part in (seed, *path))
        digest = hashlib.sha256(name.encode("utf-8")).digest()
        self._random = random.Random(int.from_bytes(digest[:8], "big")).random

    def below(self, n: int) -> int:
        """An integer in ``[0, n)``; n must be far below 2**53, or the choice is not uniform."""
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """An integer in ``[low, high]``."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """``k`` different positions of ``items``, in random order (all of them if there are fewer)."""
        pool = list(items)
        for i in range(min(k, len(pool))):
            j = i + int(self._random() * (len(pool) - i))
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.sample(items, len(items))

    def weighted(self, items: Sequence[tuple[T, float]]) -> T:
        """An item of ``(item, weight)`` pairs, with probability proportional to its weight."""
        point = self._random() * sum(weight for _, weight in items)
        for item, weight in items:
            point -= weight
            if point < 0:
                return item
        return items[-1][0]
