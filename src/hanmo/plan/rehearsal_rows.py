"""A step of the pretraining engine on labelled rows, rehearsed as `hanmo.plan.rehearsal` does it for TRL's trainers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

from hanmo.models.families import AUTO
from hanmo.plan.rehearsal import Alive, Batch, Rehearsed, give_storage
from hanmo.pretrain.loading import without_dropout
from hanmo.pretrain.steps import step_of
from hanmo.tokens.order import Read, Rows

#: What was rehearsed before.
_seen: dict[tuple[Any, ...], Rehearsed] = {}


class _Counted(Alive):
    """Says how many places are not zero, which hangs on numbers."""

    def __init__(self, learnt: int) -> None:
        super().__init__()
        self._learnt = learnt

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default:
            func, args, kwargs = torch.ops.aten.new_zeros.default, (args[0], (self._learnt, args[0].dim())), {}
            kwargs = {"dtype": torch.int64}
        return super().__torch_dispatch__(func, types, args, kwargs)


def rehearse_rows(
    config: Any, objective: str, batch: Batch, dtype: torch.dtype, recompute: bool, accumulates: bool
) -> Rehearsed:
    """Go through a step of `hanmo.posttrain.own`, and through a look at held-out rows.

    Args:
        objective: what such models learn.
        batch: of full rows.
    """
    key = (config.to_json_string(), objective, batch, dtype, recompute, accumulates)
    if key not in _seen:
        _seen[key] = _rehearse(config, objective, batch, dtype, recompute, accumulates)
    return _seen[key]


def _rehearse(
    config: Any, objective: str, batch: Batch, dtype: torch.dtype, recompute: bool, accumulates: bool
) -> Rehearsed:
    with torch.device("meta"):
        model: Any = getattr(transformers, AUTO[objective]).from_config(copy.deepcopy(config), dtype=torch.float32)
    without_dropout(model)
    shape = (batch.rows, batch.length)
    numbers, segment = np.zeros(shape, np.int64), np.zeros(shape, np.int32)
    rows = Rows(
        numbers,
        numbers,
        segment,
        segment,
        types=numbers if objective == "unified" else None,
        read=Read(numbers, segment, segment) if objective == "spans" else None,
        pinyin=numbers if getattr(config, "use_pinyin", False) else None,
    )
    learnt = max(1, round(batch.learnt * batch.rows * batch.length))
    with FakeTensorMode(allow_non_fake_inputs=True), _Counted(learnt) as alive:
        give_storage(model.train())
        weights = alive.now
        step = step_of(model, objective)(model, dtype, compiled=False, context=batch.length, recompute=recompute)
        parameters = list(model.parameters())
        for parameter in parameters:
            if accumulates:
                parameter.grad = torch.zeros_like(parameter)
        alive.peak = before = alive.now
        loss: Any = step.loss(rows)
        kept = alive.now - before
        loss.backward()
        peak = alive.peak - weights
        del loss
        for parameter in parameters:
            parameter.grad = None
        alive.peak = start = alive.now
        with torch.no_grad():
            step.loss(rows)
        count = sum(parameter.numel() for parameter in parameters)
        return Rehearsed(weights, count, count, peak, kept, alive.peak - start)
