"""A model's predictions on examples, and their score by the task's metric."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from hanmo.understand import metrics
from hanmo.understand.forms import Example
from hanmo.understand.rows import Row, Rows
from hanmo.understand.tasks import Task

#: Tokens in one forward pass, padding included.
FORWARD_TOKENS = 16384


class Answering(Protocol):
    """What heads and prompts have in common when they answer."""

    def answers(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, torch.Tensor]) -> list[Any]:
        """What the model says of each unit."""
        ...

    def together(self, example: Example, found: Sequence[Any]) -> Any:
        """An example's prediction, from the answers to its units."""
        ...


@torch.no_grad()
def predict(
    model: Any,
    head: Answering,
    examples: Sequence[Example],
    units: Sequence[Sequence[Row]],
    rows: Rows,
    autocast: AbstractContextManager[Any],
) -> list[Any]:
    """A prediction for each example, in their order.

    Args:
        units: of all the examples.
        autocast: the context in which products run in the chosen dtype.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    by_length = sorted(range(len(units)), key=lambda index: max(map(len, units[index])))
    said: list[Any] = [None] * len(units)
    batch: list[int] = []
    with autocast:
        for position, index in enumerate(by_length):
            batch.append(index)
            after = by_length[position + 1] if position + 1 < len(by_length) else None
            if after is not None:
                longest = max(map(len, units[after]))
                if sum(len(units[one]) for one in (*batch, after)) * longest <= FORWARD_TOKENS:
                    continue
            chosen = [units[one] for one in batch]
            tensors = {
                name: one.to(device) for name, one in rows.batch([row for unit in chosen for row in unit]).items()
            }
            for one, answer in zip(batch, head.answers(model, chosen, tensors), strict=True):
                said[one] = answer
            batch = []
    model.train(was_training)
    of_example: list[list[Any]] = [[] for _ in examples]
    for unit, answer in zip(units, said, strict=True):
        of_example[unit[0].item].append(answer)
    return [head.together(example, found) for example, found in zip(examples, of_example, strict=True)]


def score(task: Task, labels: int, examples: Sequence[Example], predictions: Sequence[Any]) -> dict[str, Any] | None:
    """The task's metric on the examples that have labels; None where none has one.

    Args:
        labels: how many labels there are.
    """
    asked = [
        (found, example) for found, example in zip(predictions, examples, strict=True) if example.label is not None
    ]
    if not asked:
        return None
    ours, gold = [found for found, _ in asked], [example.label for _, example in asked]
    if task.head == "entities":
        return metrics.entity_f1(ours, gold)
    if task.head == "reading":
        return metrics.reading(ours, [[text for text, _ in answers] for answers in gold])
    guesses = [1 / (len(example.options) or labels) for _, example in asked]
    return metrics.accuracy(ours, gold, guesses)
