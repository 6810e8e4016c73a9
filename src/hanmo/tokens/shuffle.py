"""Documents in a shuffled order, in memory that does not grow with their number.

Three parts, each a pure function of what it is given:

* `Documents` finds a document's tokens by its number among all (or among those of one source) in the shards' own
  files, which are mapped and not read;
* `permutation` says which document stands where: a drawn one, held in memory, for corpora up to `STORED` documents, and
  above that a cipher on the numbers, which takes no memory at all;
* `Shuffled` remembers only at which token every `BLOCK`th document of that order begins, and works out a block when a
  row lies in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hanmo.tokens.shards import Shard

#: Documents of a split up to which permutations are drawn and held (4 bytes each, of two passes).
STORED = 1 << 24
#: Documents between two places that are remembered, and documents looked up at a time while they are found.
BLOCK = 64
_CHUNK = 1 << 20
_ROUNDS = 10


class Documents:
    """The documents of some shards, numbered from 0 in the order of the shards.

    Args:
        shards: in their order.
        bases: int64 [shards], the place of each one's first token among all tokens.
        source: only those of this source (its index).
    """

    def __init__(self, shards: Sequence[Shard], bases: NDArray[np.int64], source: int | None = None) -> None:
        self._shards, self._bases, self._source = list(shards), bases, source
        amounts = [amount(shard, source) for shard in self._shards]
        self._starts = np.cumsum([0, *(documents for documents, _ in amounts)])
        self.tokens = sum(tokens for _, tokens in amounts)
        self._own = lru_cache(maxsize=8)(self._of_source)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def spans(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(place of the first token, tokens), int64 [n] each, of the documents with those numbers."""
        starts, lengths = np.empty((2, len(numbers)), np.int64)
        order = np.argsort(numbers)
        ascending = numbers[order]
        cuts = np.searchsorted(ascending, self._starts)
        for part in np.flatnonzero(np.diff(cuts)):
            mine = order[cuts[part] : cuts[part + 1]]
            places = ascending[cuts[part] : cuts[part + 1]] - self._starts[part]
            if self._source is not None:
                places = self._own(int(part))[places]
            ends = self._shards[part].ends
            begin = np.where(places > 0, ends[places - 1], 0).astype(np.int64)
            lengths[mine] = ends[places].astype(np.int64) - begin
            starts[mine] = begin + self._bases[part]
        return starts, lengths

    def _of_source(self, part: int) -> NDArray[np.int64]:
        """Where in a shard the documents of the source are."""
        return np.flatnonzero(self._shards[part].source == self._source)


def amount(shard: Shard, source: int | None) -> tuple[int, int]:
    """(documents, tokens) of one source, or of all, in a shard."""
    return (shard.documents, len(shard)) if source is None else shard.amounts.get(source, (0, 0))


def permutation(count: int, key: Sequence[int], stored: bool) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """A permutation of the numbers below `count`, drawn by `key`, as a function on arrays.

    With `stored` it is one of numpy's, held in memory. Otherwise a Feistel network over the smallest power of two that
    holds `count` (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002): each of its rounds can be undone,
    so that the whole is one-to-one, and numbers that it puts at `count` or above are put through it again until they
    fall below, which keeps it so. Ten rounds are well above the four from which the outcome cannot be told from a drawn
    permutation when the rounds are random functions (Luby and Rackoff).
    """
    generator = np.random.Generator(np.random.PCG64(list(key)))
    if stored:
        drawn = generator.permutation(count)
        if count < 1 << 31:
            drawn = drawn.astype(np.int32)
        return lambda places: drawn[places].astype(np.int64)
    keys = generator.integers(0, 1 << 64, _ROUNDS, np.uint64, endpoint=False)
    bits = max(2, (count - 1).bit_length())
    low = np.uint64(bits // 2)
    masks = (np.uint64((1 << (bits - bits // 2)) - 1), np.uint64((1 << (bits // 2)) - 1))

    def once(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        halves = [values >> low, values & masks[1]]
        for turn in range(_ROUNDS):
            changed = turn % 2
            halves[changed] ^= _mixed(halves[1 - changed] ^ keys[turn]) & masks[changed]
        return halves[0] << low | halves[1]

    def permute(places: NDArray[np.int64]) -> NDArray[np.int64]:
        values = once(np.asarray(places, np.uint64))
        while len(again := np.flatnonzero(values >= count)):
            values[again] = once(values[again])
        return values.astype(np.int64)

    return permute


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on every other."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


class Shuffled:
    """All documents of `documents` once, in the order of a permutation (see there for `key` and `stored`)."""

    def __init__(self, documents: Documents, key: Sequence[int], stored: bool) -> None:
        self._documents = documents
        self._permute = permutation(len(documents), key, stored)
        marks = [np.zeros(1, np.int64)]
        total = 0
        for start in range(0, len(documents), _CHUNK):
            _, lengths = self._spans(start, start + _CHUNK)
            sums = np.add.reduceat(lengths, np.arange(0, len(lengths), BLOCK))
            marks.append(total + np.cumsum(sums))
            total = int(marks[-1][-1])
        self._marks = np.concatenate(marks)
        self._block = lru_cache(maxsize=2)(self._make_block)

    def _spans(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._documents.spans(self._permute(np.arange(first, min(last, len(self._documents)))))

    def _make_block(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(first token, tokens, exclusive end in this order) of each document of a block."""
        starts, lengths = self._spans(number * BLOCK, (number + 1) * BLOCK)
        return starts, lengths, self._marks[number] + np.cumsum(lengths)

    def pieces(self, offset: int, count: int) -> Iterator[tuple[int, int, int]]:
        """`count` tokens from place `offset` on, as (first token of a document, how many to skip, how many to take)."""
        number = int(np.searchsorted(self._marks, offset, side="right")) - 1
        while count:
            starts, lengths, ends = self._block(number)
            index = int(np.searchsorted(ends, offset, side="right"))
            while count and index < len(ends):
                skip = offset - int(ends[index] - lengths[index])
                take = min(int(lengths[index]) - skip, count)
                yield int(starts[index]), skip, take
                offset, count, index = offset + take, count - take, index + 1
            number += 1
