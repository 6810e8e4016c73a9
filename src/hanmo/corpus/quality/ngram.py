"""A small character n-gram model, for the perplexity of documents: fluent text is low, torn or shuffled text is high.

Orders up to four, interpolated Kneser-Ney smoothing (Kneser and Ney, ICASSP 1995; the form of Chen and Goodman, 1999,
section 2.8), pruned and written in back-off form as ARPA files are:

    p(c | h) = stored                    if h c is stored
               backoff(h) * p(c | h')    otherwise, h' being h without its first character

Characters are folded (see `folding`); a run of four packs into 64 bits, so counting is sorting. The model is one table
of 32-bit slots found by hash: 16 bits of a fingerprint, 8 of a log-probability, 8 of the back-off weight of the run as
a context. A run may stand in either slot of a pair; what finds no room is pruned, the rarest first, before weights are
made, so that probabilities sum to one up to rounding (1/16 of a nat a step) and to strange runs whose fingerprint is
taken for another's (about one in 40,000).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hanmo.corpus.quality.characters import codes_of
from hanmo.corpus.quality.folding import BEYOND, fold, windows
from hanmo.errors import HanmoError
from hanmo.files import atomic_write

FORMAT = "hanmo-ngram-1"
#: Steps per nat of stored log-probabilities (down to -15.9) and back-off weights (down to -7.9).
_STEP_P, _STEP_B = 16.0, 32.0
#: A document is measured by windows of so many characters, at most so many of them.
WINDOW, WINDOWS = 4096, 12
#: Runs counted in memory before those seen once are dropped (12 bytes each).
MOST_RUNS = 12_000_000
#: Characters counted at a time.
_CHUNK = 2_000_000
_MASKS = [np.uint64(0), *(np.uint64((1 << 16 * n) - 1) for n in range(1, 5))]
_S16 = np.uint64(16)


class NgramModel:
    """A trained model. See `train` and `load`."""

    def __init__(self, order: int, first: np.ndarray, backoff: np.ndarray, slots: np.ndarray, facts: dict) -> None:
        self.order = order
        self.first = first  # [65536] float32: log p(c)
        self.backoff = backoff  # [65536] float32: log back-off weight of a context of one character
        self.slots = slots  # [2**bits] uint32
        self.facts = facts

    def log_probabilities(self, folded: np.ndarray) -> np.ndarray:
        """Natural log-probability of every character given up to `order` - 1 before it, [chars] float32."""
        found = self.first.take(folded)
        if len(folded) < 2:
            return found
        weights = self.backoff.take(folded)  # of the context that ends at each place
        grams = folded.astype(np.uint64)
        for size in range(2, min(self.order, len(folded)) + 1):
            grams = (grams[:-1] << _S16) | folded[size - 1 :]
            there, logs, own = _look(self.slots, grams)
            rest = found[size - 1 :]
            found[size - 1 :] = np.where(there, logs, rest + weights[:-1])
            weights = own
        return found

    def perplexity(self, codes: np.ndarray) -> float:
        """Perplexity per character of a text's code points [chars] uint32."""
        folded = fold(codes)
        if not len(folded):
            return 1.0
        parts = windows(folded, WINDOW, WINDOWS)
        total = sum(float(self.log_probabilities(part).sum(dtype=np.float64)) for part in parts)
        return float(np.exp(-total / sum(map(len, parts))))

    def save(self, path: Path) -> None:
        """Write the model as safetensors, its facts in the header."""
        from safetensors.numpy import save

        facts = {"format": FORMAT, "order": str(self.order), "facts": json.dumps(self.facts, ensure_ascii=False)}
        data = save({"first": self.first, "backoff": self.backoff, "slots": self.slots}, facts)
        with atomic_write(path, "wb") as file:
            file.write(data)

    @classmethod
    def load(cls, path: Path | str) -> NgramModel:
        """Read a model that `save` wrote.

        Raises:
            HanmoError: no such file, or another kind of file.
        """
        header, tensors = read_model(Path(path), FORMAT, "hanmo corpus perplexity train")
        order = int(header["order"])
        return cls(order, tensors["first"], tensors["backoff"], tensors["slots"], json.loads(header["facts"]))


