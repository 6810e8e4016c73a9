"""Causal attention for short rows on a CPU, as two batched matrix products.

torch's fused attention kernel is made for long rows: forward and backward of 32 rows of 85 tokens (4 heads of 64, bf16,
one thread) took it 42 ms, the plain products 12 ms; at 512 tokens the kernel wins. Dialogues are short, so rows up to
`SHORT` take the products and longer ones torch's kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: The name under which models find this attention.
NAME = "hanmo_short_rows"
#: The longest row, in tokens, that is computed by plain products.
SHORT = 320


def short_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it; whatever is not the plain causal case goes to torch's kernel.

    Args:
        query: [rows, heads, length, d].
        key, value: [rows, key-value heads, length, d], the heads a multiple of the key-value heads.
        attention_mask: None for causal attention within rows.

    Returns:
        [rows, length, heads, d], and None in place of the weights.
    """
    rows, heads, length, width = query.shape
    plain = attention_mask is None and dropout == 0.0 and key.shape[2] == length and 1 < length <= SHORT
    if not plain:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    groups, share = key.shape[1], heads // key.shape[1]
    # The query heads that share a key head lie one after the other: one product serves them all, nothing is repeated.
    queries = query.reshape(rows * groups, share * length, width)
    keys, values = key.reshape(rows * groups, length, width), value.reshape(rows * groups, length, width)
    future = torch.full((length, length), float("-inf"), dtype=queries.dtype, device=query.device).triu(1)
    mask = future.repeat(share, 1).expand(rows * groups, share * length, length)
    scale = width**-0.5 if scaling is None else scaling
    scores = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=scale)
    output = torch.bmm(scores.softmax(-1), values)
    return output.view(rows, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, short_rows)
AttentionMaskInterface.register(NAME, sdpa_mask)
