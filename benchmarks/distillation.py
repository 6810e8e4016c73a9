"""What a student gains from a teacher's probabilities, and from its answers, against tuning on the records alone.

All on the small world, one base model for all students, two passes each (`both`: one). Measured on records that nobody
was tuned on: KL(teacher || student) and the loss on their own words, a token, with differences from the student tuned
on records alone (paired, records resampled). For `answers` the teacher answers the opening questions of the records
that the others are tuned on, which are fewer and shorter than the records; for `both` the records are tuned on besides.

    python benchmarks/distillation.py [--work DIR] [--ways NAME ...]   30 minutes on a free core; a killed run goes on
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
from hanmo.posttrain.records import Item, hold_out, read_items, sft_kind
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
    "answers": {"do": "sft", "records": ["told"]},
    "both": {"do": "sft", "records": ["told", "./taught.jsonl"], "epochs": 1},
}
#: The records that students are tuned on, as a file: what the teacher is asked.
TAUGHT = "taught.jsonl"


def recipe(ways: list[str]) -> dict[str, Any]:
    stages: list[dict[str, Any]] = [
        {"name": "world", "do": "microworld", "megabytes": 3, "dialogues": 2000, "preferences": 10},
        {"name": "corpus", "do": "corpus", "from": {"documents": "world", "exams": "world"}, "near_similarity": 0},
        {"name": "tokenizer", "do": "tokenizer", "from": "corpus", "vocab_size": 2048},
        {"name": "tokens", "do": "tokens", "from": {"corpus": "corpus", "tokenizer": "tokenizer"}},
        {"name": "big", **PRETRAIN, "preset": "hanmo-2m", "tokens": "700k"},
        {"name": "small", **PRETRAIN, "preset": "hanmo-1m", "tokens": "200k"},
        {"name": "teacher", "do": "sft", "from": {"model": "big", "records": "world"}, **TUNE, "epochs": 3},
    ]
    if any("records" in WAYS[name] for name in ways):
        stages.append({"name": "told", "do": "answers", "from": {"teacher": "teacher", "prompts": f"./{TAUGHT}"}})
        stages[-1] |= {"temperature": 0, "answer_tokens": 96, "keep_cut": True}
    for name in ways:
        way = dict(WAYS[name])
        read = way.pop("records", "world")
        given = {"model": "small", "records": read} | ({"teacher": "teacher"} if way["do"] == "distill" else {})
        # What the teacher was asked holds none of the held-out records.
        whole = {} if read == "world" else {"validation": 0.0}
        stages.append({"name": name, "from": given, **TUNE, **whole, **way})
    return {"name": "distillation", "stages": stages}


def sides(work: Path) -> tuple[list[Item], list[Item]]:
    """The records that stages train on and those that they hold out: the choice goes by their prompts and the seed."""
    settings = DistillSettings(validation=TUNE["validation"], seed=TUNE["seed"])
    items, _ = read_items([work / "world"], settings, sft_kind(settings))
    return hold_out(items, settings.validation)


def held_out(work: Path, start: training.Start) -> list[Example]:
    """The held-out records as every stage encodes them."""
    _, held = sides(work)
    notes: Counter[str] = Counter()
    return [one for item in held for one in encode_parts(start.chat, item.value, start.limit, "truncate", notes)]


def measured(work: Path, student: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each held-out record: KL from the teacher and loss, in nats, and tokens."""
    settings = DistillSettings(validation=TUNE["validation"], seed=TUNE["seed"], precision="fp32")
    with tempfile.TemporaryDirectory() as scratch:
        start = training.Start(work / student, settings, Path(scratch))
    held = held_out(work, start)
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
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="only these, beside `records`")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="hanmo-distillation-"))
    work.mkdir(parents=True, exist_ok=True)
    path = work / "recipe.yaml"
    ways = list(dict.fromkeys(["records", *given.ways]))
    path.write_text(yaml.safe_dump(recipe(ways), sort_keys=False, allow_unicode=True), encoding="utf-8")
    api.run(path, out=work, until="world")
    taught = [orjson.dumps({"messages": item.value}) for item in sides(work)[0]]
    (work / TAUGHT).write_bytes(b"\n".join(taught) + b"\n")
    api.run(path, out=work)
    found = {name: measured(work, name) for name in ways}
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
    if RESULT.is_file() and set(ways) != set(WAYS):
        # The students are the same wherever they are trained: what an earlier run found of the others stays.
        before = read_json(RESULT)["students"]
        if before["records"]["loss"] != students["records"]["loss"]:
            raise SystemExit("the student tuned on records is another one than in the result: run all ways")
        result["students"] = before | students
    write_json(RESULT, result)
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
