"""Attention that transformers' models call by name: written out (`eager`), and for packed rows on a CPU (`products`).

`products` is two batched matrix products with a masked softmax between them. Scaling, mask and softmax are compiled
into the layer and become one loop, and queries are taken in blocks that look at no key behind them. Forward and
backward in bf16 took 0.4 of the time of torch's fused CPU kernel at 256, 512 and 1,024 tokens a row (docs/LOG.md); its
price is memory: the weights of all heads are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

#: The name under which transformers' models find this attention.
PRODUCTS = "hanmo_products"
#: The longest row, in tokens, for which the products win.
SHORT = 1024
#: Queries that are taken together. No block looks at keys behind its last query, which saves almost half of the work.
BLOCK = 128


def eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, as transformers calls it: the classes of our own fall back on it, and it shows weights.

    Args:
        query: [rows, heads, length, d].
        key, value: [rows, heads, keys, d].
        attention_mask: [rows, 1, length, keys], 0 where a query sees a key and -inf elsewhere.

    Returns:
        ([rows, length, heads, d], weights [rows, heads, length, keys]); the softmax is taken in fp32 or better.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def products(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        query: [rows, heads, length, d].
        key, value: [rows, groups, keys, d]; heads is a multiple of groups, keys exceeds length behind a cache.
        attention_mask: [rows, 1, length, keys], 0 where a query sees a key and -inf elsewhere.
        kwargs: `is_causal` False (or a module that says so) where queries may look at keys behind them.

    Returns:
        ([rows, length, heads, d], None in place of the weights).
    """
    rows, heads, length, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    # Behind a cache, queries do not start with the keys; and what looks both ways cannot leave the later keys out.
    ahead = causal and keys == length
    block = BLOCK if ahead else length
    outputs = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        seen = stop if ahead else keys
        # The heads that share a key lie one after the other: one product serves them all, and nothing is repeated.
        asked = query[:, :, start:stop].reshape(rows, groups, -1, width)
        scores = asked @ key[:, :, :seen].transpose(2, 3)
        scores = scores.view(rows, groups, heads // groups, stop - start, seen).float() * scaling
        if attention_mask is not None:
            scores = scores + attention_mask[:, :, None, start:stop, :seen]
        weights = scores.softmax(-1).to(value.dtype)
        output = weights.view(rows, groups, -1, seen) @ value[:, :, :seen]
        outputs.append(output.view(rows, heads, stop - start, width))
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(PRODUCTS, products)
AttentionMaskInterface.register(PRODUCTS, eager_mask)
