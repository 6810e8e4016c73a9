"""Beam search, by transformers' own `generate`: several answers are followed side by side and the likeliest wins."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from hanmo.errors import HanmoError
from hanmo.serve.sampling import Sampling


class _OnlyTokens(LogitsProcessor):
    """Rows of the embedding that are no tokens are never chosen."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, self._vocab_size :] = -torch.inf
        return scores


class _Cancelled(StoppingCriteria):
    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._cancel.is_set(), dtype=torch.bool, device=input_ids.device)


def likeliest(
    model: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    most: int,
    vocab_size: int,
    stop_ids: frozenset[int],
    cancel: threading.Event,
) -> list[int]:
    """The ids of the likeliest answer that `sampling.beams` beams find, with the id that ends it if one does.

    Args:
        most: tokens of the answer, at most.
        vocab_size: only ids below it may be chosen.
        cancel: ends the search after the step being computed.

    Raises:
        HanmoError: out of memory.
    """
    wanted = GenerationConfig(
        num_beams=sampling.beams,
        do_sample=False,
        max_new_tokens=most,
        length_penalty=sampling.length_penalty,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=min(stop_ids, default=0),
    )
    ids = torch.tensor([prompt], device=model.device)
    try:
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=wanted,
                logits_processor=LogitsProcessorList([_OnlyTokens(vocab_size)]),
                stopping_criteria=StoppingCriteriaList([_Cancelled(cancel)]),
            )
    except (torch.OutOfMemoryError, MemoryError):
        raise HanmoError(f"out of memory with {sampling.beams} beams; take fewer, or a smaller --context") from None
    return found[0, len(prompt) :].tolist()
