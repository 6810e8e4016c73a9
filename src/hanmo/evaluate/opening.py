"""What many prompts begin with is read once: its keys and values are shared by all of them.

The worked examples in front of every question of an exam are most of the tokens; without this they would be most of the
time, too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

#: A common opening shorter than this is not worth a pass of its own.
SHORTEST = 16


def common(prompts: Sequence[Sequence[int]]) -> int:
    """How many ids all prompts begin with, at least one short of the shortest (each needs an id of its own).

    0 where there is one prompt only, or so little in common that sharing would not pay.
    """
    if len(prompts) < 2:
        return 0
    same = min(map(len, prompts)) - 1
    first = prompts[0]
    for prompt in prompts[1:]:
        same = next((at for at in range(same) if prompt[at] != first[at]), same)
    return same if same >= SHORTEST else 0


def read(model: PreTrainedModel, ids: Sequence[int]) -> DynamicCache:
    """The keys and values of one sequence."""
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.tensor([list(ids)], device=model.device), past_key_values=cache, use_cache=True)
    return cache


def repeated(cache: DynamicCache, rows: int) -> DynamicCache:
    """A copy of a cache of one row for a batch of `rows`."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied
