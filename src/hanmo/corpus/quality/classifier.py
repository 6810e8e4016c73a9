"""A trainable classifier of documents: good or bad, by logistic regression over hashed runs of characters and words.

Features are the runs of one to four characters and the words in Latin letters, hashed into one table of weights (the
hashing trick, Weinberger et al., ICML 2009; the features of fastText, Joulin et al., arXiv:1607.01759). A document's
score is the sigmoid of the sum of its weights over the root of their number, which gives every text about the same
norm, plus a constant; long documents are scored by windows as long as those the model was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hanmo.corpus.quality.characters import codes_of
from hanmo.corpus.quality.folding import fold, run_hashes, windows, word_hashes
from hanmo.corpus.quality.ngram import read_model
from hanmo.errors import HanmoError
from hanmo.files import atomic_write

FORMAT = "hanmo-quality-1"
#: Runs of so many characters are features.
RUNS = range(1, 5)
#: Characters of a window, and the most windows of a document that are scored.
WINDOW, WINDOWS = 2000, 8
#: Every so many documents of either kind are kept back to measure on, chosen by a hash of their text.
HELD_BACK = 5
_BATCH = 64


class Classifier:
    """A trained classifier. See `train` and `load`."""

    def __init__(self, weights: np.ndarray, constant: float, facts: dict[str, Any]) -> None:
        self.weights = weights  # [2**bits] float32
        self.constant = constant
        self.facts = facts

    def score(self, codes: np.ndarray) -> float:
        """How good a text of these code points [chars] uint32 looks, from 0 to 1."""
        bits = len(self.weights).bit_length() - 1
        parts = windows(fold(codes), WINDOW, WINDOWS)
        values = [self._evidence(features(part, bits)) for part in parts]
        weight = sum(map(len, parts)) or 1
        mean = sum(value * len(part) for value, part in zip(values, parts, strict=True)) / weight
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, self.constant + mean))))

    def _evidence(self, found: np.ndarray) -> float:
        return float(self.weights.take(found).sum(dtype=np.float64)) / math.sqrt(max(1, len(found)))

    def save(self, path: Path) -> None:
        """Write the model as safetensors, its facts in the header."""
        from safetensors.numpy import save

        header = {
            "format": FORMAT,
            "constant": repr(self.constant),
            "facts": json.dumps(self.facts, ensure_ascii=False),
        }
        data = save({"weights": self.weights}, header)
        with atomic_write(path, "wb") as file:
            file.write(data)

    @classmethod
    def load(cls, path: Path | str) -> Classifier:
        """Read a model that `save` wrote.

        Raises:
            HanmoError: no such file, or another kind of file.
        """
        header, tensors = read_model(Path(path), FORMAT, "hanmo corpus quality train")
        return cls(tensors["weights"], float(header["constant"]), json.loads(header["facts"]))


def features(folded: np.ndarray, bits: int) -> np.ndarray:
    """Places in the table of weights, one for every run and word, [features] uint32."""
    found = [*run_hashes(folded, RUNS), word_hashes(folded)]
    return np.concatenate(found) >> np.uint32(32 - bits)


def train(
    good: Sequence[str], bad: Sequence[str], bits: int = 20, epochs: int = 5, seed: int = 7
) -> tuple[Classifier, dict[str, Any]]:
    """Train on texts of which all are good and all are bad; returns the classifier and its figures on those held back.

    The two kinds weigh the same, however many of each there are. Equal texts are held back together, so that none is
    measured on that was trained on.

    Raises:
        HanmoError: fewer than 20 documents of a kind.
    """
    for name, texts in (("good", good), ("bad", bad)):
        if len(texts) < 20:
            raise HanmoError(f"{len(texts)} {name} documents are too few to learn from; give at least 20, better 1,000")
    sides = [(text, label) for label, texts in ((1, good), (0, bad)) for text in texts]
    held = np.array([_held_back(text) for text, _ in sides])
    labels = np.array([label for _, label in sides])
    for label, name in ((1, "good"), (0, "bad")):
        mine = labels == label
        if held[mine].all() or not held[mine].any():
            raise HanmoError(f"the {name} documents are too few different ones to keep some back for measuring")
    weights, constant = np.zeros(1 << bits, np.float32), 0.0
    share = {label: float((labels[~held] == label).mean()) for label in (0, 1)}
    chosen = np.flatnonzero(~held)
    dice = np.random.default_rng(seed)
    steps, done = epochs * len(chosen), 0
    for _ in range(epochs):
        for first in range(0, len(order := dice.permutation(chosen)), _BATCH):
            for index in order[first : first + _BATCH]:
                text, label = sides[index]
                found = features(_window(text, dice), bits)
                if not len(found):
                    continue
                norm = 1 / math.sqrt(len(found))
                evidence = constant + float(weights.take(found).sum(dtype=np.float64)) * norm
                error = label - 1 / (1 + math.exp(-max(-60.0, min(60.0, evidence))))
                step = error * 0.5 / share[label] * (1 - done / steps)
                np.add.at(weights, found, np.float32(step * norm))
                constant += 0.1 * step
                done += 1
    model = Classifier(weights, constant, {"documents": {"good": len(good), "bad": len(bad)}, "epochs": epochs})
    scores = np.array([model.score(codes_of(sides[index][0])) for index in np.flatnonzero(held)])
    figures = measure(scores, labels[held])
    model.facts["held_back"] = {name: figures[name] for name in ("documents", "accuracy", "auc")}
    return model, figures


def _held_back(text: str) -> bool:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace")) % HELD_BACK == 0


def _window(text: str, dice: np.random.Generator) -> np.ndarray:
    """A stretch of a text as long as a window, another one each time."""
    folded = fold(codes_of(text))
    spare = len(folded) - WINDOW
    first = int(dice.integers(spare + 1)) if spare > 0 else 0
    return folded[first : first + WINDOW]


def measure(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy at 0.5 with Wilson's interval, the area under the ROC curve with DeLong's (Biometrics 1988), and for
    each threshold what is kept of the good and of the bad and the share of good among what is kept.

    Args:
        scores: [documents] float64.
        labels: [documents] 1 for good, 0 for bad; the two kinds count the same in `precision`.
    """
    from hanmo.evaluate.items import wilson

    good, bad = scores[labels == 1], scores[labels == 0]
    right = int(((scores >= 0.5) == (labels == 1)).sum())
    # For each good document the share of bad ones below it, and the other way round; equal scores count half.
    above = _below(good, bad)
    below = 1 - _below(bad, good)
    area = float(above.mean())
    spread = math.sqrt((np.var(above) / len(good) if len(good) > 1 else 0) + np.var(below) / max(1, len(bad)))
    table = []
    for threshold in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        kept_good, kept_bad = float((good >= threshold).mean()), float((bad >= threshold).mean())
        table.append(
            {
                "threshold": threshold,
                "good_kept": kept_good,
                "bad_kept": kept_bad,
                "precision": kept_good / (kept_good + kept_bad) if kept_good + kept_bad else None,
            }
        )
    return {
        "documents": {"good": len(good), "bad": len(bad)},
        "accuracy": [right / len(scores), *wilson(right, len(scores))],
        "auc": [area, max(0.0, area - 1.96 * spread), min(1.0, area + 1.96 * spread)],
        "thresholds": table,
    }


def _below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of `values`, the share of `others` below it, equal ones counted half."""
    others = np.sort(others)
    return (np.searchsorted(others, values) + np.searchsorted(others, values, "right")) / (2 * len(others))
