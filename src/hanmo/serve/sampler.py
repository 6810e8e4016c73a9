"""How the next token is chosen: one rule, written once, for every engine.

An engine gives logits; `Sampler` turns them into a token. Since both engines use this same code, a seed means the same
thing in both, and greedy decoding differs only where the logits themselves do. The steps stand in the order of
transformers: penalties, temperature, top-k, top-p, min-p, draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hanmo.errors import HanmoError
from hanmo.serve.sampling import Sampling

#: Top-p first looks among this many best tokens and sorts the whole vocabulary only when they do not reach p.
_SHORTLIST = 512


class ScoredToken(int):
    """An id that also tells how likely it was.

    Attributes:
        logprob: its log probability, in nats.
        top: (id, log probability) of the likeliest ones.
    """

    logprob: float
    top: list[tuple[int, float]]


class Sampler:
    """Draws one sequence's tokens, one call per token; keeps the tokens it has drawn.

    Args:
        sampling: the settings.
        prompt: ids before the answer (the repetition penalty counts them).
        vocab_size: only ids below it may be drawn; models often have more rows than tokens.
        index: which of several answers to one prompt this is; each has a random stream of its own.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocab_size: int, index: int = 0) -> None:
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._seen = np.zeros(vocab_size, dtype=bool)
        self._seen[[i for i in prompt if i < vocab_size]] = True
        self._counts: np.ndarray | None = None
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = np.zeros(vocab_size, dtype=np.float32)
        self._bias: tuple[np.ndarray, np.ndarray] | None = None
        if sampling.logit_bias:
            ids, values = zip(*sampling.logit_bias, strict=True)
            self._bias = np.array(ids, dtype=np.int64), np.array(values, dtype=np.float32)
        seed = None if sampling.seed is None else [sampling.seed & (2**64 - 1), index]
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray) -> int:
        """Choose the next token from `logits`, float32 of shape [at least vocab_size]; they are not changed."""
        sampling = self._sampling
        raw = logits = logits[: self._vocab_size]
        if self._bias is not None:
            logits = logits.copy()
            logits[self._bias[0]] += self._bias[1]
        if sampling.repetition_penalty != 1 or self._counts is not None:
            logits = self._penalised(logits)
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            raise HanmoError("the model answers with numbers that are not finite; its weights are damaged")
        token = best if sampling.greedy else self._draw(logits, best)
        self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1
        return token if sampling.logprobs is None else _scored(token, raw, sampling.logprobs)

    def _penalised(self, logits: np.ndarray) -> np.ndarray:
        penalty = self._sampling.repetition_penalty
        if penalty != 1:
            divided = np.where(logits > 0, logits / penalty, logits * penalty)
            logits = np.where(self._seen, divided, logits)
        if self._counts is not None:
            logits = (
                logits
                - self._sampling.frequency_penalty * self._counts
                - self._sampling.presence_penalty * (self._counts > 0)
            )
        return logits

    def _draw(self, logits: np.ndarray, best: int) -> int:
        sampling = self._sampling
        ids: np.ndarray | None = None  # None: every token, in the order of ids
        if 0 < sampling.top_k < len(logits):
            ids = np.argpartition(logits, -sampling.top_k)[-sampling.top_k :]
        chosen = logits if ids is None else logits[ids]
        weights = np.exp((chosen.astype(np.float64) - float(logits[best])) / sampling.temperature)
        if sampling.min_p > 0 or sampling.top_p < 1:
            keep = self._nucleus(weights, sampling.top_p)
            keep = keep[weights[keep] >= sampling.min_p * weights.max()]
            weights = weights[keep]
            ids = keep if ids is None else ids[keep]
        totals = np.cumsum(weights)
        place = int(np.searchsorted(totals, self._random.random() * totals[-1], side="right"))
        place = min(place, len(totals) - 1)
        return place if ids is None else int(ids[place])

    @staticmethod
    def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
        """Places of the fewest weights that sum to `top_p` of the whole, likeliest first; at least one."""
        if top_p >= 1:
            return np.arange(len(weights))
        wanted = top_p * weights.sum()
        for size in (_SHORTLIST, len(weights)):
            if size < len(weights):
                places = np.argpartition(weights, -size)[-size:]
            else:
                places = np.arange(len(weights))
            places = places[np.argsort(-weights[places], kind="stable")]
            totals = np.cumsum(weights[places])
            if totals[-1] >= wanted or size >= len(weights):
                return places[: int(np.searchsorted(totals, wanted)) + 1]
        raise AssertionError("the whole vocabulary was looked at")


def _scored(token: int, logits: np.ndarray, top: int) -> ScoredToken:
    """`token` with what the model itself thought of it, from its logits, float32 [vocab_size]."""
    shifted = logits.astype(np.float64) - float(logits.max())
    logprobs = shifted - np.log(np.exp(shifted).sum())
    scored = ScoredToken(token)
    scored.logprob = float(logprobs[token])
    best = np.argsort(-logprobs, kind="stable")[:top] if top else []
    scored.top = [(int(index), float(logprobs[index])) for index in best]
    return scored
