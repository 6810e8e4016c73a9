"""Hashes of stretches of text: of every window of a length, of lines, and the few windows that stand for all.

Only letters, digits and Han characters count, so that a copy with other punctuation or line breaks is still a copy. A
hash of letters a to b is a polynomial in them modulo 2**64, taken from running sums, so that any stretch costs the same
(Karp and Rabin 1987). Fingerprints are chosen by winnowing (Schleimer, Wilkerson and Aiken, SIGMOD 2003): of the
windows of `length // 2` letters, the one with the smallest hash in every run of neighbours; two texts that share
`length` letters share a fingerprint, for about one fingerprint in `length / 4` letters.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from hanmo.corpus.sketch import letters, mix

_BASE = 0x9E3779B97F4A7C15
_DIGITS = (ord("0"), ord("9"))


class Letters:
    """The letters of one text.

    Args:
        text: any.

    Attributes:
        place: int64 [letters], where each stands in the text (in characters).
    """

    def __init__(self, text: str) -> None:
        points = np.frombuffer(text.encode("utf-32-le", "replace"), "<u4")
        self._newlines = np.flatnonzero(points == 10)
        kept = letters()[np.minimum(points, 0x10000)]
        self.place: NDArray[np.int64] = np.flatnonzero(kept)
        self._points = points[kept].astype(np.uint64)
        upper = (self._points >= ord("A")) & (self._points <= ord("Z"))
        self._points[upper] += np.uint64(32)
        self._length = len(text)

    def __len__(self) -> int:
        return len(self.place)

    def windows(self, length: int) -> NDArray[np.uint64]:
        """Hashes of all windows of `length` letters, [max(0, letters - length + 1)]."""
        count = max(0, len(self) - length + 1)
        return _stretches(_sums(self._points), np.arange(count), np.arange(count) + length)

    def fingerprints(self, length: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """(hashes, first letters) of chosen windows of `length // 2` letters; none in a text of fewer than `length`."""
        hashes = self.windows(length // 2)
        span = length - length // 2 + 1  # neighbours of which the smallest is taken
        if len(hashes) < span:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        # A window is chosen where it is the smallest of a run, that is, where the largest of the smallest values of the
        # runs that it stands in is its own.
        edge = np.zeros(span - 1, np.uint64)
        smallest = np.concatenate([edge, _smallest(hashes, span), edge])
        places = np.flatnonzero(~_smallest(~smallest, span) == hashes)
        return hashes[places], places

    def lines(self, least: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
        """(hashes, starts, ends) of the lines with at least `least` letters that are no digits, in characters.

        Digits count in the hash: lines that differ only in a date or a number say different things.
        """
        digit = (self._points >= _DIGITS[0]) & (self._points <= _DIGITS[1])
        starts = np.concatenate([[0], self._newlines + 1])
        ends = np.concatenate([self._newlines, [self._length]])
        first, last = np.searchsorted(self.place, starts), np.searchsorted(self.place, ends)
        real = np.concatenate([[0], np.cumsum(~digit)])
        long = real[last] - real[first] >= least
        return _stretches(_sums(self._points), first[long], last[long]), starts[long], ends[long]


def _sums(points: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Running sums of a polynomial over the letters, [letters + 1]."""
    total = np.zeros(len(points) + 1, np.uint64)
    np.cumsum(mix(points.copy()) * _powers(len(points))[0][: len(points)], out=total[1:])
    return total


def _stretches(sums: NDArray[np.uint64], first: NDArray, last: NDArray) -> NDArray[np.uint64]:
    """The hashes of letters first (included) to last (excluded)."""
    return mix((sums[last] - sums[first]) * _powers(len(sums))[1][first])


def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return _powers_of(max(1 << 20, 1 << count.bit_length()))


@functools.lru_cache(maxsize=1)
def _powers_of(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The powers of the base and of its inverse modulo 2**64, [count] each."""
    found = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        powers = np.full(count, base, np.uint64)
        powers[0] = 1
        found.append(np.cumprod(powers))
    return found[0], found[1]


def _smallest(values: NDArray[np.uint64], span: int) -> NDArray[np.uint64]:
    """The minimum of every run of `span` neighbours, [n - span + 1] (van Herk 1992: two running minima)."""
    count = len(values)
    padded = np.full(-(-count // span) * span, np.iinfo(np.uint64).max, np.uint64)
    padded[:count] = values
    blocks = padded.reshape(-1, span)
    ahead = np.minimum.accumulate(blocks, axis=1).ravel()
    behind = np.minimum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
    return np.minimum(behind[: count - span + 1], ahead[span - 1 : count])
