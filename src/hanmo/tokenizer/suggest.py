"""How many tokens a vocabulary should have, from the text and the model it is meant for.

A larger vocabulary makes the text shorter and every token dearer. Training on a text costs about 6 (N + V d) f(V)
FLOPs a byte: N parameters without embeddings, d their width, f(V) tokens a byte. f is measured on a part of the sample
that the merges were not learnt on, for vocabularies cut from one training, and fitted as a ln²V + b lnV + c; the V is
taken for which the cost is least. Source: Tao et al. 2024, "Scaling laws with vocabulary" (arXiv 2407.13623), the
estimate by derivatives.

A token must also be seen to be learnt: 95 of 100 should occur 100 times in the corpus. Source: Gowda and May 2020,
"Finding the optimal vocabulary size for neural machine translation" (Findings of EMNLP). The smaller of both is taken.
Kinds whose tokens are characters or words go by the second rule, with an embedding no larger than the rest of the
model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from hanmo.console import console
from hanmo.files import read_json

#: Vocabularies that are measured; and what is ever suggested is a multiple of `STEP` between the first and the last.
LADDER = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
STEP = 64
ENOUGH, SHARE = 100, 0.95
#: Characters that are measured on.
PROBE = 2_000_000


@dataclass(frozen=True)
class Suggestion:
    """A size and its grounds.

    Attributes:
        vocab_size: what is suggested.
        cheapest: where training costs least (0: not asked for this kind).
        seen: how many tokens occur often enough.
        curve: (vocabulary, bytes a token) as measured.
    """

    vocab_size: int
    cheapest: int
    seen: int
    curve: tuple[tuple[int, float], ...]


def corpus_bytes(corpus: Path) -> int:
    """Bytes of training text by a corpus's own account; 0 where it has none."""
    path = corpus / "stats.json"
    if not path.is_file():
        return 0
    return int(read_json(path).get("train", {}).get("bytes", 0))


def suggest(texts: Sequence[str], kind: str, model: str, size: int) -> Suggestion:
    """Suggest a vocabulary size and print its grounds.

    Args:
        texts: a sample.
        kind: of the tokenizer.
        model: a preset's name.
        size: bytes of the whole corpus.

    Raises:
        HanmoError: an unknown preset.
    """
    from hanmo.models.presets import count_parameters, preset

    width = preset(model).hidden
    rest = count_parameters(model, STEP) - STEP * width
    kept, probe = [text[len(text) // 16 :] for text in texts], [text[: len(text) // 16] for text in texts]
    if kind in ("wordpiece", "pinyin", "word"):
        found = by_support(texts, kind, size, most=rest // width)
    else:
        found = by_cost(kept, probe, width, rest, size)
    points = ", ".join(f"{vocabulary}: {rate:.2f}" for vocabulary, rate in found.curve)
    cheapest = f"cheapest for {model} at {found.cheapest}; " if found.cheapest else ""
    console.print(
        f"vocabulary: {found.vocab_size} suggested ({cheapest}{found.seen} tokens are seen often enough"
        f"{f'; bytes a token {points}' if points else ''})",
        soft_wrap=True,
    )
    return found


def by_cost(texts: Sequence[str], probe: Sequence[str], width: int, rest: int, size: int) -> Suggestion:
    """The rule for subwords; see the module.

    Args:
        texts, probe: what to learn from and what to measure on.
        width, rest: channels of an embedding; parameters that are no embedding.
        size: bytes of the whole corpus.
    """
    from hanmo.tokenizer.train import BYTES, SPECIAL, assemble, learn

    base = SPECIAL + BYTES
    # So rare a token as the last of this many cannot be seen often enough: not worth learning.
    largest = min(LADDER[-1], max(LADDER[1], size // 500))
    learnt = learn(texts, largest - base)
    largest = base + len(learnt)
    measured, room = [], PROBE
    for text in probe:
        measured.append(text[:room])
        room -= len(measured[-1])
    amount = max(1, sum(len(text.encode()) for text in measured))
    curve: list[tuple[int, float]] = []
    shares: list[tuple[float, int]] = []
    for vocabulary in [v for v in LADDER if v < largest] + [largest]:
        merges = learnt[: vocabulary - base]
        counts = np.zeros(vocabulary, np.int64)
        for encoding in assemble(merges).encode_batch_fast(measured, add_special_tokens=False):
            counts += np.bincount(encoding.ids, minlength=vocabulary)
        curve.append((vocabulary, amount / max(1, int(counts.sum()))))
        # Parts of characters are only steps on the way to them.
        whole = np.array([_is_text(b"".join(merge)) for merge in merges])
        often = counts[base:] * (size / amount) >= ENOUGH
        shares.append((float(often[whole].mean()) if whole.any() else 1.0, vocabulary))
    cheapest = least_cost(curve, width, rest)
    seen = crossing(shares)
    chosen = max(LADDER[0], min(cheapest, seen) // STEP * STEP)
    return Suggestion(min(chosen, largest), cheapest, seen, tuple(curve))


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def crossing(shares: Sequence[tuple[float, int]]) -> int:
    """The vocabulary at which the share of tokens seen often enough falls below `SHARE`, between those measured."""
    for (before, small), (after, large) in pairwise(shares):
        if after < SHARE <= before:
            part = (before - SHARE) / (before - after)
            return int(small * (large / small) ** part)
    return shares[-1][1] if shares[-1][0] >= SHARE else shares[0][1]


def least_cost(curve: Sequence[tuple[int, float]], width: int, rest: int) -> int:
    """The vocabulary, of those measured or between, with the least (rest + V width) tokens a byte."""
    logs = np.log([vocabulary for vocabulary, _ in curve])
    tokens = np.array([1 / rate for _, rate in curve])
    fit = np.polyfit(logs, tokens, min(2, len(curve) - 1))
    grid = np.arange(curve[0][0], max(curve[-1][0], curve[0][0] + 1), STEP)
    return int(grid[np.argmin((rest + grid * width) * np.polyval(fit, np.log(grid)))])


def by_support(texts: Sequence[str], kind: str, size: int, most: int) -> Suggestion:
    """The rule for characters and words: how many of them occur often enough, beside the fixed tokens.

    Args:
        most: rows of an embedding that the model bears.
    """
    sample = max(1, sum(len(text.encode()) for text in texts))
    least = max(2.0, ENOUGH * sample / max(size, sample))
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    fixed = {"wordpiece": 5, "pinyin": 520, "word": 262}[kind]
    if kind == "word":
        from hanmo.tokenizer.forms.word import segmenter

        cut = segmenter("rjieba")
        for text in texts:
            counts.update(word for word in cut(text) if len(word) > 1)
    seen = fixed + sum(count >= least for count in counts.values())
    if kind != "word":
        seen += seen // 3  # pieces of words in other scripts
    # Characters are the alphabet of these kinds: one that is left out falls apart into bytes.
    alphabet = fixed + 256 + sum(count > 1 and "\u2e80" <= char <= "\U0003347f" for char, count in counts.items())
    found = max(LADDER[0] + 64, min(seen, most) // STEP * STEP)
    if kind != "word":
        found = max(found, -(-alphabet // STEP) * STEP)
    return Suggestion(found, 0, seen, ())
