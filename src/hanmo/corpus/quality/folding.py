"""Characters as the trained models see them (letters small, digits all 0, white space one space), and their hashes."""

from __future__ import annotations

from functools import cache

import numpy as np

#: What stands for every character above the basic plane.
BEYOND = 0xFFFF
_ODD = np.uint32(0x9E3779B1)


@cache
def _table() -> np.ndarray:
    table = np.arange(0x10000, dtype=np.uint16)
    for code in range(0x10000):
        char = chr(code)
        if char.isspace():
            table[code] = 0x20
        elif char.isdecimal():
            table[code] = 0x30
        elif len(low := char.lower()) == 1:
            table[code] = min(ord(low), BEYOND)
    return table


def fold(codes: np.ndarray) -> np.ndarray:
    """Folded characters [chars] uint16 of code points [chars] uint32; runs of white space become one space."""
    if len(codes) and codes.max() > BEYOND:
        codes = np.minimum(codes, BEYOND)
    folded = _table().take(codes)
    blank = folded == 0x20
    blank[1:] &= blank[:-1]
    if len(blank):
        blank[0] = False
    return folded[~blank] if blank.any() else folded


def windows(symbols: np.ndarray, size: int, most: int) -> list[np.ndarray]:
    """The text in windows of `size` symbols: all, or `most` of them spread evenly; a short rest belongs to the last."""
    count = max(1, len(symbols) // size)
    chosen = range(count) if count <= most else [index * count // most for index in range(most)]
    return [symbols[index * size : (index + 1) * size if index + 1 < count else len(symbols)] for index in chosen]


def run_hashes(folded: np.ndarray, sizes: range) -> list[np.ndarray]:
    """A 32-bit hash of every run of each of the sizes, each [runs] uint32."""
    found = []
    symbols = folded.astype(np.uint32)
    total = np.zeros(len(symbols), np.uint32)
    for size in range(1, sizes.stop):
        if size > len(symbols):
            break
        total = total[: len(symbols) - size + 1] * _ODD
        total += symbols[size - 1 :]
        if size in sizes:
            found.append(mix(total + np.uint32(size)))
    return found


def word_hashes(folded: np.ndarray) -> np.ndarray:
    """A 32-bit hash of every run of ASCII letters, [words] uint32.

    With prefix[i] the sum of c_j * B**j over all characters before i, a word's polynomial is the difference of the
    prefixes at its edges, times B**-first; modulo 2**32, for all words at once.
    """
    inside = np.zeros(len(folded) + 2, np.int8)
    inside[1:-1] = (folded >= 0x61) & (folded <= 0x7A)
    edges = np.flatnonzero(np.diff(inside))
    first, end = edges[0::2], edges[1::2]
    if not len(first):
        return np.empty(0, np.uint32)
    power = _powers(len(folded) + 1)
    prefix = np.concatenate([[np.uint32(0)], np.cumsum(folded * power[: len(folded)], dtype=np.uint32)])
    inverse = np.uint32(pow(int(_ODD), -1, 1 << 32))
    back = _powers(len(folded) + 1, int(inverse))
    return mix((prefix[end] - prefix[first]) * back[first] + np.uint32(0x5BD1E995))


@cache
def _all_powers(base: int, bits: int) -> np.ndarray:
    values = np.full(1 << bits, base, np.uint32)
    values[0] = 1
    return np.cumprod(values, dtype=np.uint32)


def _powers(count: int, base: int = int(_ODD)) -> np.ndarray:
    """base**0 ... base**(count - 1), modulo 2**32."""
    return _all_powers(base, max(12, (count - 1).bit_length()))[:count]


def mix(value: np.ndarray) -> np.ndarray:
    """Spread the bits of 32-bit numbers, in place."""
    value ^= value >> np.uint32(16)
    value *= np.uint32(0x7FEB352D)
    value ^= value >> np.uint32(15)
    value *= np.uint32(0x846CA68B)
    value ^= value >> np.uint32(16)
    return value
