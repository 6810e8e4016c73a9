"""The stage that writes a microworld: ``run(settings, inputs, out)``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from hanmo.corpus.microworld.bank import Bank
from hanmo.corpus.microworld.dialogues import dialogues, preferences
from hanmo.corpus.microworld.documents import documents
from hanmo.corpus.microworld.exam import Exam, make_exam
from hanmo.corpus.microworld.overlap import Guard
from hanmo.corpus.microworld.retrieval import retrieval_baseline
from hanmo.corpus.microworld.settings import MicroworldSettings
from hanmo.corpus.microworld.teller import Teller
from hanmo.corpus.microworld.world import build_world
from hanmo.evaluate.items import chance
from hanmo.files import JsonlZstWriter, atomic_write, read_jsonl, write_json

TOTAL = 10**6  # bytes in a megabyte


def run(settings: MicroworldSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Write documents.jsonl.zst, sft.jsonl, pref.jsonl, exam.jsonl, world.json and stats.json into ``out``.

    A pure function of ``settings``: nothing is resumed, every file is written anew (atomically, as a stream). Returns
    the counts that also stand in stats.json.
    """
    out.mkdir(parents=True, exist_ok=True)
    world = build_world(settings.seed, settings.people, settings.places)
    bank = Bank(world)
    exam = make_exam(bank, settings.seed, settings.exam_per_category)
    guard = Guard(exam)
    teller = Teller(world, bank, exam.held_out)
    write_json(out / "world.json", world.to_json())
    _write_lines(out / "exam.jsonl", (item.model_dump() for item in exam.items))
    kinds: Counter[str] = Counter()
    size = characters = 0
    with JsonlZstWriter(out / "documents.jsonl.zst") as writer:
        for record in documents(teller, guard, settings.seed, int(settings.megabytes * TOTAL)):
            writer.write(record)
            kinds[record["meta"]["kind"]] += 1
            size += len(record["text"].encode("utf-8"))
            characters += len(record["text"])
    dialogue_count = _write_lines(out / "sft.jsonl", dialogues(teller, guard, settings.seed, settings.dialogues))
    pair_count = _write_lines(out / "pref.jsonl", preferences(teller, guard, settings.seed, settings.preferences))
    counts: dict[str, Any] = {
        "documents": kinds.total(),
        "bytes": size,
        "characters": characters,
        "documents_by_kind": dict(sorted(kinds.items())),
        "dialogues": dialogue_count,
        "preferences": pair_count,
        "thrown_away": dict(sorted(guard.counts.items())),
        "exam": describe(exam),
    }
    if settings.retrieval:
        counts["retrieval"] = retrieval_baseline(exam, lambda: training_texts(out))
    write_json(out / "stats.json", counts)
    return counts


def describe(exam: Exam) -> dict[str, Any]:
    """Counts of an exam: items by kind and category, the share of two-hop items, letters, the chance level."""
    items = exam.items
    return {
        "items": len(items),
        "by_category": dict(Counter(item.category for item in items)),
        "choice": sum(item.kind == "choice" for item in items),
        "two_hop_share": sum(item.hops == 2 for item in items) / len(items),
        "letters": dict(sorted(Counter(item.answer for item in items if item.choices).items())),
        "chance": sum(map(chance, items)) / len(items),
    }


def training_texts(folder: Path) -> Iterator[str]:
    """Every text of a microworld folder that a model may be trained on: documents, dialogue turns, preference pairs."""
    for _, record in read_jsonl(folder / "documents.jsonl.zst"):
        yield record["text"]
    for _, record in read_jsonl(folder / "sft.jsonl"):
        yield from (message["content"] for message in record["messages"])
    for _, record in read_jsonl(folder / "pref.jsonl"):
        for part in ("prompt", "chosen", "rejected"):
            yield from (message["content"] for message in record[part])


def _write_lines(path: Path, records: Iterator[dict[str, Any]]) -> int:
    count = 0
    with atomic_write(path, "wb") as file:
        for record in records:
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count
