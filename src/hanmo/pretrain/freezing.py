"""Parts of a model that are not to change.

A frozen weight is not given to any optimiser, gets no gradient, and is the same to the bit when the run ends. Nothing
is computed for it that can be left out: autograd stops below the lowest part that learns, and the fused loss leaves out
the gradient of a frozen head.
"""

from __future__ import annotations

from typing import Any

from hanmo.console import console, human_count
from hanmo.errors import HanmoError
from hanmo.models.parts import chosen, modules_of


def freeze(model: Any, patterns: list[str]) -> int:
    """Take the parts that `patterns` name (see `hanmo.models.parts`) out of training; returns how many numbers that is.

    Raises:
        HanmoError: a pattern names no part, nothing is left to train, or a head is tied to the embeddings.
    """
    if not patterns:
        return 0
    modules = modules_of(model)
    names = chosen(patterns, modules, "freeze")
    embedded = {id(p) for module in modules["embeddings"] for p in module.parameters()}
    for name in names:
        weights = [p for module in modules[name] for p in module.parameters()]
        if name == "head":
            weights = [p for p in weights if id(p) not in embedded]
            if not weights:
                raise HanmoError(
                    "freeze: this model's head is its input embedding (tied); freeze embeddings, or leave head out"
                )
        for weight in weights:
            weight.requires_grad_(False)
    still = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    if still == total:
        raise HanmoError("freeze: nothing is left to train; name fewer parts")
    listed = ", ".join(patterns)
    console.print(f"frozen: {human_count(still)} of {human_count(total)} parameters ({listed})", markup=False)
    return still