def read_model(path: Path, form: str, command: str) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """(header, tensors) of a model file of ours.

    Raises:
        HanmoError: no such file, or another kind of file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise HanmoError(f"{path}: no such model (make one with `{command}`)")
    try:
        with safe_open(path, "numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != form:
                raise HanmoError(f"{path}: not a model of `{command}` but of '{header.get('format', 'another kind')}'")
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise HanmoError(f"{path}: not a model file ({error}); make one with `{command}`") from None


def _places(grams: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(slot, fingerprint, never 0) of packed runs; runs of different lengths differ by their leading zeros."""
    mixed = (grams ^ (grams >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    mark = ((mixed >> np.uint64(48 - bits)) & np.uint64(0xFFFF)).astype(np.uint32)
    return (mixed >> np.uint64(64 - bits)).astype(np.int64), np.maximum(mark, np.uint32(1))


def _look(slots: np.ndarray, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(stored or not, log-probability, log back-off weight; both 0 where not stored) of packed runs."""
    place, mark = _places(grams, len(slots).bit_length() - 1)
    value = slots.take(place)
    there = (value >> np.uint32(16)) == mark
    missing = np.flatnonzero(~there)
    second = slots.take(place[missing] ^ 1)
    hit = (second >> np.uint32(16)) == mark[missing]
    value[missing] = np.where(hit, second, 0)
    there[missing] = hit
    logs = ((value >> np.uint32(8)) & np.uint32(0xFF)).astype(np.float32) * np.float32(-1 / _STEP_P)
    return there, logs, (value & np.uint32(0xFF)).astype(np.float32) * np.float32(-1 / _STEP_B)


def train(texts: Iterable[str], order: int = 4, bits: int = 22, least: int = 2) -> NgramModel:
    """Train a model.

    Args:
        texts: documents, read once.
        order: longest run, 2 to 4.
        bits: the table has 2**bits slots of 4 bytes.
        least: runs of three and more characters seen less often are pruned.

    Raises:
        HanmoError: fewer than 1,000 characters.
    """
    runs, counts, chars, documents = _count(texts, order)
    if chars < 1000:
        raise HanmoError(f"the text has {chars} characters, too few for a model; give at least a million")
    by_size: dict[int, tuple[np.ndarray, np.ndarray]] = {order: (runs, counts)}
    for size in range(order - 1, 0, -1):  # below the highest order, in how many contexts a run occurs
        by_size[size] = _unique(by_size[size + 1][0] & _MASKS[size], None)
    first = _unigrams(*by_size[1])
    slots = np.zeros(1 << bits, np.uint32)
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {1: (np.arange(BEYOND + 1, dtype=np.uint64), first)}
    weights: dict[int, np.ndarray] = {}

    def probability(grams: np.ndarray, size: int) -> np.ndarray:
        """By the pruned model of `size`, as a reader of the finished model will see it."""
        known, values = kept[size]
        if size == 1:
            return values[grams.astype(np.int64)]
        place = np.minimum(np.searchsorted(known, grams), len(known) - 1)
        lower = probability(grams & _MASKS[size - 1], size - 1)
        there = known[place] == grams
        contexts = grams >> _S16
        return np.where(there, values[place], _weight(kept[size - 1][0], weights[size - 1], contexts) * lower)

    taken = np.zeros(1 << bits, bool)
    places: dict[int, np.ndarray] = {}
    for size in range(2, order + 1):
        grams, adjusted = by_size.pop(size)
        lower = probability(grams & _MASKS[size - 1], size - 1)
        values = _interpolated(grams, adjusted, lower)
        wanted = adjusted >= (least if size > 2 else 1)
        if size > 2:  # a context must be stored itself, for its weight
            wanted &= np.isin(grams >> _S16, kept[size - 1][0])
        chosen = np.flatnonzero(wanted)
        chosen = chosen[np.argsort(-adjusted[chosen].astype(np.int64), kind="stable")]
        slot = _settle(grams[chosen], taken)
        placed = slot >= 0
        ordered = np.argsort(grams[chosen[placed]])
        chosen, slot = chosen[placed][ordered], slot[placed][ordered]
        kept[size] = grams[chosen], values[chosen]
        places[size] = slot
        weights[size - 1] = _weights(kept[size - 1][0], grams[chosen], values[chosen], lower[chosen])
    weights[order] = np.ones(len(kept[order][0]))
    for size in range(2, order + 1):
        grams, values = kept[size]
        logs = np.clip(np.rint(-np.log(values) * _STEP_P), 0, 255).astype(np.uint32)
        own = np.clip(np.rint(-np.log(weights[size]) * _STEP_B), 0, 255).astype(np.uint32)
        marks = _places(grams, bits)[1]
        slots[places[size]] = (marks << np.uint32(16)) | (logs << np.uint32(8)) | own
    facts = {
        "characters": chars,
        "documents": documents,
        "runs": {str(size): len(kept[size][0]) for size in range(2, order + 1)},
        "filled": round(float(np.count_nonzero(slots)) / len(slots), 4),
    }
    backoff = np.log(weights[1]).astype(np.float32)
    return NgramModel(order, np.log(first).astype(np.float32), backoff, slots, facts)


def _count(texts: Iterable[str], order: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """(packed runs of `order` characters, sorted; how often each occurs; characters; documents)."""
    runs, counts = np.empty(0, np.uint64), np.empty(0, np.uint32)
    held: list[np.ndarray] = []
    size = chars = documents = 0

    def settle() -> None:
        nonlocal runs, counts, size
        found = [_unique(np.concatenate(held), None)] if held else []
        held.clear()
        size = 0
        for more, times in found:
            runs, counts = _unique(np.concatenate([runs, more]), np.concatenate([counts, times]))
        if len(runs) > MOST_RUNS:
            runs, counts = runs[counts > 1], counts[counts > 1]

    for text in texts:
        folded = fold(codes_of(text))
        chars += len(folded)
        documents += 1
        if len(folded) < order:
            continue
        grams = folded.astype(np.uint64)
        for offset in range(1, order):
            grams = (grams[:-1] << _S16) | folded[offset:]
        held.append(grams)
        size += len(grams)
        if size > _CHUNK:
            settle()
    settle()
    return runs, counts, chars, documents


def _unique(grams: np.ndarray, counts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(different runs in order, their counts added up); each counts one without `counts`."""
    if counts is None:
        found, times = np.unique(grams, return_counts=True)
        return found, times.astype(np.uint32)
    order = np.argsort(grams, kind="stable")
    grams, counts = grams[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]]))
    return grams[starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _discount(counts: np.ndarray) -> float:
    """Absolute discounting's estimate, n1 / (n1 + 2 n2)."""
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return once / (once + 2 * twice) if once and twice else 0.5


def _unigrams(grams: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """p(c) of every character, [65536] float64; what the discount takes is spread over all."""
    discount, whole = _discount(counts), float(counts.sum())
    found = np.full(BEYOND + 1, discount * len(grams) / whole / (BEYOND + 1))
    found[grams.astype(np.int64)] += (counts - discount) / whole
    return found


def _interpolated(grams: np.ndarray, counts: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """p(c | h) of every run h c, [runs] float64, before pruning."""
    discount = _discount(counts)
    starts, index = _groups(grams >> _S16)
    whole = np.add.reduceat(counts.astype(np.float64), starts)
    kinds = np.diff(np.append(starts, len(grams)))
    return ((counts - discount) + discount * kinds[index] * lower) / whole[index]


def _groups(contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where each group of equal contexts starts, the group of every run)."""
    fresh = np.concatenate([[True], contexts[1:] != contexts[:-1]])
    return np.flatnonzero(fresh), np.cumsum(fresh) - 1


def _weights(known: np.ndarray, grams: np.ndarray, values: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Back-off weight of every context in `known`: what its stored runs leave over, against what they leave below."""
    found = np.ones(len(known))
    if len(grams):
        starts, _ = _groups(grams >> _S16)
        left = np.maximum(1 - np.add.reduceat(values, starts), 1e-4)
        below = np.maximum(1 - np.add.reduceat(lower, starts), 1e-4)
        found[np.searchsorted(known, (grams >> _S16)[starts])] = np.minimum(left / below, 1.0)
    return found


def _weight(known: np.ndarray, weights: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(known, contexts), len(known) - 1)
    return np.where(known[place] == contexts, weights[place], 1.0)


def _settle(grams: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """A free slot for each run, the first come first: its own, or the other of the pair; -1 where both are taken."""
    place, _ = _places(grams, len(taken).bit_length() - 1)
    found = np.full(len(grams), -1, np.int64)
    for other in (0, 1):
        open_ = np.flatnonzero(found < 0)
        want = place[open_] ^ other
        free = ~taken[want]
        open_, want = open_[free], want[free]
        _, first = np.unique(want, return_index=True)
        found[open_[first]] = want[first]
        taken[want[first]] = True
    return found
