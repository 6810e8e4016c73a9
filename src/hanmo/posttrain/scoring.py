"""Log-probabilities of labels, computed only where a label counts.

TRL asks a model for `model(..., labels=labels, fused_lm_head=True)` and makes its losses from the log-probabilities
that come back. Its own head projects every position onto the vocabulary, prompts and padding included (but for CUDA);
the one here projects the assistant's words alone, on every device. It also drops the attention mask: rows are padded on
the right and attention is causal, so no word ever sees the padding, and the fast attention kernels take no mask.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from hanmo.posttrain.encode import IGNORE

#: Logits held at a time (256 MB); more than that is done in parts, each computed again for its gradient.
_LOGITS = 1 << 26


def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Score `targets` under the softmax of `hidden @ weight.T`.

    Args:
        hidden: [N, d] any float dtype (products run in autocast's).
        weight: [V, d].
        targets: [N] int64 below V.

    Returns:
        log-probabilities in nats, and without gradient the entropy, whether the target is the most likely token, and
        the mean logit; each [N], in fp32 (the third bool).
    """
    return score_logits(F.linear(hidden, weight).float(), targets)


def score_logits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`score` of logits [N, V] that are there already."""
    log_probs = logits.log_softmax(-1)
    picked = log_probs.gather(-1, targets[:, None])[:, 0]
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        top = logits.argmax(-1) == targets
        mean = logits.mean(-1)
    return picked, entropy, top, mean


class Lesson(Protocol):
    """What else than the labels a model learns by, in training."""

    def read(self, where: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """States [N, any] at the flat places `where` of [batch, length - 1], from the inputs of the model's body."""
        ...

    def score(self, hidden: Tensor, weight: Tensor, targets: Tensor, read: Tensor) -> tuple[Tensor, ...]:
        """As `score`, with the negative loss of each token in place of its log-probability."""
        ...


def states_at(body: Callable[..., Any], where: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Last hidden states [N, d] of a model's body at flat places of [batch, length - 1]."""
    return body(*args, **kwargs).last_hidden_state[:, :-1].flatten(0, 1).index_select(0, where)


def score_in_parts(
    judge: Callable[..., tuple[Tensor, ...]], hidden: Tensor, weight: Tensor, targets: Tensor, *more: Tensor
) -> tuple[Tensor, ...]:
    """`judge` (`score`, or a lesson's) with at most `_LOGITS` logits held at a time."""
    chunk = max(1, _LOGITS // weight.shape[0])
    if len(targets) <= chunk:
        return judge(hidden, weight, targets, *more)
    parts = [
        checkpoint(judge, part, weight, *others, use_reentrant=False)
        for part, *others in zip(*(one.split(chunk) for one in (hidden, targets, *more)), strict=True)
    ]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def use_label_scoring(model: PreTrainedModel, lesson: Lesson | None = None) -> None:
    """Make `model(..., fused_lm_head=True)` score labels as this module does; to be called after a trainer of TRL's is
    made, which patches the model itself.

    Labels are [batch, length] with `IGNORE`; every per-token output is [batch, length - 1], zero where nothing counts.
    """
    own_forward = model.forward

    # The signature stays the model's own: `generate` checks its arguments against it.
    @functools.wraps(type(model).forward)
    def forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return own_forward(*args, **kwargs)
        kwargs.pop("attention_mask", None)
        labels = kwargs.pop("labels")[:, 1:]
        counts = labels != IGNORE
        where = counts.flatten().nonzero()[:, 0]
        picked = states_at(self.base_model, where, *args, **kwargs)
        judge: Callable[..., Any] = score
        more: list[Tensor] = []
        if lesson is not None and self.training:
            judge, more = lesson.score, [lesson.read(where, *args, **kwargs)]
        targets = labels.flatten().index_select(0, where)
        weight = self.get_output_embeddings().weight  # type: ignore[union-attr]
        columns = score_in_parts(judge, picked, weight, targets, *more)
        log_probs, entropy, top, mean = (
            column.new_zeros(counts.numel()).index_put((where,), column).view(counts.shape) for column in columns
        )
        loss = -log_probs.sum() / counts.sum().clamp(min=1)
        return FusedCausalLMOutput(
            loss=loss, log_probs=log_probs, entropy=entropy, is_top1=top, mean_logits=mean, label_mask=counts
        )

    model.forward = types.MethodType(forward, model)


def sequence_log_probs(model: PreTrainedModel, rows: list[tuple[list[int], list[int]]], pad: int) -> Tensor:
    """Sum of the log-probabilities of each row's labels, without gradient.

    Args:
        rows: (ids, labels with `IGNORE`) of one batch, any lengths.
        pad: the id to pad with.

    Returns:
        [len(rows)] fp32 on the CPU, in nats.
    """
    ids, labels, _ = pad_rows(rows, pad)
    with torch.no_grad():
        output = model(
            input_ids=ids.to(model.device), labels=labels.to(model.device), use_cache=False, fused_lm_head=True
        )
    return output.log_probs.sum(-1).float().cpu()


def pad_rows(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad (ids, labels) rows on the right to [rows, longest]; returns ids, labels, mask of real tokens, all int64."""
    longest = max(len(ids) for ids, _ in rows)
    tokens = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORE)
    real = torch.zeros((len(rows), longest), dtype=torch.int64)
    for index, (ids, targets) in enumerate(rows):
        tokens[index, : len(ids)] = torch.tensor(ids)
        labels[index, : len(ids)] = torch.tensor(targets)
        real[index, : len(ids)] = 1
    return tokens, labels, real
