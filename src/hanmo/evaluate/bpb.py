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
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from hanmo.errors import HanmoError
from hanmo.evaluate.likelihood import document_nll
from hanmo.models.linglong.generation import pinyin_reader
from hanmo.tokenizer.chat import END_OF_TEXT, encode_text

__all__ = [
    "Scores",
    "Text",
    "bits_per_byte",
    "bootstrap_ratio",
    "compare_bits",
    "document_end",
    "document_nll",
    "figures",
    "score_texts",
    "summarise",
]


@dataclass(frozen=True)
class Text:
    """A held-out document and the source it is counted under."""

    text: str
    source: str = ""


@dataclass(frozen=True)
class Scores:
    """What one model made of each of n documents; all arrays have shape (n,).

    Attributes:
        nats: float64, what the document costs, its closing end-of-text token included.
        sizes: int64, UTF-8 bytes of its text.
        characters: int64.
        tokens: int64, without the end-of-text token.
        sources: what it is counted under.
    """

    nats: np.ndarray
    sizes: np.ndarray
    characters: np.ndarray
    tokens: np.ndarray
    sources: tuple[str, ...]

    def of(self, source: str) -> Scores:
        """The documents of one source."""
        kept = np.array([name == source for name in self.sources])
        return Scores(
            self.nats[kept],
            self.sizes[kept],
            self.characters[kept],
            self.tokens[kept],
            (source,) * int(kept.sum()),
        )


def score_texts(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[Text | str],
    context: int,
    *,
    batch_tokens: int = 4096,
    autocast: torch.dtype | None = None,
) -> Scores:
    """Score documents; plain strings have no source. See `likelihood.sequence_nll` for the model and the options."""
    documents = [Text(item) if isinstance(item, str) else item for item in texts]
    config = getattr(model, "config", None)
    # A model that reads from right to left pays for the same tokens, and the end behind them.
    step = -1 if getattr(config, "backward", False) else 1
    ids = [np.asarray(encode_text(tokenizer, item.text), dtype=np.int64)[::step] for item in documents]
    pinyin_of = pinyin_reader(tokenizer.name_or_path) if getattr(config, "use_pinyin", False) else None
    nats = document_nll(
        model,
        ids,
        context,
        end_of_text=document_end(tokenizer),
        opening=document_opening(model, tokenizer),
        batch_tokens=batch_tokens,
        autocast=autocast,
        pinyin_of=pinyin_of,
    )
    return Scores(
        nats,
        np.array([len(item.text.encode()) for item in documents], dtype=np.int64),
        np.array([len(item.text) for item in documents], dtype=np.int64),
        np.array([len(array) for array in ids], dtype=np.int64),
        tuple(item.source for item in documents),
    )


def bits_per_byte(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[Text | str],
    context: int,
    **options: Any,
) -> dict[str, Any]:
    """Score documents and return the figures of `figures`; `options` are those of `score_texts`.

    Raises:
        HanmoError: there is not one byte of text.
    """
    return figures(score_texts(model, tokenizer, texts, context, **options))


def figures(scores: Scores, bootstrap: int = 1000, seed: int = 7) -> dict[str, Any]:
    """The figures of `summarise` over all documents, and under "sources" by source (those without a byte left out)."""
    parts = {name: scores.of(name) for name in sorted(set(scores.sources))}
    return summarise(scores, bootstrap, seed) | {
        "sources": {name: summarise(part, bootstrap, seed) for name, part in parts.items() if part.sizes.sum()}
    }


def document_opening(model: Any, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The id that a model's documents begin with, where that is not the one that ends them."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return cast("int | None", tokenizer.cls_token_id) if kind == "hanmo_unified" else None


def document_end(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id that stands between documents: our own, or what a foreign tokenizer calls the end of a sequence."""
    for found in (tokenizer.get_vocab().get(END_OF_TEXT), tokenizer.eos_token_id):
        if isinstance(found, int):
            return found
    raise HanmoError(
        f"{tokenizer.name_or_path or 'tokenizer'}: neither {END_OF_TEXT} nor an eos token; "
        "text cannot be scored without a mark for where a document begins"
    )


def summarise(scores: Scores, bootstrap: int = 1000, seed: int = 7) -> dict[str, Any]:
    """One set of figures for all the documents.

    Returns:
        bits_per_byte with its 95 % interval (low, high), bits_per_character, bits_per_token (end-of-text tokens
        counted), characters_per_token and bytes_per_token (not counted), and the counts they come from.

    Raises:
        HanmoError: there is not one byte of text.
    """
    size, length = int(scores.sizes.sum()), int(scores.characters.sum())
    count, documents = int(scores.tokens.sum()), len(scores.nats)
    if not size:
        raise HanmoError("the held-out text is empty: there is nothing to measure bits per byte on")
    bits = scores.nats / math.log(2)
    total = float(bits.sum())
    low, high = bootstrap_ratio(bits, scores.sizes, bootstrap, seed)
    return {
        "bits_per_byte": total / size,
        "low": low,
        "high": high,
        "bits_per_character": total / length,
        "bits_per_token": total / (count + documents),
        "characters_per_token": length / max(count, 1),
        "bytes_per_token": size / max(count, 1),
        "documents": documents,
        "bytes": size,
        "characters": length,
        "tokens": count,
    }


def compare_bits(first: Scores, second: Scores, bootstrap: int = 1000, seed: int = 7) -> dict[str, float]:
    """Bits per byte of the second model less those of the first, on the same documents, with a paired 95 % interval.

    Far narrower than the two models' own intervals suggest: what is hard for one is hard for the other.
    """
    if not np.array_equal(first.sizes, second.sizes):
        raise ValueError("the two models were not scored on the same documents")
    extra = (second.nats - first.nats) / math.log(2)
    low, high = bootstrap_ratio(extra, first.sizes, bootstrap, seed)
    return {"difference": float(extra.sum() / first.sizes.sum()), "low": low, "high": high}


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
