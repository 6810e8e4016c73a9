"""A vector for a text: the last hidden states of its tokens, pooled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from hanmo.models.parts import modules_of
from hanmo.models.states import LENGTHS, hidden


def pooled(model: Any, tokenizer: Any, texts: Sequence[str], pooling: str) -> tuple[list[list[float]], int]:
    """A vector for each text, and how many tokens all of them have.

    Args:
        model: a loaded transformers model; its tokenizer.
        texts: each by itself, as the tokenizer encodes it.
        pooling: "mean" of all tokens, the "last" one's (what a decoder knows of the whole text is there), or the
            "first" one's (an encoder's [CLS]).

    Returns:
        Vectors as wide as the model, of length 1.

    Raises:
        HanmoError: a text without a token, or longer than the context.
    """
    parts = modules_of(model)
    layers = [name for name in parts if re.fullmatch(r"layers\.[0-9]+", name)]
    # BERT's layers end with a norm of their own.
    last = "norm" if "norm" in parts else max(layers, key=lambda name: int(name.partition(".")[2]))
    found = hidden(model, texts, [last], tokenizer=tokenizer, device=str(model.device))
    states, lengths = found[last], found[LENGTHS]
    if pooling == "mean":
        vectors = states.sum(1) / lengths[:, None]
    elif pooling == "last":
        vectors = states[torch.arange(len(texts)), lengths - 1]
    else:
        vectors = states[:, 0]
    return F.normalize(vectors, dim=-1).tolist(), int(lengths.sum())
