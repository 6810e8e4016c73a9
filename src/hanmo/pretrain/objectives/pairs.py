"""Sentence order: pieces of documents as pairs of two consecutive parts, half of them swapped.

Besides filling masks, the model says which of two parts came first (Lan et al., ALBERT, arXiv:1909.11942). Rows stay
packed, so what becomes a pair is a piece of a document that a row holds:

    [CLS] … [SEP]          ->  [CLS] A [SEP] B [SEP]      or swapped, [CLS] B [SEP] A [SEP]
    …x。A。B。y… (cut)      ->  …x。 | [CLS] A。[SEP] B。[SEP] | y…

A and B are whole sentences, so that their ends do not give the order away: where a row cuts a document, what is left of
a sentence at either end stays in the row as a piece of its own. A piece without two whole sentences stays as it is, and
so does one that is a pair already (of a task file). The marks that are added need room: as many tokens, one to three a
pair, fall off at the end of the row and are not seen in this pass.

All is drawn from the seed and the row's number alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from hanmo.errors import HanmoError
from hanmo.models.loss import IGNORE
from hanmo.pretrain.objectives import RowSource
from hanmo.tokens.order import Rows

#: What `PairRows.order` says at the [CLS] of a pair.
IN_ORDER, SWAPPED = 1, 2
#: What ends a sentence, and what may stand between that and the next one.
_FINAL, _CLOSING = "。！？!?；;…", "”’」』）)》\"'"
#: Parts the draws of pairs from the other draws of a seed.
_TAG = 0x534F50


@dataclass(frozen=True)
class PairRows(Rows):
    """Rows some of whose pieces are pairs.

    Attributes:
        order: int64 [rows, context], `IN_ORDER` or `SWAPPED` at the [CLS] of a pair, 0 elsewhere; None: not asked.
    """

    order: NDArray[np.int64] | None = None

    def masked(self) -> NDArray[np.int64]:
        """The targets in the piece of each place: [rows, context]."""
        rows, context = self.segment.shape
        piece = self.segment + context * np.arange(rows)[:, None]
        return np.bincount(piece[self.targets != IGNORE], minlength=piece.size)[piece]

    def paired(self) -> int:
        """Targets in pairs whose order is asked."""
        return 0 if self.order is None else int(self.masked()[self.order != 0].sum())


class SentencePairs:
    """The rows of an order with pairs in them: inputs and targets are the text, as `PairRows`.

    Args:
        order: whose rows' targets are the text, documents opened by [CLS] and closed by [SEP].
        tokenizer: of the text.
        seed: of where a piece is parted and whether it is swapped.
    """

    def __init__(self, order: RowSource, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.context, self.mix, self.total, self.form = order.context, order.mix, order.total, order.form
        self.taken = order.taken
        self._order, self._seed = order, seed
        opening, closing = tokenizer.cls_token_id, tokenizer.sep_token_id
        if not isinstance(opening, int) or not isinstance(closing, int):
            raise HanmoError("masks.sentence_order needs a tokenizer with [CLS] and [SEP]")
        self._opening, self._closing = opening, closing
        vocabulary = tokenizer.get_vocab()
        self._final = np.zeros(max(vocabulary.values()) + 1, bool)
        self._final[[vocabulary[mark] for mark in _FINAL if mark in vocabulary]] = True
        self._trailing = self._final.copy()
        self._trailing[[vocabulary[mark] for mark in _CLOSING if mark in vocabulary]] = True
        if not self._final.any():
            raise HanmoError(f"masks.sentence_order: the tokenizer has none of the marks that end sentences ({_FINAL})")

    def rows(self, first: int, count: int) -> PairRows:
        """Rows `first` .. `first + count - 1`."""
        plain = self._order.rows(first, count)
        ids, position, segment = plain.targets.copy(), plain.position.copy(), plain.segment.copy()
        order = np.zeros_like(ids)
        for row in range(count):
            text = plain.targets[row]
            generator = np.random.Generator(np.random.PCG64([self._seed, _TAG, first + row]))
            filled = number = 0
            for piece in np.split(text, np.flatnonzero(np.diff(plain.segment[row])) + 1):
                for part, label in self._parts(piece, self.context - filled, generator):
                    here = slice(filled, filled + len(part))
                    ids[row, here], position[row, here], segment[row, here] = part, np.arange(len(part)), number
                    order[row, filled] = label
                    filled, number = here.stop, number + 1
        return PairRows(ids, ids, position, segment, order=order)

    def _parts(
        self, piece: NDArray[np.int64], room: int, generator: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.int64], int]]:
        """What becomes of a piece, (ids, label) each, in at most `room` tokens; never fewer than it had or than fit."""
        if room < 1:
            return
        opened, closed = bool(piece[0] == self._opening), bool(piece[-1] == self._closing)
        text = piece[int(opened) : len(piece) - int(closed)]
        # The three marks of a pair stand besides the text.
        fits = min(len(text), room - 3)
        ends = self._ends(text)
        begin = 0 if opened else next(iter(ends), len(text))
        whole = closed and fits == len(text)
        stop = len(text) if whole else int(ends[ends <= fits].max(initial=0))
        places = ends[(ends > begin) & (ends < stop)]
        if not len(places) or bool((text == self._closing).any()):
            yield piece[:room], 0
            return
        cut = int(places[generator.integers(len(places))])
        swapped = bool(generator.integers(2))
        parts = [text[begin:cut], text[cut:stop]]
        one, other = parts[::-1] if swapped else parts
        if begin:
            yield text[:begin], 0
        marks = np.array([self._opening]), np.array([self._closing])
        yield np.concatenate([marks[0], one, marks[1], other, marks[1]]), SWAPPED if swapped else IN_ORDER
        if stop < fits:
            yield text[stop:fits], 0

    def _ends(self, text: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places behind the sentences of a text: behind their last mark and the quotation marks that follow it."""
        trailing = self._trailing[text]
        finals = np.concatenate([[0], np.cumsum(self._final[text])])
        # Where the run of such marks began that a place stands behind.
        began = np.maximum.accumulate(np.where(trailing, 0, np.arange(1, len(text) + 1)))
        behind = np.flatnonzero(trailing & ~np.append(trailing[1:], False))
        return behind[finals[behind + 1] > finals[began[behind]]] + 1
