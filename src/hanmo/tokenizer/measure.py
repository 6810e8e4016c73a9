"""What a tokenizer does to text: compression, coverage, what is lost on the way back, which tokens are never used.

A character is *whole* when it lies inside one token, *split* when it is several tokens or bytes (each of which says
little alone), *unknown* when the tokenizer has no token for it, and *dropped* when no token comes from it at all (white
space, mostly, in vocabularies of words). A document is lost when decoding gives another text; what is lost are the
characters that the decoded text has fewer of.

Tokens that can never come out ("unreachable": the merges make something else of their own text) and those that are only
part of a character are told from the vocabulary alone. With a model, rows that were hardly trained are told from the
rest by the indicators of Land and Bartolo, "Fishing for Magikarp" (2024).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanmo.files import read_jsonl
from hanmo.tokenizer.kinds import KINDS
from hanmo.tokenizer.opening import OpenTokenizer, is_han, open_tokenizer

#: What is counted of a stretch of text.
COLUMNS = ("characters", "bytes", "tokens", "whole", "split", "unknown", "dropped")
#: Names of the parts of a vocabulary.
PARTS = ("han1", "han2", "han3", "han4", "han5", "latin", "digits", "other", "signs", "bytes", "special", "unused")
_EXAMPLES = 12
_LONGEST_LINE = 120
#: The share of a vocabulary that is looked at as a candidate for too little training, as in the paper.
CANDIDATES = 0.02


@dataclass(frozen=True)
class MeasureTask:
    """One tokenizer and the file of documents to measure it on; travels to a worker."""

    name: str
    path: Path
    documents: Path
    rare: int
    lines: tuple[str, ...]


class Sample(NamedTuple):
    """A document to measure on: [(where a stretch ends, its kind)], see `kinds`."""

    source: str
    text: str
    kinds: Sequence[tuple[int, str]]


@dataclass
class _Counts:
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def add(self, name: str, values: NDArray[np.int64]) -> None:
        self.rows[name] = self.rows.get(name, 0) + values

    def as_dict(self) -> dict[str, dict[str, Any]]:
        return {name: ratios(row) for name, row in self.rows.items()}


def ratios(row: NDArray[np.int64]) -> dict[str, Any]:
    """Counts by `COLUMNS` with the rates that follow from them (None where there is nothing)."""
    found: dict[str, Any] = dict(zip(COLUMNS, row.tolist(), strict=True))
    tokens, length = found["tokens"], found["characters"]
    found["characters_per_token"] = round(length / tokens, 4) if tokens else None
    found["bytes_per_token"] = round(found["bytes"] / tokens, 4) if tokens else None
    # Dropped characters are not the tokenizer's to know: coverage is of what it was given to encode.
    seen = found["whole"] + found["split"] + found["unknown"]
    found["coverage"] = round(found["whole"] / seen, 6) if seen else None
    return found


def measure(task: MeasureTask) -> dict[str, Any]:
    """Everything about one tokenizer, as the report's JSON has it."""
    tokenizer = open_tokenizer(task.path)
    texts = (Sample(**record) for _, record in read_jsonl(task.documents))
    found = vocabulary(tokenizer) | on_text(tokenizer, texts, task.rare)
    found["cuts"] = [cut(tokenizer, line) for line in task.lines]
    folder = task.path if task.path.is_dir() else task.path.parent
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        found["training"] = under_trained(tokenizer, folder, found.pop("frequency"))
    found.pop("frequency", None)
    return {"name": task.name, "form": tokenizer.form, "tokens": len(tokenizer.pieces)} | found


