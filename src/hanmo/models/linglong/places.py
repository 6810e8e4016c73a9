"""What the inputs of one call say about where tokens stand: padding, packed documents, keys of a cache."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

from hanmo.models.linglong.sparse import PADDING, Dense, Pattern, Places, Visible, dense


def behind(
    cache: Cache, past: Any, mask: Tensor | None, stream: Tensor, pattern: Pattern | None
) -> tuple[Tensor, Visible, Visible]:
    """(positions of the queries, what even and odd layers see) where keys of `past` tokens are there already.

    Args:
        mask: [rows, past + length], 0 at padding.
        stream: [rows, length, d], of which only shape, dtype and device are looked at.
    """
    length, device = stream.shape[1], stream.device
    index = torch.arange(cache.get_mask_sizes(length, 0)[0], device=device)[None]
    here = past + torch.arange(length, device=device)[None]
    if mask is None:
        position, segment = index, torch.zeros_like(index)
    else:
        # Keys that a cache of fixed size has room for, and that are not there yet, are behind every query.
        known = F.pad(mask, (0, index.shape[1] - mask.shape[1]), value=1).to(torch.int64)
        position, segment = _padded(known)
        index = index.expand_as(position)
    keys = Places(index, position, segment)
    at = here.expand(position.shape[0], -1)
    queries = Places(at, position.gather(1, at), segment.gather(1, at))
    even = dense(queries, keys, None, stream.dtype)
    return queries.position, even, even if pattern is None else dense(queries, keys, pattern, stream.dtype)


def _padded(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(positions, segments) int64 [rows, length] of rows with padding, which `mask` has zeros for."""
    return (mask.cumsum(1) - 1).clamp(min=0), torch.where(mask > 0, 0, PADDING)


def from_the_start(
    mask: Tensor | None, position_ids: Tensor | None, segment_ids: Tensor | None, length: int
) -> tuple[Tensor | None, Tensor | None]:
    """(positions, segments) of whole rows; both None where every row is one document from its first token on."""
    if mask is not None and mask.dim() != 2:
        raise ValueError(f"attention_mask: wanted [rows, length], given {list(mask.shape)}")
    if mask is not None and not torch.compiler.is_compiling() and bool((mask > 0).all()):
        mask = None
    if segment_ids is not None:
        if mask is not None:
            segment_ids = torch.where(mask > 0, segment_ids, PADDING)
        if position_ids is None:
            place = torch.arange(length, device=segment_ids.device).expand_as(segment_ids)
            begins = torch.ones_like(segment_ids, dtype=torch.bool)
            begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
            position_ids = place - torch.where(begins, place, 0).cummax(1).values
        return position_ids, segment_ids.to(torch.int64)
    if mask is not None:
        position, segment = _padded(mask.to(torch.int64))
        return (position if position_ids is None else position_ids), segment
    if position_ids is None:
        return None, None
    if not torch.compiler.is_compiling():
        place = torch.arange(length, device=position_ids.device)
        if bool((position_ids == place).all()):
            return None, None
    # As elsewhere in transformers: positions that begin anew, without a mask, are documents in one row.
    steps = (position_ids[:, 1:] != position_ids[:, :-1] + 1).cumsum(1)
    return position_ids, F.pad(steps, (1, 0))


def up_to(visible: Visible, keys: int, length: int, stream: Tensor) -> Visible:
    """The same where a cache of fixed size gives more keys than were written: nobody sees them."""
    if keys == length or not isinstance(visible, Dense):
        return visible
    mask = visible.mask
    if mask is None:
        place = torch.arange(length, device=stream.device)[None]
        one = Places(place, place, torch.zeros_like(place))
        mask = dense(one, one, None, stream.dtype).mask
    assert mask is not None
    return Dense(F.pad(mask, (0, keys - length), value=float("-inf")))
