"""What a student gains from a teacher's probabilities, against tuning on the records alone.

All on the small world, one base model for all students, as many steps each. Measured on records that nobody was tuned
on: KL(teacher || student) and the loss on their own words, a token, with differences from the student tuned on records
alone (paired, records resampled).

    python benchmarks/distillation.py [--work DIR]     20 minutes on a free core; a killed run goes on
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from hanmo import api
from hanmo.child import machine, versions
from hanmo.evaluate.bpb import bootstrap_ratio
from hanmo.files import read_json, write_json
from hanmo.posttrain import training
from hanmo.posttrain.distill import Teacher
from hanmo.posttrain.encode import IGNORE, Example, encode_parts
from hanmo.posttrain.records import hold_out, read_items, sft_kind
from hanmo.posttrain.scoring import sequence_log_probs, use_label_scoring
from hanmo.posttrain.settings import DistillSettings

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "distillation.json"
PRETRAIN = {"do": "pretrain", "from": {"data": "tokens"}, "context": 128, "compile": False}
TUNE: dict[str, Any] = {"epochs": 2, "batch_size": 16, "validation": 0.1, "seed": 1, "precision": "fp32"}
#: Name -> how the student is taught; all from the same base, with the same records in the same order.
WAYS: dict[str, dict[str, Any]] = {
    "records": {"do": "sft"},
    "forward": {"do": "distill", "weight": 0.5},
    "forward-alone": {"do": "distill", "weight": 1.0},
    "reverse": {"do": "distill", "weight": 0.5, "divergence": "reverse"},
    "jsd": {"do": "distill", "weight": 0.5, "divergence": "jsd"},
}


def recipe() -> dict[str, Any]:
    stages: list[dict[str, Any]] = [
        {"name": "world", "do": "microworld", "megabytes": 3, "dialogues": 2000, "preferences": 10},
        {"name": "corpus", "do": "corpus", "from": {"documents": "world", "exams": "world"}, "near_similarity": 0},
        {"name": "tokenizer", "do": "tokenizer", "from": "corpus", "vocab_size": 2048},
        {"name": "tokens", "do": "tokens", "from": {"corpus": "corpus", "tokenizer": "tokenizer"}},
        {"name": "big", **PRETRAIN, "preset": "hanmo-2m", "tokens": "700k"},
        {"name": "small", **PRETRAIN, "preset": "hanmo-1m", "tokens": "200k"},
        {"name": "teacher", "do": "sft", "from": {"model": "big", "records": "world"}, **TUNE, "epochs": 3},
    ]
    for name, way in WAYS.items():
        given = {"model": "small", "records": "world"} | ({"teacher": "teacher"} if way["do"] == "distill" else {})
        stages.append({"name": name, "from": given, **TUNE, **way})
    return {"name": "distillation", "stages": stages}


def held_out(work: Path, start: training.Start, settings: DistillSettings) -> list[Example]:
    """The records that every stage has held out: their choice goes by their prompts and the seed."""
    items, _ = read_items([work / "world"], settings, sft_kind(settings))
    _, held = hold_out(items, settings.validation)
    notes: Counter[str] = Counter()
    return [one for item in held for one in encode_parts(start.chat, item.value, start.limit, "truncate", notes)]


def measured(work: Path, student: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each held-out record: KL from the teacher and loss, in nats, and tokens."""
    settings = DistillSettings(validation=TUNE["validation"], seed=TUNE["seed"], precision="fp32")
    with tempfile.TemporaryDirectory() as scratch:
        start = training.Start(work / student, settings, Path(scratch))
    held = held_out(work, start, settings)
    apart, tokens = Teacher(work / "teacher", start, settings).divergence(held)
    use_label_scoring(start.model)
    start.model.eval()
    rows = [(example.input_ids, example.labels) for example in held]
    parts = [-sequence_log_probs(start.model, rows[at : at + 16], start.pad).numpy() for at in range(0, len(rows), 16)]
    assert tokens.sum() == sum(label != IGNORE for _, labels in rows for label in labels[1:])
    return apart, np.concatenate(parts).astype(np.float64), tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="hanmo-distillation-"))
    work.mkdir(parents=True, exist_ok=True)
    path = work / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    api.run(path, out=work)
    found = {name: measured(work, name) for name in WAYS}
    plain = found["records"]
    students = {}
    for name, (apart, loss, tokens) in found.items():
        counts = read_json(work / name / "manifest.json")["counts"]
        students[name] = {"steps": counts["steps"]}
        for what, own, other in (("kl", apart, plain[0]), ("loss", loss, plain[1])):
            low, high = bootstrap_ratio(own - other, tokens)
            students[name] |= {
                what: float(own.sum() / tokens.sum()),
                f"{what}_difference": {"mean": float((own - other).sum() / tokens.sum()), "low": low, "high": high},
            }
    result = {
        "machine": machine(),
        "versions": versions(),
        "teacher": {"preset": "hanmo-2m", "tokens": "700k"},
        "base": {"preset": "hanmo-1m", "tokens": "200k"},
        "held_out": {"records": len(plain[2]), "tokens": int(plain[2].sum())},
        "students": students,
    }
    write_json(RESULT, result)
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