def on_text(tokenizer: OpenTokenizer, texts: Iterable[Sample], rare: int) -> dict[str, Any]:
    """Counts by source and by kind of text, losses, and how often every token is used."""
    unknown = np.array([piece.kind == "unknown" for piece in tokenizer.pieces], bool)
    byte = np.array([piece.kind == "byte" for piece in tokenizer.pieces], bool)
    frequency = np.zeros(len(tokenizer.pieces), np.int64)
    sources, kinds = _Counts(), _Counts()
    losses = Losses()
    for document in texts:
        text = document.text
        if not text:
            continue
        ids, starts, ends, _ = tokenizer.encode(text)
        frequency += np.bincount(ids, minlength=len(frequency))[: len(frequency)]
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        size = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
        cover = _cover(starts, ends, len(text))
        known = cover - _cover(starts[unknown[ids]], ends[unknown[ids]], len(text))
        in_byte = _cover(starts[byte[ids]], ends[byte[ids]], len(text)) > 0
        split = (known > 1) | in_byte
        columns = np.zeros((len(text), len(COLUMNS)), np.int64)
        columns[:, 0] = 1
        columns[:, 1] = size
        columns[:, 2] = np.bincount(np.minimum(starts, len(text) - 1), minlength=len(text))
        columns[:, 3] = (known == 1) & ~split
        columns[:, 4] = split
        columns[:, 5] = (known == 0) & (cover > 0)
        columns[:, 6] = cover == 0
        sources.add(document.source, columns.sum(0))
        start = 0
        for end, kind in document.kinds:
            kinds.add(kind, columns[start:end].sum(0))
            start = end
        # What stands for an unknown character is left out, lest its letters pass for letters of the text.
        losses.add(text, tokenizer.decode(ids[~unknown[ids]].tolist()), tokenizer)
    normal = [index for index, piece in enumerate(tokenizer.pieces) if piece.kind == "normal"]
    never = [index for index in normal if not frequency[index]]
    few = [index for index in normal if 0 < frequency[index] < rare]
    return {
        "total": ratios(np.sum([np.zeros(len(COLUMNS), np.int64), *sources.rows.values()], axis=0)),
        "sources": sources.as_dict(),
        "kinds": {kind: kinds.as_dict()[kind] for kind in KINDS if kind in kinds.rows},
        "losses": losses.as_dict(),
        "unused": {"count": len(never), "of": len(normal), "examples": _names(tokenizer, never)},
        "rare": {"below": rare, "count": len(few), "examples": _names(tokenizer, few)},
        "frequency": frequency,
    }


def cut(tokenizer: OpenTokenizer, line: str) -> list[dict[str, str]]:
    """How a line is cut: [{text, kind}], kind "whole", "part" (of a character, or its bytes) or "unknown"."""
    found = []
    for index, start, end, _ in zip(*tokenizer.encode(line), strict=True):
        piece = tokenizer.pieces[index]
        text = _text(piece.bytes) if piece.kind == "normal" else None
        if piece.kind == "unknown":
            found.append({"text": line[start:end] or piece.name, "kind": "unknown"})
        elif text is None:
            found.append({"text": piece.bytes.hex(" ") or piece.name, "kind": "part"})
        else:
            found.append({"text": text, "kind": "whole"})
    return found


