"""Models side by side, from what eval and exam stages have left: each pair on what both were asked.

Differences are paired: what is hard for one model is hard for the other, so that far smaller differences can be told
than the two models' own intervals suggest. Text: a bootstrap over documents. Exams: a bootstrap over items, and
McNemar's exact test.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.errors import HanmoError
from hanmo.evaluate.bpb import bootstrap_ratio
from hanmo.evaluate.significance import compare as compare_items
from hanmo.evaluate.significance import tally
from hanmo.files import read_json, read_jsonl


@dataclass
class Measured:
    """One model: (bits, bytes) of each held-out document, and whether each item of each exam was right."""

    name: str
    documents: dict[str, tuple[float, int]] = field(default_factory=dict)
    exams: dict[str, dict[str, bool]] = field(default_factory=dict)


def load(folders: Sequence[Path]) -> tuple[list[Measured], dict[str, float]]:
    """The models of some stages' folders, and the chance level of each exam. A model that several folders know is one.

    Raises:
        HanmoError: a folder without results, or a model that was measured twice with unlike results.
    """
    models: dict[str, Measured] = {}
    chances: dict[str, float] = {}
    for folder in folders:
        results = [folder / name for name in ("eval.json", "exams.json") if (folder / name).is_file()]
        if not results:
            raise HanmoError(f"{folder}: neither an eval stage's folder (eval.json) nor an exam stage's (exams.json)")
        for result in results:
            chances |= {name: exam["chance"] for name, exam in read_json(result)["exams"].items()}
        for path in sorted(folder.glob("*-*.jsonl")):
            kind, _, name = path.stem.partition("-")
            if kind in ("heldout", "exam", "items"):
                model = models.setdefault(name, Measured(name))
                for _, record in read_jsonl(path):
                    _take(model, kind, record, path)
    return list(models.values()), chances


def _take(model: Measured, kind: str, record: dict[str, Any], path: Path) -> None:
    place: dict[str, Any] = model.documents
    if kind == "heldout":
        key, value = record["document"], (record["bits"], record["bytes"])
    else:
        exam, key = (record["exam"], record["id"]) if kind == "exam" else (record["item"].split("/")[0], record["item"])
        value, place = record["right"], model.exams.setdefault(exam, {})
    if place.setdefault(key, value) != value:
        raise HanmoError(f"{path}: model {model.name} was measured before with another result; rename one of the two")


def side_by_side(
    models: Sequence[Measured], chances: Mapping[str, float], resamples: int = 2000, seed: int = 7
) -> dict[str, Any]:
    """Every model's figures, and every pair's differences (second less first) with paired 95 % intervals.

    Returns:
        {"models": [{name, heldout, exams}], "pairs": [{first, second, heldout, exams}]}; what a model or a pair was not
        asked is None or left out.
    """
    return {
        "models": [
            {
                "name": model.name,
                "heldout": _bits(model, resamples, seed) if model.documents else None,
                "exams": {
                    name: tally(list(right.values()), [chances.get(name, 0.0)] * len(right))
                    for name, right in model.exams.items()
                },
            }
            for model in models
        ],
        "pairs": [_pair(a, b, resamples, seed) for a, b in itertools.combinations(models, 2)],
    }


def _bits(model: Measured, resamples: int, seed: int) -> dict[str, Any]:
    bits, sizes = (np.array(column) for column in zip(*model.documents.values(), strict=True))
    low, high = bootstrap_ratio(bits, sizes, resamples, seed)
    return {"documents": len(bits), "bits_per_byte": float(bits.sum() / sizes.sum()), "low": low, "high": high}


def _pair(first: Measured, second: Measured, resamples: int, seed: int) -> dict[str, Any]:
    shared = [key for key in first.documents if key in second.documents]
    heldout = None
    if shared:
        extra = np.array([second.documents[key][0] - first.documents[key][0] for key in shared])
        sizes = np.array([first.documents[key][1] for key in shared])
        low, high = bootstrap_ratio(extra, sizes, resamples, seed)
        difference = float(extra.sum() / sizes.sum())
        heldout = {"documents": len(shared), "difference": difference, "low": low, "high": high}
    exams = {}
    for name, right in first.exams.items():
        keys = [key for key in right if key in second.exams.get(name, {})]
        if keys:
            other = second.exams[name]
            exams[name] = compare_items([right[key] for key in keys], [other[key] for key in keys], resamples, seed)
    return {"first": first.name, "second": second.name, "heldout": heldout, "exams": exams}
