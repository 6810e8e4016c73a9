"""What a run takes where its settings leave it to rules: learning rates, batch and warm-up (docs/training.md).

The rules are read off a sweep (benchmarks/sweep.py). Rates know nothing of the budget. The batch does; a run keeps the
one that it began with, so that a larger budget can extend it.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace

from hanmo.pretrain.settings import PretrainSettings

#: Tokens of a batch by the root of the budget's tokens, and the most of them.
ROOT, LARGEST = 4.0, 2**21
#: Tokens of a batch for every batch of the warm-up.
WARMUP = 256


@dataclass(frozen=True)
class Rates:
    """Peak learning rates, which the schedule multiplies.

    Attributes:
        matrix: Muon's, of the matrices inside of layers; AdamW's of them where that is the optimiser.
        embedding, head: AdamW's, of the input embedding and of a head of its own.
        other: AdamW's, of gains and biases.
    """

    matrix: float
    embedding: float
    head: float
    other: float

    @classmethod
    def of(cls, settings: PretrainSettings, width: int, continued: bool = False) -> Rates:
        """The rates of a run: those of its settings, and by rule those that are 0 there.

        Args:
            width: of the model's stream, in channels.
            continued: a model that was trained before goes on.
        """
        rule = _rule(settings, width, continued)
        if given := settings.lr:
            rule = cls(rule.matrix, given, given, given)
        matrix = settings.matrix_lr if settings.optimizer == "muon" else settings.lr
        return cls(
            matrix or rule.matrix, settings.embedding_lr or rule.embedding, settings.head_lr or rule.head, rule.other
        )

    def in_words(self) -> str:
        """For a person."""
        return (
            f"rates up to {self.matrix:g} (matrices), {self.embedding:g} (embedding), {self.head:g} (head), "
            f"{self.other:g} (gains)"
        )


#: The widest model whose rates were swept.
WIDTH = 256
#: A model with random weights and one matrix for both ends.
RANDOM = Rates(matrix=0.01, embedding=0.012, head=0.012, other=0.012)
#: One that begins as a bigram model: what is fitted already must not be lost.
BIGRAM = Rates(matrix=0.024, embedding=0.05, head=0.01, other=0.003)
#: Measured on one small model (docs/continuing.md); and what is usual, not swept here.
CONTINUED = Rates(matrix=0.02, embedding=0.003, head=0.003, other=0.003)
ADAMW = Rates(matrix=0.003, embedding=0.003, head=0.003, other=0.003)


def _rule(settings: PretrainSettings, width: int, continued: bool) -> Rates:
    # A step of AdamW moves all weights alike, and what they move adds up over the width (muP, arXiv:2203.03466), up to
    # WIDTH without harm. Muon's steps do not grow with it.
    narrow = min(1.0, WIDTH / width)
    if settings.optimizer == "adamw":
        return Rates(*(narrow * rate for rate in astuple(ADAMW)))
    if continued:
        return CONTINUED
    if settings.start == "bigram":
        return replace(BIGRAM, head=narrow * BIGRAM.head)
    ends = narrow * RANDOM.embedding
    return replace(RANDOM, embedding=ends, head=ends)


def batch_tokens(settings: PretrainSettings) -> int:
    """Tokens of one optimiser step once the batch has grown: the setting, else by the root of the budget.

    By rule a power of two, in whole rows.
    """
    if settings.batch_tokens:
        return settings.batch_tokens
    # Halves up: rounded to even, four times the tokens could mean four times the batch.
    wanted = 2 ** math.floor(math.log2(ROOT * math.sqrt(settings.tokens)) + 0.5)
    return max(settings.context, min(LARGEST, wanted) // settings.context * settings.context)


def warmup_tokens(settings: PretrainSettings) -> int:
    """Tokens of the warm-up: the setting, else by the batch, whose square is in proportion to the budget.

    By rule about a sixteenth of the budget that a batch is taken for (3 to 12 %), and at most 2,000 batches.
    """
    if settings.warmup_tokens >= 0:
        return settings.warmup_tokens
    batch = batch_tokens(settings)
    return batch * max(1, min(2000, batch // WARMUP))
