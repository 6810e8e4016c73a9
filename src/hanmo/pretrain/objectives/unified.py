"""Filling masks, writing, and continuing a prefix, by one set of weights: the objective of the unified model.

Every piece of a document in a packed row is given one of three tasks, drawn from the seed and the row's number alone:

    masked   token types 0: it sees itself whole, and some of its words are masked (`hanmo.pretrain.objectives.masked`)
    causal   token types 1: each token is answered by the one before it
    prefix   types 0 up to a place drawn evenly, 1 behind it: what is behind is answered, and sees the prefix whole

(UniLM, Dong et al., arXiv:1905.03197, trains so with its mixture of masks; which token sees which is in
`hanmo.models.unified.masks`.) Targets stand at their own places. A document is `[CLS] … [SEP]`, or ends with what else
closes documents; the first token of a piece, which has none before it, is nobody's target unless it is masked.

The shares are of the text. A token of a causal piece is a target, of a masked piece one in seven is: at equal shares
most of the loss is causal (docs/training.md has what that does).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from hanmo.models.loss import IGNORE
from hanmo.pretrain.objectives import RowSource
from hanmo.pretrain.objectives.masked import MaskedRows
from hanmo.pretrain.settings import MaskSettings, UnifiedSettings
from hanmo.tokens.order import Rows
from hanmo.tokens.shards import Split

MASKED, CAUSAL, PREFIX = range(3)
#: Parts the draws of tasks from the other draws of a seed.
_TAG = 0x554E49


class UnifiedRows:
    """The rows of an order, a task for each piece of a document: `Rows` with token types.

    Args:
        order: whose rows' targets are the text, documents opened by [CLS].
        tokenizer: of the text; has a mask token.
        shares: of the tasks.
        masks: of masked pieces.
        seed: of tasks, cuts and masks.
    """

    def __init__(
        self,
        order: RowSource,
        tokenizer: PreTrainedTokenizerFast,
        shares: UnifiedSettings,
        masks: MaskSettings,
        seed: int,
    ) -> None:
        self.context, self.mix, self.total, self.form = order.context, order.mix, order.total, order.form
        self.taken = order.taken
        self._order, self._seed = order, seed
        self._masked = MaskedRows(order, tokenizer, masks.share, masks.whole_words, seed, masks.ngrams)
        weights = np.array([shares.masked, shares.causal, shares.prefix])
        self._shares = weights / weights.sum()

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` .. `first + count - 1`."""
        plain = self._order.rows(first, count)
        inputs = plain.targets.copy()
        targets, types = np.full_like(inputs, IGNORE), np.zeros_like(inputs)
        for row in range(count):
            segment = plain.segment[row]
            tasks, types[row] = self._drawn(first + row, plain.position[row], segment)
            written = types[row] == 1
            # What opens a piece has nothing before it that could answer.
            written[plain.position[row] == 0] = False
            targets[row][written] = inputs[row][written]
            self._masked.hide(first + row, inputs[row], targets[row], segment, tasks[segment] == MASKED)
        return Rows(inputs, targets, plain.position, plain.segment, types)

    def _drawn(self, number: int, position: NDArray, segment: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(the task of each piece, token types [context]) of a row."""
        generator = np.random.Generator(np.random.PCG64([self._seed, _TAG, number]))
        sizes = np.bincount(segment)
        tasks = generator.choice(3, len(sizes), p=self._shares)
        # Of a prefix and of what follows it there is at least one token each.
        cuts = 1 + (generator.random(len(sizes)) * np.maximum(sizes - 1, 0)).astype(np.int64)
        begins = np.select([tasks == CAUSAL, tasks == PREFIX], [np.zeros_like(cuts), cuts], sizes)
        return tasks, (position >= begins[segment]).astype(np.int64)


def causal_rows(split: Split, documents: int, context: int) -> Rows:
    """The first documents of a split as rows in which every token but a document's first is a target, once.

    Documents longer than a row go on in another piece, which begins with the last token of the one before, and stand
    behind each other in rows as they come. What is not filled is a piece of its own, of zeros, without targets.
    """
    rows: list[tuple[NDArray, NDArray, NDArray, NDArray]] = []
    filled = context
    for number in range(documents):
        ids = split.document(number).astype(np.int64)
        at = 0
        while at < len(ids) - 1:
            if filled > context - 2:
                blank = np.zeros(context, np.int64)
                rows.append((blank, np.full(context, IGNORE), np.arange(context), np.full(context, -1)))
                filled, piece = 0, 0
            inputs, targets, position, segment = rows[-1]
            size = min(context - filled, len(ids) - at)
            here = slice(filled, filled + size)
            inputs[here], position[here], segment[here] = ids[at : at + size], np.arange(size), piece
            targets[filled + 1 : filled + size] = ids[at + 1 : at + size]
            filled, piece, at = filled + size, piece + 1, at + size - 1
    if not rows:
        rows.append((np.zeros(context, np.int64), np.full(context, IGNORE), np.arange(context), np.zeros(context)))
    inputs, targets, position, segment = (np.stack(parts) for parts in zip(*rows, strict=True))
    places = position.astype(np.int32), segment.astype(np.int32)
    return Rows(inputs.astype(np.int64), targets.astype(np.int64), *places, np.ones(inputs.shape, np.int64))
