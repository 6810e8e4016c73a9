"""Attention over packed documents on CUDA: torch's variable-length flash attention, which takes no mask.

All rows of a micro-batch are one long sequence, cut where documents begin; the kernel works on each stretch alone, so
that nothing is computed between documents and the cost falls with their length. It needs half precision and an
Ampere device or newer; elsewhere the step takes scaled-dot-product attention with a mask.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: The name under which transformers' models find this attention.
VARLEN = "hanmo_varlen"

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None  # type: ignore[assignment]


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel runs there."""
    if varlen_attn is None or device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def boundaries(position: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where documents begin in all rows laid end to end, and the end of the last: int32 [n].

    Args:
        position: [rows, context], 0 at the first token of each piece of a document.

    The number of documents differs from batch to batch, and a compiled step wants shapes that do not: the list is
    filled up with empty documents at the end, to a power of two.
    """
    starts = np.flatnonzero(position.reshape(-1) == 0)
    size = 1 << max(5, len(starts).bit_length())
    found = np.full(size, position.size, np.int32)
    found[: len(starts)] = starts
    return found


#: What this release of torch lets the kernel be told.
_KNOWN = frozenset(inspect.signature(varlen_attn).parameters) if varlen_attn else frozenset()
_CAUSAL: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in _KNOWN else {"is_causal": True}


def varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it; `attention_mask` holds `boundaries` where documents are packed.

    Args:
        query: [rows, heads, length, d].
        key, value: [rows, groups, length, d]; heads is a multiple of groups.
        attention_mask: int32 [n]; with any other mask (when text is generated) torch's own attention does the work.

    Returns:
        ([rows, length, heads, d], None in place of the weights).
    """
    if attention_mask is None or attention_mask.dim() != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    rows, heads, length, width = query.shape
    options = dict(_CAUSAL)
    if key.shape[1] != heads:
        if "enable_gqa" in _KNOWN:
            options["enable_gqa"] = True
        else:
            key, value = (item.repeat_interleave(heads // item.shape[1], 1) for item in (key, value))
    asked, keys, values = (item.transpose(1, 2).reshape(rows * length, -1, width) for item in (query, key, value))
    if "scale" in _KNOWN:
        options["scale"] = scaling
    else:
        asked = asked * (scaling * width**0.5)  # the kernel divides by the square root of the width
    output = varlen_attn(asked, keys, values, attention_mask, attention_mask, length, length, **options)  # type: ignore[misc]
    return output.view(rows, length, heads, width), None  # type: ignore[union-attr]


AttentionInterface.register(VARLEN, varlen)
AttentionMaskInterface.register(VARLEN, sdpa_mask)
