"""Which keys a query sees, and sparse attention that computes only those.

A text is cut into blocks of `stride` tokens. Dense layers are causal; in sparse ones a query sees its own block and the
last `columns` tokens of every earlier block, of both only what stands before it and itself (the strided and fixed
patterns of Child et al. 2019, arXiv:1904.10509, in one head).

Blocks are counted from the start of each document, not of the row: a document in a packed row is then cut exactly as
it is when it stands alone, and so is a text that is padded on its left.

The sparse form is a regrouping: `stride` queries at a time become a batch of their own, with the keys of their block
and the chosen columns of the row behind one another, and any attention function of transformers does the rest with one
softmax over both. So a query has about stride + columns * length / stride keys instead of `length`. Where documents do
not begin at multiples of the stride, a group of queries gets the keys of the group before it as well, since its blocks
may begin there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Segment of padding: it sees padding alone (so that no query is left without keys), and nothing else sees it.
PADDING = -1


@dataclass(frozen=True)
class Pattern:
    """The blocks of sparse layers: `stride` tokens each, of which later blocks see the last `columns`."""

    stride: int
    columns: int


@dataclass(frozen=True)
class Dense:
    """Keys that a layer's queries see, all in one product.

    Attributes:
        mask: [rows or 1, 1, queries, keys], 0 where a query sees a key and -inf elsewhere; None: all up to itself.
    """

    mask: Tensor | None


@dataclass(frozen=True)
class Blocks:
    """Keys that a layer's queries see, in groups of `stride` queries.

    Attributes:
        stride: queries in a group.
        window: groups of which a query has all keys before it: its own (1), or the one before as well (2).
        chosen: places in the row of the columns, int64 [columns], or [rows, columns] where they differ.
        mask: [rows * groups, 1, stride, window * stride + columns], 0 or -inf.
    """

    stride: int
    window: int
    chosen: Tensor
    mask: Tensor


Visible = Dense | Blocks
#: An attention function of transformers, with all that it needs beside queries, keys, values and the mask.
Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Places:
    """Where tokens stand, each [rows or 1, tokens] int64.

    Attributes:
        index: place in the row.
        position: place in its document, from 0.
        segment: documents of a row differ in it; `PADDING` belongs to none.
    """

    index: Tensor
    position: Tensor
    segment: Tensor


def seen(queries: Places, keys: Places, pattern: Pattern | None) -> Tensor:
    """Whether queries see keys, bool, by broadcasting of their places; `pattern` is that of a sparse layer."""
    found = (keys.segment == queries.segment) & (keys.index <= queries.index)
    if pattern is None:
        return found
    own = keys.position // pattern.stride == queries.position // pattern.stride
    return found & (own | (keys.position % pattern.stride >= pattern.stride - pattern.columns))


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `visible`, -inf elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def dense(queries: Places, keys: Places, pattern: Pattern | None, dtype: torch.dtype) -> Dense:
    """The plain form: a mask over all pairs.

    Sparse layers take it behind a cache, where queries are few, and are compared with it in tests.
    """
    across = Places(*(item[:, :, None] for item in (queries.index, queries.position, queries.segment)))
    along = Places(*(item[:, None, :] for item in (keys.index, keys.position, keys.segment)))
    return Dense(additive(seen(across, along, pattern), dtype)[:, None])


def orderly(places: Places) -> Tensor:
    """Whether every document stands in one piece with positions from 0 on, which `blocks` needs; bool []."""
    position, segment = places.position, places.segment
    first = torch.ones_like(position[:, :1], dtype=torch.bool)
    begins = torch.cat([first, segment[:, 1:] != segment[:, :-1]], 1)
    previous = torch.cat([position[:, :1], position[:, :-1]], 1)
    return (torch.where(begins, position == 0, position == previous + 1) | (segment == PADDING)).all()


def aligned_blocks(length: int, rows: int, pattern: Pattern, dtype: torch.dtype, device: torch.device) -> Blocks:
    """Groups of rows that hold one document each from their first token on."""
    groups = -(-length // pattern.stride)
    place = torch.arange(groups * pattern.stride, device=device).view(groups, pattern.stride)
    # The last block has none behind it that could look back at its columns.
    chosen = place[:-1, -pattern.columns :].flatten()
    local = torch.ones(pattern.stride, pattern.stride, dtype=torch.bool, device=device).tril()
    earlier = (chosen < place[:, :1])[:, None].expand(-1, pattern.stride, -1)
    mask = additive(torch.cat([local.expand(groups, -1, -1), earlier], 2), dtype)
    return Blocks(pattern.stride, 1, chosen, mask.repeat(rows, 1, 1)[:, None])


def packed_blocks(places: Places, pattern: Pattern, dtype: torch.dtype) -> Blocks:
    """Groups of rows in which documents begin anywhere; see `orderly` for what they must be."""
    stride, length = pattern.stride, places.position.shape[1]
    rows, groups = places.position.shape[0], -(-length // stride)
    short = groups * stride - length
    position, segment = F.pad(places.position, (0, short)), F.pad(places.segment, (0, short), value=PADDING)
    # So many columns at most: the last few of each whole block, and blocks do not overlap.
    count = min(groups * pattern.columns, length)
    is_column = (position % stride >= stride - pattern.columns) & (segment != PADDING)
    chosen = is_column.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]

    place = torch.arange(groups * stride, device=position.device).view(1, groups, stride)
    keys = torch.cat([place - stride, place], 2).expand(rows, -1, -1)
    here = keys.clamp(min=0)

    def at(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index.flatten(1)).view(index.shape)

    asking = Places(place[..., None], *(item.view(rows, groups, stride, 1) for item in (position, segment)))
    near = Places(keys[:, :, None], at(position, here)[:, :, None], at(segment, here)[:, :, None])
    own = near.position // stride == asking.position // stride
    local = seen(asking, near, None) & own & (near.index >= 0)
    far = Places(*(item[:, None, None] for item in (chosen, at(position, chosen), at(segment, chosen))))
    earlier = far.position // stride < asking.position // stride
    distant = seen(asking, far, None) & earlier & at(is_column, chosen)[:, None, None]
    mask = additive(torch.cat([local, distant], 3).flatten(0, 1), dtype)
    return Blocks(stride, 2, chosen, mask[:, None])


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Visible, attention: Attention) -> Tensor:
    """Attention of one layer.

    Args:
        query, key, value: [rows, heads, length, d]; keys may be more than queries where `visible` is dense.
        attention: what computes it, as (query, key, value, mask) -> [rows, queries, heads, d].

    Returns:
        [rows, length, heads, d].
    """
    if isinstance(visible, Dense):
        return attention(query, key, value, visible.mask)
    rows, heads, length, width = query.shape
    keys, values = _keys(key, value, visible)
    found = attention(_groups(query, visible.stride).flatten(0, 1).transpose(1, 2), keys, values, visible.mask)
    return found.reshape(rows, -1, heads, width)[:, :length]


def _groups(given: Tensor, stride: int) -> Tensor:
    """[rows, heads, length, d] -> [rows, groups, stride, heads, d]; zeros fill the last group up."""
    rows, heads, length, width = given.shape
    given = given.transpose(1, 2)
    if short := -length % stride:
        given = F.pad(given, (0, 0, 0, 0, 0, short))
    return given.reshape(rows, -1, stride, heads, width)


def _keys(key: Tensor, value: Tensor, visible: Blocks) -> list[Tensor]:
    """Keys and values of every group, each [rows * groups, heads, window * stride + columns, d]."""
    found = []
    for given in (key, value):
        groups = _groups(given, visible.stride)
        rows, count, stride, heads, width = groups.shape
        flat = groups.reshape(rows, count * stride, heads, width)
        if visible.chosen.dim() == 1:
            columns = flat.index_select(1, visible.chosen)
        else:
            base = torch.arange(rows, device=flat.device)[:, None] * (count * stride)
            columns = flat.flatten(0, 1).index_select(0, (visible.chosen + base).flatten())
            columns = columns.view(rows, -1, heads, width)
        parts = [groups, columns[:, None].expand(-1, count, -1, -1, -1)]
        if visible.window == 2:
            parts.insert(0, F.pad(groups, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1])
        found.append(torch.cat(parts, 2).flatten(0, 1).transpose(1, 2))
    return found
