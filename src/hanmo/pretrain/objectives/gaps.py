"""Filling gaps: span corruption (`spans.corrupt`) on packed rows, the objective of encoder-decoders.

Of every piece of a document in a row, stretches are cut out. The encoder reads what is left, pieces behind each other
and apart; the decoder writes what was cut out of each, behind the token that opens an answer, and closes it:

    read     春天 <extra_id_0> 花园里的 <extra_id_1> 开了 </s>
    written  <s> <extra_id_0> 到了， <extra_id_1> 花都
    targets  <extra_id_0> 到了， <extra_id_1> 花都 </s>

What is cut out is a pure function of the seed, the row's number and the piece, new in every pass over a document.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from hanmo.errors import HanmoError
from hanmo.models.loss import IGNORE
from hanmo.pretrain.objectives import RowSource
from hanmo.pretrain.objectives.spans import corrupt
from hanmo.pretrain.settings import SpanSettings
from hanmo.tokenizer.sentinels import sentinels_of
from hanmo.tokens.order import Read, Rows

#: Room for answers, by what they take of long documents: short ones take more, each has a sentinel and an end.
_ROOM = 1.5


class GapRows:
    """The rows of an order with gaps: `Rows` of the decoder's side, with what the encoder reads.

    Answers that find no room in a row of `written` places are cut off there, or left out with what they answer; that
    takes documents of a dozen tokens and less.

    Args:
        order: whose rows' targets are the text.
        tokenizer: of the text; has sentinels.
        spans: how much is cut out.
        seed: of what is cut out.
        opening, closing: ids before and behind an answer.

    Attributes:
        written: places of a row on the decoder's side.
    """

    def __init__(
        self,
        order: RowSource,
        tokenizer: PreTrainedTokenizerFast,
        spans: SpanSettings,
        seed: int,
        opening: int,
        closing: int,
    ) -> None:
        self.context, self.mix, self.total, self.form = order.context, order.mix, order.total, order.form
        self.taken = order.taken
        self._order, self._spans, self._seed = order, spans, seed
        self._opening, self._closing = opening, closing
        self._sentinels = sentinels_of(tokenizer)
        if not self._sentinels:
            raise HanmoError(
                "objective: spans needs a tokenizer with <extra_id_0>, <extra_id_1>, …; set sentinels: 100 in its stage"
            )
        self._special = [index for index in tokenizer.all_special_ids if index not in set(self._sentinels)]
        needed = _ROOM * spans.share * (1 + 1 / spans.mean) * self.context
        self.written = math.ceil((needed + 2) / 8) * 8

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` .. `first + count - 1`."""
        plain = self._order.rows(first, count)
        read = Read(*_blank(count, self.context))
        rows = Rows(*_blank(count, self.written, IGNORE), read=read)  # type: ignore[misc]
        for row in range(count):
            at = to = piece = 0
            for seen, answer in self._pieces(first + row, plain.targets[row], plain.segment[row]):
                size = min(len(answer), self.written - to)
                if not size:
                    break
                here, there = slice(at, at + len(seen)), slice(to, to + size)
                read.inputs[row, here], read.segment[row, here] = seen, piece
                read.position[row, here] = np.arange(len(seen))
                rows.inputs[row, there] = np.concatenate([[self._opening], answer])[:size]
                rows.targets[row, there], rows.segment[row, there] = answer[:size], piece
                rows.position[row, there] = np.arange(size)
                at, to, piece = at + len(seen), to + size, piece + 1
        return rows

    def _pieces(self, number: int, ids: NDArray, segment: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
        """(what is read, what is answered, its end included) of each piece of a row that anything is cut out of."""
        ends = np.flatnonzero(np.diff(segment, append=-1)) + 1
        for piece, part in enumerate(np.split(ids, ends[:-1])):
            try:
                draw = number * self.context + piece
                seen, answer = corrupt(
                    part, self._seed, draw, self._sentinels, self._special, self._spans.share, self._spans.mean
                )
            except ValueError as error:
                raise HanmoError(f"objective: spans: {error}") from None
            if len(answer):
                yield seen, np.append(answer, self._closing)


def _blank(rows: int, places: int, *more: int) -> list[NDArray]:
    """Ids, more ids filled with `more`, positions and segments of rows that nothing stands in yet."""
    ids = [np.full((rows, places), value, np.int64) for value in (0, *more)]
    position = np.tile(np.arange(places, dtype=np.int32), (rows, 1))
    return [*ids, position, np.full((rows, places), -1, np.int32)]
