"""Bits per byte: how well a model predicts held-out text, in a unit that models with different tokenizers share.

The bits of a document are the sum of -log2 p over all its tokens, the closing end-of-text token included; divided by
the UTF-8 bytes of the text. A model that spends fewer, longer tokens gains nothing by it, so two models may be compared
whatever their vocabularies (perplexity per token cannot). For Chinese, where most characters are three bytes, bits per
character are about three times as large; both are given. How documents are cut into windows: see `likelihood`.

The interval is the 95 % percentile bootstrap over documents: documents are what was drawn, tokens within one are not
independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from hanmo.errors import HanmoError
from hanmo.evaluate.likelihood import document_nll
from hanmo.tokenizer.chat import END_OF_TEXT, encode_text

__all__ = ["Text", "bits_per_byte", "bootstrap_ratio", "document_end", "document_nll", "summarise"]


@dataclass(frozen=True)
class Text:
    """A held-out document and the source it is counted under."""

    text: str
    source: str = ""


def bits_per_byte(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[Text | str],
    context: int,
    *,
    batch_tokens: int = 4096,
    autocast: torch.dtype | None = None,
    bootstrap: int = 1000,
    seed: int = 7,
) -> dict[str, Any]:
    """Score documents and return the figures of `summarise`, in total and under "sources" by source.

    Args:
        model: a causal language model, see `likelihood.sequence_nll`.
        texts: documents; plain strings have no source.
        context: longest input in tokens.

    Raises:
        HanmoError: there is not one byte of text.
    """
    documents = [Text(item) if isinstance(item, str) else item for item in texts]
    ids = [np.asarray(encode_text(tokenizer, item.text), dtype=np.int64) for item in documents]
    nats = document_nll(
        model,
        ids,
        context,
        end_of_text=document_end(tokenizer),
        batch_tokens=batch_tokens,
        autocast=autocast,
    )
    sizes = np.array([len(item.text.encode()) for item in documents], dtype=np.int64)
    characters = np.array([len(item.text) for item in documents], dtype=np.int64)
    tokens = np.array([len(array) for array in ids], dtype=np.int64)

    def part(where: np.ndarray) -> dict[str, Any]:
        return summarise(nats[where], sizes[where], characters[where], tokens[where], bootstrap, seed)

    result = part(np.arange(len(documents)))
    result["context"] = context
    names = sorted({item.source for item in documents})
    belongs = np.array([names.index(item.source) for item in documents])
    result["sources"] = {
        name: part(np.flatnonzero(belongs == index))
        for index, name in enumerate(names)
        if sizes[belongs == index].sum()
    }
    return result


def document_end(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id that stands between documents: our own, or what a foreign tokenizer calls the end of a sequence."""
    for found in (tokenizer.get_vocab().get(END_OF_TEXT), tokenizer.eos_token_id):
        if isinstance(found, int):
            return found
    raise HanmoError(
        f"{tokenizer.name_or_path or 'tokenizer'}: neither {END_OF_TEXT} nor an eos token; "
        "text cannot be scored without a mark for where a document begins"
    )


def summarise(
    nats: np.ndarray,
    sizes: np.ndarray,
    characters: np.ndarray,
    tokens: np.ndarray,
    bootstrap: int = 1000,
    seed: int = 7,
) -> dict[str, Any]:
    """Figures of a set of documents from arrays with one entry per document.

    Args:
        nats: what each document costs; sizes: UTF-8 bytes; characters; tokens without the end-of-text token.

    Returns:
        bits_per_byte with its 95 % interval (low, high), bits_per_character, bits_per_token (end-of-text tokens
        counted), characters_per_token and bytes_per_token (not counted), and the counts they come from.
    """
    total, size, length, count = float(nats.sum()), int(sizes.sum()), int(characters.sum()), int(tokens.sum())
    if not size:
        raise HanmoError("the held-out text is empty: there is nothing to measure bits per byte on")
    bits = total / math.log(2)
    low, high = bootstrap_ratio(nats / math.log(2), sizes, bootstrap, seed)
    return {
        "bits_per_byte": bits / size,
        "low": low,
        "high": high,
        "bits_per_character": bits / length,
        "bits_per_token": bits / (count + len(nats)),
        "characters_per_token": length / max(count, 1),
        "bytes_per_token": size / max(count, 1),
        "documents": len(nats),
        "bytes": size,
        "characters": length,
        "tokens": count,
    }


def bootstrap_ratio(above: np.ndarray, below: np.ndarray, resamples: int = 1000, seed: int = 7) -> tuple[float, float]:
    """95 % percentile interval of sum(above) / sum(below) over documents drawn with replacement.

    One document alone, or a resample without a byte, says nothing about spread: the interval is then the value itself.
    """
    count = len(above)
    generator = np.random.default_rng(seed)
    ratios = []
    for _ in range(resamples):
        drawn = generator.integers(0, count, count)
        if bottom := below[drawn].sum():
            ratios.append(above[drawn].sum() / bottom)
    if not ratios:
        value = float(above.sum() / below.sum())
        return value, value
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)
