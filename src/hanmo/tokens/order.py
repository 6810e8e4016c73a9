"""Which tokens stand at which place of a run: a pure function of the documents, the seed and the place.

Training sees one endless stream, or one of each source of a `mix`. Pass e over a stream's documents is all of them in
the order of a permutation drawn from (seed, e); passes follow each other without a gap, so no tail is ever dropped. The
stream is cut into rows of length `context`, and those that lie within a pass are shuffled once more: a long document
fills many rows, and a batch of them alone would teach little (docs/LOG.md has by how much). Row r is the next of these;
with a mix, the next of the source whose turn it is (see `mix`). Nothing of this depends on processes, micro-batches or
on where a run was interrupted: a run that resumes at row r sees what an undisturbed one sees.

The permutations are of all documents and rows (shuffle "global"), or go from window to window (shuffle "shards"): a
pass takes the shards in a drawn order, `WINDOW` at a time, and the documents and rows of these in a drawn order, so
that only so many shards need to be at hand. `hanmo corpus` deals documents to shards by the hash of their text, so each
shard, and each window, is an even sample of the whole corpus, and a row is as likely to hold any document as in a
global shuffle. What is lost is only that two documents of one shard are never far apart in any pass.

A row is a row of targets. The input of a target is the token before it in its document, and `<|endoftext|>` before the
first: every token is predicted exactly once a pass, the first of a document and its end included, and no document sees
another (`segment` differs, `position` restarts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

from hanmo.tokenizer.forms.pinyin import SPECIAL
from hanmo.tokens.mix import Mix
from hanmo.tokens.shards import Shard, Split, Tokens
from hanmo.tokens.shuffle import STORED, Documents, Shuffled, amount, permutation

#: Shards whose documents are shuffled together under shuffle "shards".
WINDOW = 8
#: Parts the draws of rows from the other draws of a seed.
_ROWS = 0x524F5753
#: Told the shards that a stream reads now and those that it will read next: (name of the stream, now, next).
Announce = Callable[[str, Sequence[Shard], Sequence[Shard]], None]


@dataclass(frozen=True)
class Read:
    """What the encoder of an encoder-decoder reads; every array has shape [rows, places], as those of `Rows`.

    Attributes:
        inputs: int64 ids.
        position: int32 place inside the piece.
        segment: int32 number of the piece, which is that of its answer in `Rows`; -1 where the row is not filled.
    """

    inputs: NDArray[np.int64]
    position: NDArray[np.int32]
    segment: NDArray[np.int32]


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows; every array has shape [rows, context].

    Attributes:
        inputs: int64 ids that the model reads.
        targets: int64 ids that it must predict.
        position: int32 place inside the piece of the document that the row holds, from 0.
        segment: int32 number of that piece in the row, from 0.
        types: int64 token types, where the objective gives any; targets then stand at their own places (see
            `hanmo.models.unified.masks`).
        read: of an encoder-decoder, what the encoder reads; the other arrays are the decoder's then.
        pinyin: int64 pinyin ids of `inputs`; None where the order was not asked for them.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    position: NDArray[np.int32]
    segment: NDArray[np.int32]
    types: NDArray[np.int64] | None = None
    read: Read | None = None
    pinyin: NDArray[np.int64] | None = None


class Stream:
    """Documents without end: pass after pass over those of one source, or over all, cut into rows that are shuffled.

    Args:
        split: where they are.
        context: tokens in a row.
        seed: of the permutations.
        source: only the documents of this source (its index).
        shuffle: "global" or "shards".
        announce: told of shards when a window is entered.
    """

    def __init__(
        self,
        split: Split,
        context: int,
        seed: int,
        source: int | None = None,
        shuffle: str = "global",
        announce: Announce = lambda *_: None,
    ) -> None:
        self.name = "" if source is None else split.sources[source]
        bases = np.cumsum([0, *map(len, split.shards)])
        amounts = [amount(shard, source) for shard in split.shards]
        self._shards = [(s, int(b), t) for s, b, (n, t) in zip(split.shards, bases, amounts, strict=False) if n]
        self._context, self._source, self._announce, self._windowed = context, source, announce, shuffle == "shards"
        # By its name, so that a source keeps its order when others come or go.
        self._key = (seed,) if source is None else (seed, xxhash.xxh32_intdigest(self.name.encode()))
        self._stored = len(split) <= STORED
        self.total = sum(tokens for _, _, tokens in self._shards)
        # A row may end one window or pass and begin the next, so two are held at a time.
        self._layout = lru_cache(maxsize=2)(self._make_layout)
        self._shuffled = lru_cache(maxsize=2)(self._make_shuffled)
        self._rows = lru_cache(maxsize=2)(self._make_rows)

    def _make_layout(self, number: int) -> tuple[list[list[int]], NDArray[np.int64]]:
        """The windows of pass `number`, as indexes of shards, and the bounds [windows + 1] between their tokens."""
        if not self._windowed:
            return [list(range(len(self._shards)))], np.array([0, self.total])
        drawn = np.random.Generator(np.random.PCG64([*self._key, number])).permutation(len(self._shards)).tolist()
        windows = [drawn[start : start + WINDOW] for start in range(0, len(drawn), WINDOW)]
        return windows, np.cumsum([0, *(sum(self._shards[shard][2] for shard in window) for window in windows)])

    def _make_shuffled(self, number: int, window: int) -> Shuffled:
        windows, _ = self._layout(number)
        if self._windowed:
            after = windows[window + 1] if window + 1 < len(windows) else self._layout(number + 1)[0][0]
            self._announce(self.name, self._of(windows[window]), self._of(after))
        held = [self._shards[shard] for shard in windows[window]]
        documents = Documents([shard for shard, _, _ in held], np.array([base for _, base, _ in held]), self._source)
        key = (*self._key, number, window) if self._windowed else (*self._key, number)
        return Shuffled(documents, key, self._stored)

    def _of(self, window: list[int]) -> list[Shard]:
        return [self._shards[shard][0] for shard in window]

    def _make_rows(self, number: int, window: int) -> tuple[int, int, Callable[[NDArray[np.int64]], NDArray[np.int64]]]:
        """The rows [first, last) of the stream that lie within a window, and the permutation of so many."""
        _, bounds = self._layout(number)
        start, stop = (number * self.total + int(bounds[side]) for side in (window, window + 1))
        first, last = -(-start // self._context), stop // self._context
        count = max(0, last - first)
        key = (*self._key, number, window, _ROWS)
        return first, first + count, permutation(count, key, count <= STORED) if count else np.asarray

    def pieces(self, at: int, count: int) -> Iterator[tuple[int, int, int]]:
        """`count` tokens from place `at` on of the shuffled rows behind each other, as (first token of a document, to
        skip, to take).
        """
        while count:
            row, inside = divmod(at, self._context)
            here = min(count, self._context - inside)
            number, offset = divmod(row * self._context, self.total)
            first, last, permuted = self._rows(number, self._window(number, offset))
            if first <= row < last:
                row = first + int(permuted(np.array([row - first]))[0])
            yield from self._plain(row * self._context + inside, here)
            at, count = at + here, count - here

    def _window(self, number: int, offset: int) -> int:
        """The window of a pass that holds a place of it."""
        return int(np.searchsorted(self._layout(number)[1], offset, side="right")) - 1

    def _plain(self, at: int, count: int) -> Iterator[tuple[int, int, int]]:
        """`pieces` of the stream before its rows are shuffled."""
        number, offset = divmod(at, self.total)
        while count:
            window = self._window(number, offset)
            bounds = self._layout(number)[1]
            here = min(count, int(bounds[window + 1]) - offset)
            yield from self._shuffled(number, window).pieces(offset - int(bounds[window]), here)
            count, offset = count - here, offset + here
            if offset == self.total:
                number, offset = number + 1, 0


class Order:
    """The endless stream of packed rows over one split.

    Args:
        split: the tokens and their documents, every one closed by `eos`.
        context: tokens in a row.
        seed: of the permutations.
        eos: id that opens and closes documents.
        shuffle: "global", or "shards" for a shuffle that needs few shards at a time.
        mix: which source each row is from; without it, the documents of all sources are one stream.
        announce: told of shards shortly before they are read, with shuffle "shards".
        skip: stretches [first, last) of rows that are passed over: what is behind them moves up.
        pinyin: the pinyin ids of all tokens (`Split.pinyin`), where rows are to have them.

    Attributes:
        total: tokens of one pass over all documents.
        form: 3 where permutations of documents are drawn, 4 where they are a cipher's (see `shuffle`): another order of
            rows. (1 and 2 had rows as they lie in the stream.)
    """

    def __init__(
        self,
        split: Split,
        context: int,
        seed: int,
        eos: int = 0,
        *,
        shuffle: str = "global",
        mix: Mix | None = None,
        announce: Announce = lambda *_: None,
        skip: Sequence[tuple[int, int]] = (),
        pinyin: Tokens | None = None,
    ) -> None:
        self.context, self.mix, self._skip = context, mix, list(skip)
        self.total = len(split.tokens)
        self.form = 3 if len(split) <= STORED else 4
        self._tokens: Tokens = split.tokens
        self._pinyin = pinyin
        self._eos = eos
        chosen = [source.index for source in mix.sources] if mix else [None]
        self._streams = [Stream(split, context, seed, source, shuffle, announce) for source in chosen]

    def _stretches(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Rows `first` .. `first + count - 1` of the run as (first, count) of the stream, past what is skipped."""
        for start, stop in self._skip:
            if first < start:
                here = min(count, start - first)
                yield first, here
                first, count = first + here, count - here
            if not count:
                return
            first += stop - start
        yield first, count

    def reach(self, rows: int) -> int:
        """Rows of the stream that lie behind a run when it has seen `rows`."""
        if not rows:
            return 0
        *_, (first, count) = self._stretches(0, rows)
        return first + count

    def taken(self, rows: int) -> dict[str, int]:
        """Tokens that the first `rows` rows of a run with a mix have of each source."""
        assert self.mix
        parts = [(self.mix.taken(first), self.mix.taken(first + count)) for first, count in self._stretches(0, rows)]
        return {name: sum(after[name] - before[name] for before, after in parts) for name in self.mix.taken(0)}

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` .. `first + count - 1` of the run."""
        shape = (count, self.context)
        inputs, targets = np.empty(shape, np.int64), np.empty(shape, np.int64)
        pinyin = np.empty(shape, np.int64) if self._pinyin is not None else None
        rows = Rows(inputs, targets, np.empty(shape, np.int32), np.empty(shape, np.int32), pinyin=pinyin)
        planned = (row for stretch in self._stretches(first, count) for row in self._planned(*stretch))
        for row, parts in enumerate(planned):
            # Lazily: to ask for what comes next may mean that what came before is no longer at hand.
            pieces = (piece for stream, at, tokens in parts for piece in self._streams[stream].pieces(at, tokens))
            readings = None if pinyin is None else pinyin[row]
            self._fill(pieces, rows.inputs[row], rows.targets[row], rows.position[row], rows.segment[row], readings)
        return rows

    def _planned(self, first: int, count: int) -> Iterator[list[tuple[int, int, int]]]:
        """The parts of rows of the stream as (stream, place in it, tokens)."""
        if self.mix:
            return self.mix.rows(first, count)
        return ([(0, row * self.context, self.context)] for row in range(first, first + count))

    def _fill(
        self,
        pieces: Iterable[tuple[int, int, int]],
        inputs: NDArray,
        targets: NDArray,
        position: NDArray,
        segment: NDArray,
        pinyin: NDArray | None,
    ) -> None:
        """Fill one row with pieces of documents."""
        filled = 0
        for piece, (start, skip, take) in enumerate(pieces):
            stop = filled + take
            targets[filled:stop] = self._tokens[start + skip : start + skip + take]
            inputs[filled + 1 : stop] = targets[filled : stop - 1]
            inputs[filled] = self._tokens[start + skip - 1] if skip else self._eos
            position[filled:stop] = np.arange(take, dtype=np.int32)
            segment[filled:stop] = piece
            if pinyin is not None and self._pinyin is not None:
                pinyin[filled + 1 : stop] = self._pinyin[start + skip : start + skip + take - 1]
                pinyin[filled] = self._pinyin[start + skip - 1] if skip else SPECIAL
            filled = stop
