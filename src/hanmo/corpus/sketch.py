"""Signatures of texts: how alike two documents are, from 512 bytes each.

The likeness of two texts is the Jaccard index of their sets of shingles: runs of `SHINGLE` letters, digits and Han
characters, punctuation and white space left out (two copies of a page often differ in just these). Words would need a
segmenter, which is slow and disagrees with itself around an edit; characters need none.

A signature is a fast similarity sketch (Dahlgaard, Knudsen and Thorup, FOCS 2017, arXiv:1704.04370): every shingle is
thrown into one of `SIZE` bins by one hash and each bin keeps its smallest value; a text with few shingles throws them
again with other hashes until no bin is empty. The share of equal bins is an unbiased estimate of the Jaccard index
with a standard error of at most 0.044, as in a MinHash with `SIZE` permutations, at a 128th of the hashing.
"""

from __future__ import annotations

import functools

import numpy as np

#: Bins of a signature, a power of two.
SIZE = 128
#: Characters of a shingle.
SHINGLE = 5
#: Throws of one round: enough that a bin stays empty in one text of twenty, which then takes another round.
_THROWS = 1024
_BITS = SIZE.bit_length() - 1
_RANDOM = 40  # bits of a value that are random; the round stands above them
_ODD = np.uint64(0x9E3779B97F4A7C15)


def sketch(text: str) -> np.ndarray:
    """The signature of a text.

    Returns:
        [SIZE] uint32. A text without letters, digits or Han characters is treated as one empty shingle.
    """
    base = _shingles(text)
    best = np.full(SIZE, np.iinfo(np.uint64).max, np.uint64)
    rounds = max(1, _THROWS // len(base))
    first = 0
    while True:
        salts = (np.arange(first, first + rounds, dtype=np.uint64) + np.uint64(1)) * _ODD
        thrown = mix((base[None, :] + salts[:, None]).ravel() if rounds > 1 else base + salts[0])
        bins = (thrown >> np.uint64(64 - _BITS)).astype(np.intp)
        values = thrown & np.uint64((1 << _RANDOM) - 1)
        if first or rounds > 1:
            number = np.repeat(np.arange(first, first + rounds, dtype=np.uint64), len(base))
            values |= number << np.uint64(_RANDOM)
        np.minimum.at(best, bins, values)
        first += rounds
        if best.max() != np.iinfo(np.uint64).max:
            return best.astype(np.uint32)


def likeness(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Estimated Jaccard index of signatures [..., SIZE] and [..., SIZE], float64."""
    return (left == right).mean(-1)


def _shingles(text: str) -> np.ndarray:
    """The sums of every shingle, [n] uint64, n at least 1; repeated shingles are not removed."""
    points = _points(text)
    if len(points) < SHINGLE:
        points = np.concatenate([points, np.zeros(SHINGLE - len(points), np.uint64)])
    return _sums(points, SHINGLE)


def hashes(text: str, size: int) -> np.ndarray:
    """A 64-bit hash of every run of `size` letters, digits and Han characters, [n] uint64; none in a shorter text."""
    points = _points(text)
    return mix(_sums(points, size)) if len(points) >= size else np.empty(0, np.uint64)


def _points(text: str) -> np.ndarray:
    """The code points that count, [n] uint64."""
    points = np.frombuffer(text.lower().encode("utf-32-le", "replace"), np.uint32)
    return points[letters()[np.minimum(points, 0x10000)]].astype(np.uint64)


def _sums(points: np.ndarray, size: int) -> np.ndarray:
    """A polynomial of every run of `size` numbers, modulo 2**64."""
    total = points[: len(points) - size + 1].copy()
    for offset in range(1, size):
        total *= _ODD
        total += points[offset : len(points) - size + 1 + offset]
    return total


def mix(value: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser of [n] uint64, in place."""
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value


@functools.cache
def letters() -> np.ndarray:
    """Whether a code point counts, [0x10001] bool; the last entry stands for all beyond the basic plane, which do."""
    return np.array([chr(point).isalnum() for point in range(0x10000)] + [True])
