"""Attention heads that look back by a fixed distance from the beginning: to the token before, to the one before that.

What stands one, two or three tokens before is what a small model profits from most beside the token itself, and by
gradients heads find it only after some hundred thousand tokens. With rotary positions it can be set: where all keys are
one vector and all queries another, the score of two places depends on their distance alone. The queries here are the
key turned by the distance that is wanted, so that the score is the highest there.
"""

from __future__ import annotations

import math
from typing import Any

import torch

#: Score of the place that a head looks at above that of far ones, in nats: it gets about 0.8 of the attention, and its
#: neighbours share the rest, so that training can still move it.
SHARP = 32.0


def distances(heads: int) -> list[int]:
    """How far each head of a layer looks back: more than half of them by one token, the others by two, three, ..."""
    near = heads // 2 + 1
    return [1] * near + list(range(2, heads - near + 2))


def look_back(model: Any, layer: int, channel: int) -> None:
    """Set queries and keys of a layer of a Qwen3 so that its heads look back by `distances`.

    Args:
        model: Qwen3ForCausalLM.
        channel: of the residual stream, which is the same number above 0 for all tokens at that layer.
    """
    config, attention = model.config, model.model.layers[layer].self_attn
    size, pairs = config.head_dim, config.head_dim // 2
    speeds = model.model.rotary_emb.inv_freq.float()
    # Slow pairs of channels tell places apart that are far from each other; the fast half of them serves here.
    used = (torch.arange(pairs) < max(1, pairs // 2)).float()
    key = torch.cat([used, torch.zeros(pairs)])
    queries = [
        torch.cat([used * torch.cos(speeds * far), -used * torch.sin(speeds * far)])
        for far in distances(config.num_attention_heads)
    ]
    with torch.no_grad():
        for weight, vector in (
            (attention.q_proj.weight, torch.cat(queries)),
            (attention.k_proj.weight, key.repeat(config.num_key_value_heads)),
        ):
            weight.zero_()
            weight[:, channel] = vector
        # Queries and keys are normalised to a mean square of 1 before these gains.
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight.fill_(math.sqrt(SHARP / math.sqrt(size)))
