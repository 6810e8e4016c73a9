"""Which source each row of a mixed run is from: a pure function of shares, caps, seed and the row's number.

Every source has its own endless stream of documents, pass after pass, and a row is the next stretch of one of them. The
turns are laid out on a line of time: source s, of share w, takes its i-th turn at (i + u) / w, with u drawn from
(seed, s, i) between 0 and 1. So up to any moment t a source has had w * t turns, give or take one: the shares hold in
every stretch of the run and not only in the whole, and yet no source comes at regular beats. Since the number of turns
up to a moment is known without going through them, so is what stands in any row.

A source that is capped has no turns behind its last. The others go on at their pace, which leaves its share to them in
proportion to their own. Its last turn need not fill a row; the source with the most text left fills it up, so that
every token of the cap is used and rows stay aligned.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import xxhash

from hanmo.errors import HanmoError, nearest

#: Shares become integers of about this size: times are then exact, and the same on every machine.
_ONE = 1 << 32


@dataclass(frozen=True)
class MixSource:
    """One source of a mix.

    Attributes:
        index: in the split's list of sources.
        tokens: of one pass.
        share: of the rows, while no cap is reached; all shares add up to 1.
        cap: most tokens that it gives, None for no end.
    """

    index: int
    name: str
    tokens: int
    share: float
    cap: int | None


def mix_sources(
    tokens: Mapping[str, int],
    weights: Mapping[str, float] | None,
    max_epochs: float | Mapping[str, float] | None,
    temperature: float,
    where: str,
) -> list[MixSource]:
    """The sources of a mix with their shares: weights (or, without them, sizes) to the power of `temperature`.

    Args:
        tokens: of one pass, by source, in the order of the split's sources.
        weights: sources that are not named get none.
        max_epochs: passes after which a source is left out; one number for all, or by source.
        where: the folder, for errors.

    Raises:
        HanmoError: a name that is no source, or a source without text.
    """
    caps = dict(max_epochs) if isinstance(max_epochs, Mapping) else {}
    for key, names in (("weights", weights or {}), ("max_epochs", caps)):
        for name in names:
            if name not in tokens:
                known = ", ".join(tokens)
                raise HanmoError(
                    f"mix.{key}: {where} has no source '{name}'{nearest(name, tokens)} (its sources: {known})"
                )
    sizes = {name: float(amount) for name, amount in tokens.items()} if weights is None else dict(weights)
    chosen = {name: share for name, share in sizes.items() if share > 0}
    if not chosen:
        raise HanmoError(f"mix.weights: none of the sources of {where} has a weight above 0")
    for name in chosen:
        if not tokens[name]:
            raise HanmoError(f"mix.weights: source '{name}' of {where} has no training text; leave it out")
    largest = max(chosen.values())
    powers = {name: (share / largest) ** temperature for name, share in chosen.items()}
    total = math.fsum(powers.values())
    found = []
    for index, (name, amount) in enumerate(tokens.items()):
        if name in chosen:
            passes = caps.get(name) if isinstance(max_epochs, Mapping) else max_epochs
            cap = None if passes is None else max(1, round(passes * amount))
            found.append(MixSource(index, name, amount, powers[name] / total, cap))
    return found


class Mix:
    """The turns of sources.

    Args:
        sources: with their shares and caps.
        context: tokens in a row.
        seed: of the draws.

    Attributes:
        limit: rows that there are, None for no end.
    """

    def __init__(self, sources: Sequence[MixSource], context: int, seed: int) -> None:
        self.sources, self._context, self._seed = list(sources), context, seed
        self._weights = [max(1, round(source.share * _ONE)) for source in self.sources]
        self._keys = [xxhash.xxh32_intdigest(source.name.encode()) for source in self.sources]
        # Turns of each source; tokens that it gave to the last turns of others, by their moments.
        self._turns = [None if s.cap is None else -(-s.cap // context) for s in self.sources]
        self._lent: list[list[tuple[int, int]]] = [[] for _ in self.sources]
        self._fillers: dict[int, int] = {}
        self.limit = self._close()

    def _close(self) -> int | None:
        """Settle, source after source in the order in which they end, who fills up their last rows; returns `limit`."""
        ended: set[int] = set()
        while capped := [s for s, turns in enumerate(self._turns) if turns is not None and s not in ended]:
            moment, source = min((self._moment(s, (self._turns[s] or 0) - 1), s) for s in capped)
            ended.add(source)
            lack = (self._turns[source] or 0) * self._context - int(self._left(source, -1))
            if not lack:
                continue
            left = {s: self._left(s, moment) for s in range(len(self.sources)) if s not in ended}
            filler = max(left, key=lambda s: left[s], default=None)
            if filler is None or left[filler] < lack:
                return self._count(moment) - 1
            self._fillers[source] = filler
            self._lent[filler].append((moment, lack))
            if self._turns[filler] is not None:
                self._turns[filler] = -(-int(self._left(filler, -1)) // self._context)
        counts = [turns for turns in self._turns if turns is not None]
        return sum(counts) if len(counts) == len(self._turns) else None

    def _left(self, source: int, moment: int) -> float:
        """Tokens that a source's own turns behind `moment` have."""
        cap = self.sources[source].cap
        if cap is None:
            return math.inf
        lent = sum(tokens for _, tokens in self._lent[source])
        return cap - lent - self._had(source, moment) * self._context

    def _moment(self, source: int, turn: int) -> int:
        """When a source has its `turn`th turn; no two are at the same moment. Turn -1 is before all."""
        if turn < 0:
            return -1
        drawn = xxhash.xxh32_intdigest(struct.pack("<QIQ", self._seed & (2**64 - 1), self._keys[source], turn))
        return (((turn << 32) | drawn) * _ONE // self._weights[source]) * len(self._weights) + source

    def _had(self, source: int, moment: int) -> int:
        """Turns of a source up to and including `moment`."""
        if moment < 0:
            return 0
        turn = max(0, (moment // len(self._weights) * self._weights[source] >> 64) - 1)
        while self._moment(source, turn) <= moment:
            turn += 1
        while turn and self._moment(source, turn - 1) > moment:
            turn -= 1
        turns = self._turns[source]
        return turn if turns is None else min(turn, turns)

    def _count(self, moment: int) -> int:
        return sum(self._had(source, moment) for source in range(len(self.sources)))

    def _after(self, rows: int) -> int:
        """The moment of the last of the first `rows` turns."""
        low, high = -1, 1 << 64
        while self._count(high) < rows:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._count(middle) >= rows else (middle, high)
        return high if rows else -1

    def _place(self, source: int, turn: int, moment: int) -> int:
        """Where in its stream a source stands at a turn."""
        return turn * self._context + sum(tokens for when, tokens in self._lent[source] if when < moment)

    def rows(self, first: int, count: int) -> Iterator[list[tuple[int, int, int]]]:
        """For rows `first` .. `first + count - 1`: the parts of each as (source, place in its stream, tokens).

        Sources are numbered as in `sources`.

        Raises:
            HanmoError: the caps leave no text for so many rows.
        """
        if self.limit is not None and first + count > self.limit:
            raise HanmoError(f"the mix has text for {self.limit} rows, {first + count} are asked for; raise max_epochs")
        start = self._after(first)
        had = [self._had(source, start) for source in range(len(self.sources))]
        waiting = [(self._moment(s, turn), s) for s, turn in enumerate(had) if self._turns[s] != turn]
        heapq.heapify(waiting)
        for _ in range(count):
            moment, source = waiting[0]
            at = self._place(source, had[source], moment)
            had[source] += 1
            if had[source] == self._turns[source]:
                heapq.heappop(waiting)
            else:
                heapq.heapreplace(waiting, (self._moment(source, had[source]), source))
            cap = self.sources[source].cap
            tokens = self._context if cap is None else min(self._context, cap - at)
            parts = [(source, at, tokens)]
            if tokens < self._context:
                filler = self._fillers[source]
                parts.append((filler, self._place(filler, had[filler], moment), self._context - tokens))
            yield parts

    def taken(self, rows: int) -> dict[str, int]:
        """Tokens that the first `rows` rows have of each source."""
        moment = self._after(rows)
        found = {}
        for number, source in enumerate(self.sources):
            place = self._place(number, self._had(number, moment), moment + 1)
            found[source.name] = place if source.cap is None else min(place, source.cap)
        return found
