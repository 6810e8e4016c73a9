"""The negative log-likelihood a causal model gives to token sequences: exact, batched, in bounded memory.

Everything that scores text stands on `sequence_nll`: it takes rows of token ids and says for each row how many nats the
tokens from a given place on cost. `document_nll` cuts documents into such rows, so that every token is paid for once:

* a document is `<|endoftext|> t1 ... tn <|endoftext|>`, as it stands in the packed training stream; the first token
  is conditioned on the end-of-text token, and the end of the document is itself predicted;
* what fits into the context is one row. A longer document is cut into windows of `context` tokens that advance by half
  a window; each window pays only for the tokens that no window before it has paid for, so that every token but those of
  the first half-window is predicted from at least half a window of text.

Rows are padded on the right. Under causal attention nothing looks to the right, so the padding changes no value and no
mask is needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hanmo.models.linglong.generation import PinyinOf

#: Logits of a whole batch and of the slice whose loss is taken at once, in floats (256 MB, and 16 MB: near the cache).
_LOGITS = 1 << 26
_SLICE = 1 << 22


@dataclass(frozen=True)
class Row:
    """Token ids of one window, int64 (n,); tokens at `start` and behind it are paid for, by sequence `owner`.

    `pinyin` are their pinyin ids, int64 (n,), for models that have them.
    """

    ids: np.ndarray
    start: int
    owner: int
    pinyin: np.ndarray | None = None


def windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Cut `length` predictions into windows of at most `context`: yields (begin, end, first paid), half-open.

    The paid ranges [first paid, end) cover 0..length once and in order. The last window is moved back so that it, too,
    is full.
    """
    if length <= context:
        yield 0, length, 0
        return
    yield 0, context, 0
    paid, step = context, max(1, context // 2)
    while paid < length:
        end = min(paid + step, length)
        yield end - context, end, paid
        paid = end


def document_rows(
    ids: Sequence[int] | np.ndarray,
    context: int,
    end_of_text: int,
    owner: int,
    opening: int | None = None,
    pinyin_of: PinyinOf | None = None,
) -> list[Row]:
    """The rows that score one document (ids without end-of-text tokens), each of at most context + 1 ids.

    Pinyin is read in the whole document, as in training.

    Args:
        opening: the id that documents begin with, where that is another one.
    """
    framed = np.empty(len(ids) + 2, dtype=np.int64)
    framed[0], framed[-1] = end_of_text if opening is None else opening, end_of_text
    framed[1:-1] = ids
    # Prediction k is of framed[k + 1] from framed[.. k]; a window of predictions [a, b) needs framed[a .. b].
    readings = np.asarray(pinyin_of(framed.tolist()), np.int64) if pinyin_of else None
    return [
        Row(framed[begin : end + 1], paid - begin + 1, owner, None if readings is None else readings[begin : end + 1])
        for begin, end, paid in windows(len(framed) - 1, context)
    ]


def sequence_nll(
    model: torch.nn.Module,
    rows: Sequence[Row],
    owners: int,
    *,
    batch_tokens: int = 4096,
    autocast: torch.dtype | None = None,
) -> np.ndarray:
    """Sum over each owner's rows of -ln p(token | tokens before it in the row), for the paid tokens.

    Args:
        model: called as `model(input_ids=(batch, length) int64)`; returns logits, or an object with `.logits`, of shape
            (batch, length, vocabulary). Its training mode is put back afterwards.
        rows: every row at least two ids long, with 1 <= start < len(ids).
        owners: number of sequences that rows may belong to.
        batch_tokens: ids per forward pass (one row at least).
        autocast: dtype for the arithmetic of the model; None keeps the dtype of its weights.

    Returns:
        float64 (owners,), in nats.
    """
    device = next(model.parameters()).device
    vocabulary = int(getattr(getattr(model, "config", None), "vocab_size", 0) or 1)
    # One token never holds more than a row of logits; keep the whole batch of them within bounds.
    batch_tokens = max(1, min(batch_tokens, _LOGITS // vocabulary))
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    total = np.zeros(owners, dtype=np.float64)
    was_training = model.training
    model.eval()
    try:
        # Not inference_mode: tensors a model caches there could not take part in training afterwards.
        with torch.no_grad():
            for batch in _batches(rows, batch_tokens):
                with torch.autocast(device.type, dtype=autocast) if autocast else nullcontext():
                    losses = _batch_losses(model, batch, device, keeps)
                for row, loss in zip(batch, losses.tolist(), strict=True):
                    total[row.owner] += loss
    finally:
        model.train(was_training)
    return total


def document_nll(
    model: torch.nn.Module,
    documents: Sequence[Sequence[int] | np.ndarray],
    context: int,
    *,
    end_of_text: int = 0,
    opening: int | None = None,
    batch_tokens: int = 4096,
    autocast: torch.dtype | None = None,
    pinyin_of: PinyinOf | None = None,
) -> np.ndarray:
    """Nats that each document costs, its closing end-of-text token included. See the module for the windows.

    Args:
        documents: token ids without end-of-text tokens, one array per document; may be empty arrays.
        context: longest input in tokens.
        opening: the id that documents begin with, where that is not `end_of_text`.
        pinyin_of: the rule of models with pinyin.

    Returns:
        float64 (len(documents),): document i has len(documents[i]) + 1 predicted tokens.
    """
    rows = [
        row
        for owner, ids in enumerate(documents)
        for row in document_rows(ids, context, end_of_text, owner, opening, pinyin_of)
    ]
    return sequence_nll(model, rows, len(documents), batch_tokens=batch_tokens, autocast=autocast)


def _batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows of like length and like start together, longest first (what does not fit in memory fails at once)."""
    ordered = sorted(rows, key=lambda row: (row.start > 1, len(row.ids), row.start), reverse=True)
    batch: list[Row] = []
    for row in ordered:
        widest = max(len(batch[0].ids), len(row.ids)) if batch else len(row.ids)
        if batch and (widest * (len(batch) + 1) > batch_tokens or (batch[0].start > 1) != (row.start > 1)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _batch_losses(model: torch.nn.Module, batch: list[Row], device: torch.device, keeps: bool) -> torch.Tensor:
    """float64 (len(batch),): nats of each row."""
    width = max(len(row.ids) for row in batch)
    ids = np.zeros((len(batch), width), dtype=np.int64)
    paid = np.zeros((len(batch), width - 1), dtype=bool)
    for index, row in enumerate(batch):
        ids[index, : len(row.ids)] = row.ids
        paid[index, row.start - 1 : len(row.ids) - 1] = True
    inputs = torch.from_numpy(ids).to(device)
    readings = np.zeros_like(ids)
    for index, row in enumerate(batch):
        if row.pinyin is not None:
            readings[index, : len(row.ids)] = row.pinyin
    # Only the columns from the first paid one on need logits: half of the work of the last layer in later windows.
    first = int(paid.any(axis=0).argmax())
    kept = width - 1 - first
    options: dict[str, Any] = {"logits_to_keep": kept} if keeps else {}
    if batch[0].pinyin is not None:
        options["pinyin_ids"] = torch.from_numpy(readings[:, :-1]).to(device)
    outputs = model(input_ids=inputs[:, :-1], **options)
    logits: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
    logits = logits[:, -kept:]
    mask = torch.from_numpy(paid[:, first:]).to(device)
    targets = inputs[:, 1 + first :]
    losses = torch.zeros(mask.shape, dtype=torch.float32, device=device)
    rows = max(1, _SLICE // (kept * logits.shape[-1]))
    for at in range(0, len(batch), rows):
        part = logits[at : at + rows].float().flatten(0, 1)
        goal = targets[at : at + rows].flatten()
        losses[at : at + rows] = F.cross_entropy(part, goal, reduction="none").view(-1, kept)
    # Padding is masked by choice, not by multiplication: a NaN there would survive a product with zero.
    return losses.masked_fill(~mask, 0.0).cpu().double().sum(dim=1)
