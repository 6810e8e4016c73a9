"""How much of a text says again what it said before: repeated n-grams of characters or of words.

Repetition marks bad web text (Rae et al., "Gopher", arXiv:2112.11446, table A1). Gopher counts words; Chinese is
counted in letters, digits and Han, punctuation and white space left out. Long documents repeat their terms by right (a
law its articles' names), so shares are taken within blocks of `BLOCK` symbols and averaged; of a very long document, at
most `BLOCKS` blocks spread evenly over it are looked at.

Counting n-grams needs sorting, which is slow, and few documents need it: the number of occupied cells in a hash table
is never more than the number of different n-grams, so it bounds the repeated share from above, and the greatest cell
bounds the count of the commonest n-gram. Only a document whose bound is above the limit is counted exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

BLOCK = 8192
BLOCKS = 24
#: In texts of fewer symbols, the number of different ones tells much.
_SHORT = 1500
_ODD = 0x9E3779B1
_ODD64 = np.uint64(0x9E3779B97F4A7C15)


def blocks(symbols: np.ndarray) -> list[np.ndarray]:
    """The blocks of a document that are looked at: all, or `BLOCKS` spread evenly; the last takes a short rest."""
    count = max(1, len(symbols) // BLOCK)
    chosen = range(count) if count <= BLOCKS else [index * count // BLOCKS for index in range(BLOCKS)]
    return [symbols[index * BLOCK : (index + 1) * BLOCK if index + 1 < count else len(symbols)] for index in chosen]


def fault(
    parts: list[np.ndarray], top: Mapping[int, float], repeated: Mapping[int, float]
) -> tuple[str, int, float] | None:
    """The first limit that is passed, as (its name, n, the share found), or None.

    Args:
        parts: blocks of symbols (code points), each [symbols] uint32.
        top: by n, the largest share of the symbols that the commonest n-gram may cover ("top").
        repeated: by n, the largest share of the n-grams that may have occurred before ("repeated").
    """
    whole = sum(map(len, parts))
    hashes = [_Hashes(part) for part in parts]
    # A longer n-gram occurs no oftener, and is repeated no oftener, than one that it begins with: a bound found for
    # one n holds for all greater ones.
    times = before = whole
    if repeated and whole < _SHORT:
        # There are no fewer different n-grams than different symbols, less the last n - 1 places: in a short text that
        # is often enough to know.
        before = whole - sum(map(_different, parts))
    for size, limit in sorted(top.items()):
        if times * size > limit * whole:
            times = sum(_fullest(part.of(size)) for part in hashes)
        if times * size > limit * whole:
            covered = sum(_commonest(part, size) for part in parts) * size
            if covered > limit * whole:
                return "top", size, min(1.0, covered / whole)
    for size, limit in sorted(repeated.items()):
        total = sum(max(0, len(part) - size + 1) for part in parts)
        if before > limit * total:
            before = sum(_repeated_at_most(part.of(size)) for part in hashes)
        if before > limit * total:
            again = sum(_repeated(part, size) for part in parts)
            if again > limit * total:
                return "repeated", size, again / total
    return None


def _different(part: np.ndarray) -> int:
    """How many different symbols there are."""
    ordered = np.sort(part)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + 1 if len(part) else 0


def most_repeated(symbols: np.ndarray, size: int) -> int:
    """At most so many of the n-grams of `size` symbols occurred before."""
    return _repeated_at_most(_Hashes(symbols).of(size))


def most_times(symbols: np.ndarray, size: int) -> int:
    """The commonest n-gram of `size` symbols occurs at most so many times."""
    return _fullest(_Hashes(symbols).of(size))


class _Hashes:
    """32-bit hashes of the n-grams of one part, each n made from shorter ones."""

    def __init__(self, part: np.ndarray) -> None:
        self._length = len(part)
        self._sums = {1: part.astype(np.uint32, copy=False)}

    def of(self, size: int) -> np.ndarray:
        """Of every n-gram of `size` symbols, [n-grams] uint32; none in a shorter part."""
        if size > self._length:
            return np.empty(0, np.uint32)
        return self._sum(size) * np.uint32(0x2C1B3C6D)  # only the upper bits are looked at, which hang on all

    def _sum(self, size: int) -> np.ndarray:
        if size not in self._sums:
            first = max(known for known in self._sums if known < size)
            rest = self._sum(size - first)
            start = self._sums[first][: self._length - size + 1] * np.uint32(pow(_ODD, size - first, 1 << 32))
            start += rest[first:]
            self._sums[size] = start
        return self._sums[size]


def _repeated_at_most(grams: np.ndarray) -> int:
    """n-grams less the occupied cells of a table at least eight times as large as there are n-grams."""
    bits = len(grams).bit_length() + 3
    seen = np.zeros(1 << bits, np.bool_)
    seen[grams >> np.uint32(32 - bits)] = True
    return len(grams) - int(np.count_nonzero(seen))


def _fullest(grams: np.ndarray) -> int:
    """The count of the fullest cell of a table at least half as large as there are n-grams."""
    bits = max(10, len(grams).bit_length() - 1)
    return int(np.bincount(grams >> np.uint32(32 - bits), minlength=1).max())


def _exact(part: np.ndarray, size: int) -> np.ndarray:
    """A 64-bit hash of every n-gram, in which no two differ and agree but by a chance of 2**-64 a pair."""
    symbols = part.astype(np.uint64)
    total = symbols[: max(0, len(symbols) - size + 1)].copy()
    for offset in range(1, size):
        total *= _ODD64
        total += symbols[offset : len(symbols) - size + 1 + offset]
    return total


def _repeated(part: np.ndarray, size: int) -> int:
    grams = _exact(part, size)
    return len(grams) - len(np.unique(grams))


def _commonest(part: np.ndarray, size: int) -> int:
    grams = _exact(part, size)
    return int(np.unique(grams, return_counts=True)[1].max()) if len(grams) else 0
