"""Attention over packed rows on a CPU, as two batched matrix products with a masked softmax between them.

torch's fused CPU kernel is made for long rows. At 256 tokens a row the products, compiled into the layer so that
scaling, mask and softmax become one loop, train a small decoder 1.2 times as fast (docs/LOG.md).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

#: The name under which transformers' models find this attention.
PRODUCTS = "hanmo_products"
#: The longest row, in tokens, for which the products win.
SHORT = 320


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

    Returns:
        ([rows, length, heads, d], None in place of the weights).
    """
    rows, heads, length, width = query.shape
    groups = key.shape[1]
    # The heads that share a key lie one after the other: one product serves them all, and nothing is repeated.
    scores = query.reshape(rows, groups, -1, width) @ key.transpose(2, 3)
    scores = scores.view(rows, groups, heads // groups, length, -1).float() * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None]
    weights = scores.softmax(-1).to(value.dtype)
    output = weights.view(rows, groups, -1, key.shape[2]) @ value
    return output.view(rows, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(PRODUCTS, products)
AttentionMaskInterface.register(PRODUCTS, eager_mask)
