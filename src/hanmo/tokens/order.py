"""Which tokens stand at which place of a run: a pure function of the documents, the seed and the place.

Training sees one endless stream. Pass e over the corpus is all documents in the order of a permutation drawn from
(seed, e); passes follow each other without a gap, so no tail is ever dropped. Row r of length `context` is the stretch
[r * context, (r + 1) * context) of that stream. Nothing of this depends on processes, micro-batches or on where a run
was interrupted: a run that resumes at row r sees what an undisturbed one sees.

A row is a row of targets. The input of a target is the token before it in its document, and `<|endoftext|>` before the
first: every token is predicted exactly once a pass, the first of a document and its end included, and no document sees
another (`segment` differs, `position` restarts).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hanmo.tokens.shards import Tokens


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows; every array has shape [rows, context].

    Attributes:
        inputs: int64 ids that the model reads.
        targets: int64 ids that it must predict.
        position: int32 place inside the piece of the document that the row holds, from 0.
        segment: int32 number of that piece in the row, from 0.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    position: NDArray[np.int32]
    segment: NDArray[np.int32]


class Order:
    """The endless stream of packed rows over one split.

    Args:
        tokens: all tokens of the split, every document closed by `eos` (indexable by slices, may be memory-mapped).
        ends: int64 [documents], the exclusive end of every document in `tokens`.
        context: tokens in a row.
        seed: of the permutations.
        eos: id that opens and closes documents.
    """

    def __init__(self, tokens: NDArray | Tokens, ends: NDArray, context: int, seed: int, eos: int = 0) -> None:
        self._tokens = tokens
        self._ends = np.asarray(ends, dtype=np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), self._ends[:-1]])
        self._lengths = self._ends - self._starts
        self.total = int(self._ends[-1]) if len(self._ends) else 0
        self.context = context
        self._seed = seed
        self._eos = eos
        # A row may end one pass and begin the next, so two passes are held at a time.
        self._pass = lru_cache(maxsize=2)(self._make_pass)

    def _make_pass(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The permutation of pass `number` and the exclusive end of each of its documents in the stream."""
        generator = np.random.Generator(np.random.PCG64([self._seed, number]))
        permutation = generator.permutation(len(self._ends))
        return permutation, np.cumsum(self._lengths[permutation])

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` .. `first + count - 1` of the stream."""
        shape = (count, self.context)
        inputs, targets = np.empty(shape, np.int64), np.empty(shape, np.int64)
        position, segment = np.empty(shape, np.int32), np.empty(shape, np.int32)
        for row in range(count):
            self._fill((first + row) * self.context, inputs[row], targets[row], position[row], segment[row])
        return Rows(inputs, targets, position, segment)

    def _fill(self, at: int, inputs: NDArray, targets: NDArray, position: NDArray, segment: NDArray) -> None:
        """Fill one row that starts at place `at` of the endless stream."""
        number, offset = divmod(at, self.total)
        permutation, ends = self._pass(number)
        index = int(np.searchsorted(ends, offset, side="right"))
        filled = piece = 0
        while filled < self.context:
            if index == len(permutation):
                number, offset, index = number + 1, 0, 0
                permutation, ends = self._pass(number)
            document = permutation[index]
            start, length = self._starts[document], self._lengths[document]
            skip = int(offset - (ends[index] - length))
            take = int(min(length - skip, self.context - filled))
            stop = filled + take
            targets[filled:stop] = self._tokens[start + skip : start + skip + take]
            inputs[filled + 1 : stop] = targets[filled : stop - 1]
            inputs[filled] = self._tokens[int(start + skip) - 1] if skip else self._eos
            position[filled:stop] = np.arange(take, dtype=np.int32)
            segment[filled:stop] = piece
            filled, offset, index, piece = stop, offset + take, index + 1, piece + 1
