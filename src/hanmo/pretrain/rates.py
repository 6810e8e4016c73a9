"""Peak learning rates of a run, by what a weight is; where the settings do not say, by rules that were measured."""

from __future__ import annotations

from dataclasses import dataclass

from hanmo.pretrain.settings import PretrainSettings


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
    def of(cls, settings: PretrainSettings) -> Rates:
        """The rates of a run."""
        lr = settings.lr
        matrix = settings.matrix_lr if settings.optimizer == "muon" else lr
        return cls(matrix, settings.embedding_lr or lr, settings.head_lr or lr, lr)
