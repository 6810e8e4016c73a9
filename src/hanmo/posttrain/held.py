"""Held-out answers before and behind preference tuning: how far they have moved from the reference, and which way.

Of pairs, the margin is `beta` times how much further the chosen answer has moved than the rejected one, and the
accuracy the share of pairs in which it is above zero. Of single answers with labels, the margin is the good answers'
mean move less the bad ones', and the accuracy the share that moved the way its label says. Before training nothing has
moved: every margin is 0, and a tie counts half. `preference_accuracy` says how often the model itself, by its plain
log-probabilities, finds the chosen answer of a pair the likelier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hanmo.posttrain import losses, training
from hanmo.posttrain.calibration import difference_interval, mean_interval, share_interval
from hanmo.posttrain.scoring import sequence_log_probs
from hanmo.posttrain.settings import DpoSettings


def log_probs_of(start: training.Start, settings: DpoSettings, pairs: Sequence[Any]) -> Tensor:
    """Log-probability of every answer under the model as it is, [pairs, answers of each] fp32 in nats.

    Args:
        pairs: `PairExample`s, or `SingleExample`s; at least one.
    """
    model = start.model
    was_training = model.training
    model.eval()
    rows = [losses.labelled_row(pair.prompt_ids, ids) for pair in pairs for _, ids in pair.sides]
    result = torch.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    batch = training.looked_at_once(settings, max((len(ids) for ids, _ in rows), default=1))
    for at in range(0, len(order), batch):
        part = order[at : at + batch]
        with start.autocast():
            result[part] = sequence_log_probs(model, [rows[index] for index in part], start.pad)
    model.train(was_training)
    return result.view(len(pairs), -1)


class HeldPairs:
    """Held-out pairs.

    Args:
        pairs: `PairExample`s; their log-probabilities under the model as it is now are the reference's.
    """

    def __init__(self, start: training.Start, settings: DpoSettings, pairs: Sequence[Any]) -> None:
        self.start, self.settings, self.pairs = start, settings, pairs
        self.reference = self.now = log_probs_of(start, settings, pairs)

    def look(self) -> dict[str, float]:
        """Loss, margin and accuracy under the model as it is."""
        self.now = log_probs_of(self.start, self.settings, self.pairs)
        return self.judge() | {
            "log_prob_chosen": float(self.now[self._good()].mean()),
            "log_prob_rejected": float(self.now[~self._good()].mean()),
        }

    def judge(self) -> dict[str, float]:
        """The part of a look that is of pairs alone."""
        lengths = torch.tensor([[len(ids) for _, ids in pair.sides] for pair in self.pairs])
        margins = self.margins()
        return {
            "validation_loss": float(losses.held_out_loss(self.now, self.reference, lengths, self.settings).mean()),
            "validation_margin": float(margins.mean()),
            "validation_accuracy": float(_above_zero(margins).mean()),
            "preference_accuracy": float(_above_zero(self.now[:, 0] - self.now[:, 1]).mean()),
        }

    def margins(self) -> Tensor:
        """beta times how much further the chosen answers have moved than the rejected ones, [pairs]."""
        moved = self.moved()
        return moved[:, 0] - moved[:, 1]

    def figures(self) -> dict[str, Any]:
        """Margin and accuracy at the last look, with 95 % intervals."""
        margins = self.margins()
        return {"n": len(margins), "margin": mean_interval(margins.tolist()), "accuracy": _share(_above_zero(margins))}

    def moved(self) -> Tensor:
        """beta times the move of every answer, in nats."""
        return self.settings.strength * (self.now - self.reference)

    def _good(self) -> Tensor:
        return torch.tensor([[good for good, _ in pair.sides] for pair in self.pairs])


class HeldSingles(HeldPairs):
    """Held-out answers of both labels, `SingleExample`s."""

    def judge(self) -> dict[str, float]:
        """KTO's loss with z = 0, both labels weighing the same; margin and accuracy."""
        right = self._right()
        sides = torch.sigmoid(right)
        good = self._good()
        return {
            "validation_loss": float(1 - (sides[good].mean() + sides[~good].mean()) / 2),
            "validation_margin": float(right[good].mean() + right[~good].mean()),
            "validation_accuracy": float(_above_zero(right).mean()),
        }

    def figures(self) -> dict[str, Any]:
        """As of pairs."""
        moved, good = self.moved(), self._good()
        margin = difference_interval(moved[good].tolist(), moved[~good].tolist())
        return {"n": len(moved), "single": True, "margin": margin, "accuracy": _share(_above_zero(self._right()))}

    def _right(self) -> Tensor:
        """beta times the move that the label asks for, [answers, 1]."""
        return torch.where(self._good(), 1.0, -1.0) * self.moved()


def _above_zero(values: Tensor) -> Tensor:
    """1 for positive values, a half for a tie."""
    return (values > 0).float() + 0.5 * (values == 0).float()


def _share(right: Tensor) -> dict[str, float]:
    low, high = share_interval(right.flatten().numpy())
    return {"mean": float(right.mean()), "low": low, "high": high}
