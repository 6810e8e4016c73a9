"""Which token sees which: the one rule by which a model both fills masks and writes.

With idx the running sum of the token types, a query q sees a key k iff idx[k] <= idx[q]. Types that are all 0 give
attention in both directions (masked language model, understanding), all 1 attention to what is before (causal language
model), and 0 … 0 1 … 1 a prefix that sees itself whole and a continuation that sees what is before it (prefix language
model; the rule of UniLM and of GLM's prefixes, here without a mask that must be stored).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanmo.models.loss import IGNORE


def visible(token_types: Tensor, segment: Tensor | None = None) -> Tensor:
    """Which keys (last axis) a query sees: bool [rows, length, length].

    Args:
        token_types: [rows, length], 0 or 1.
        segment: [rows, length], a number for each packed document; None where a row is one document. That the sum runs
            on from one document to the next changes nothing: within one, it only begins at another number.
    """
    idx = token_types.long().cumsum(-1)
    seen = idx[:, None, :] <= idx[:, :, None]
    if segment is not None:
        seen = seen & (segment[:, None, :] == segment[:, :, None])
    return seen


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """The same as what is added to the scores: [rows, 1, queries, keys], 0 where a key is seen and -inf elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))[:, None]


def segments(position: Tensor) -> Tensor:
    """Numbers of the documents of packed rows by their positions, which begin anew with each: [rows, length]."""
    begins = torch.ones_like(position)
    begins[:, 1:] = (position[:, 1:] != position[:, :-1] + 1).to(position.dtype)
    return begins.cumsum(-1)


def targets(labels: Tensor, token_types: Tensor, segment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(what each place must say of itself, what it must say of the token behind it), `IGNORE` where nothing.

    A token of type 0 sees its own place, so that it can only be filled in where it stands (masked language model). One
    of type 1 is answered by the token before it, which does not see it. A place may have to give both answers: the last
    token of a prefix, when it is masked.

    Args:
        labels: [rows, length], the text's ids where something is to be learned, else `IGNORE`.
        token_types: [rows, length].
        segment: [rows, length]; the first token of a document has none before it.
    """
    here = labels.masked_fill(token_types != 0, IGNORE)
    behind = torch.full_like(labels, IGNORE)
    behind[:, :-1] = labels[:, 1:].masked_fill(token_types[:, 1:] == 0, IGNORE)
    if segment is not None:
        behind[:, :-1].masked_fill_(segment[:, 1:] != segment[:, :-1], IGNORE)
    return here, behind