def _cover(starts: NDArray[np.int64], ends: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """How many tokens lie over each character."""
    change = np.bincount(starts, minlength=length + 1) - np.bincount(ends, minlength=length + 1)
    return np.cumsum(change)[:length]


class Losses:
    """What does not come back from encoding and decoding."""

    def __init__(self) -> None:
        self.documents = self.differing = 0
        self.lost: Counter[str] = Counter()
        self.instead: Counter[str] = Counter()
        self.examples: list[dict[str, str]] = []

    def add(self, text: str, back: str, tokenizer: OpenTokenizer) -> None:
        """Compare a text with what came back of it."""
        self.documents += 1
        if text == back:
            return
        self.differing += 1
        before, after = Counter(text), Counter(back)
        self.lost += before - after
        self.instead += after - before
        if len(self.examples) < _EXAMPLES:
            for line in text.split("\n"):
                if not line.strip() or len(line) > _LONGEST_LINE:
                    continue
                decoded = tokenizer.decode(tokenizer.encode(line).ids.tolist())
                if decoded != line:
                    self.examples.append({"text": line, "back": decoded})
                    break

    def as_dict(self) -> dict[str, Any]:
        """Counts, the most frequent lost characters, and lines that do not come back."""
        white = sum(count for letter, count in self.lost.items() if letter.isspace())
        return {
            "documents": self.documents,
            "differing": self.differing,
            "characters_lost": sum(self.lost.values()),
            "of_them_white_space": white,
            "characters_instead": sum(self.instead.values()),
            "most_lost": self.lost.most_common(40),
            "most_instead": self.instead.most_common(20),
            "examples": self.examples,
        }


# The vocabulary alone -------------------------------------------------------------------------------------------------


def vocabulary(tokenizer: OpenTokenizer) -> dict[str, Any]:
    """What a vocabulary is made of, and which of its tokens no text can give."""
    parts = Counter(part_of(piece.bytes, piece.kind) for piece in tokenizer.pieces)
    # What a piece is inside a word is not what it is alone: for WordPiece the question has no simple answer.
    unreachable: list[int] = []
    if tokenizer.form != "WordPiece":
        unreachable = [
            index
            for index, piece in enumerate(tokenizer.pieces)
            if piece.kind == "normal" and _text(piece.bytes) and tokenizer.spell(piece.bytes) != [index]
        ]
    return {
        "parts": {part: parts[part] for part in PARTS if parts[part]},
        "unreachable": {"count": len(unreachable), "examples": _names(tokenizer, unreachable)},
        "roles": {role: tokenizer.pieces[index].name for role, index in tokenizer.roles.items()},
    }


def part_of(content: bytes, kind: str) -> str:
    """Which of `PARTS` a token belongs to; "bytes" holds all that is not whole characters."""
    if kind in ("special", "unknown"):
        return "special"
    if kind in ("byte", "unused"):
        return "bytes" if kind == "byte" else "unused"
    text = _text(content)
    if text is None:
        return "bytes"
    han = sum(map(is_han, text))
    if han:
        return f"han{min(han, 5)}"
    if re.fullmatch(r"\s*[\d０-９]+\s*", text):
        return "digits"
    letters = [letter for letter in text if letter.isalpha()]
    if letters:
        return "latin" if all(unicodedata.name(letter, "").startswith("LATIN") for letter in letters) else "other"
    return "signs"


def _text(content: bytes) -> str | None:
    try:
        return content.decode() or None
    except UnicodeDecodeError:
        return None


def _names(tokenizer: OpenTokenizer, ids: Sequence[int], most: int = 60) -> list[str]:
    """Some of the tokens, evenly from all."""
    step = max(1, len(ids) // most)
    return [_shown(tokenizer, index) for index in ids[::step][:most]]


def _shown(tokenizer: OpenTokenizer, index: int) -> str:
    piece = tokenizer.pieces[index]
    return _text(piece.bytes) or piece.name


# With a model ---------------------------------------------------------------------------------------------------------


def under_trained(tokenizer: OpenTokenizer, folder: Path, frequency: NDArray[np.int64]) -> dict[str, Any]:
    """Tokens whose rows look as if they had hardly been trained.

    Where input and output embeddings are apart, the norm of the input row is the indicator: a row that is never read is
    only ever decayed. Where they are tied, it is the cosine distance to the mean of rows that cannot have been trained
    (rows beyond the vocabulary, bytes that are in no UTF-8), once the first principal component, which all rows share,
    is taken off; without such rows the norm again. Small is suspicious; the lowest 2 % are candidates.
    """
    import torch

    from hanmo.models.vocabulary import embeddings

    first, last = embeddings(folder)
    tied = last is None
    count = len(tokenizer.pieces)
    never = [i for i, piece in enumerate(tokenizer.pieces) if piece.kind == "unused" or piece.bytes in _NO_UTF8]
    reference = [*(i for i in never if i < len(first)), *range(count, len(first))]
    rows = first.float()
    if tied and reference:
        centred = rows[:count] if count < len(rows) else rows
        _, _, vectors = torch.pca_lowrank(centred, q=1, center=False)
        common = vectors[:, 0]
        rows = rows - (rows @ common)[:, None] * common
        mean = rows[torch.tensor(reference)].mean(0)
        values = 1 - torch.nn.functional.cosine_similarity(rows[:count], mean[None], dim=1)
    else:
        values = rows[:count].norm(dim=1)
    values = values.numpy()
    asked = np.array([piece.kind == "normal" and _text(piece.bytes) is not None for piece in tokenizer.pieces])
    asked[[i for i in never if i < count]] = False
    order = [int(i) for i in np.argsort(values, kind="stable") if asked[i]]
    candidates = order[: max(1, round(CANDIDATES * len(order)))] if order else []
    low, high = np.quantile(values[asked], [0.02, 0.5]) if order else (0.0, 0.0)
    return {
        "indicator": "cosine_distance" if tied and reference else "norm",
        "tied": tied,
        "reference_rows": len(reference),
        "threshold": round(float(low), 5),
        "median": round(float(high), 5),
        "candidates": len(candidates),
        "of_them_unused_here": int(sum(frequency[i] == 0 for i in candidates)),
        "lowest": [
            {"token": _shown(tokenizer, i), "id": i, "value": round(float(values[i]), 5), "used": int(frequency[i])}
            for i in candidates[:60]
        ],
        "histogram": _histogram(values[asked]),
    }


#: Bytes that no UTF-8 holds.
_NO_UTF8 = {bytes([byte]) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}


def _histogram(values: NDArray) -> dict[str, list[float]]:
    counts, edges = np.histogram(values, bins=48) if len(values) else (np.zeros(0), np.zeros(0))
    return {"counts": counts.tolist(), "edges": [round(float(edge), 5) for edge in edges]}
