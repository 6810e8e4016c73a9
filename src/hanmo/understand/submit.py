"""Predictions in the forms that CLUE's server takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanmo.files import atomic_write, write_json
from hanmo.understand.forms import Example
from hanmo.understand.tasks import Task


def submission(task: Task, examples: Sequence[Example], predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """The records of a submission: {id, label}, for a choice {id, answer}; an example without an id has its number."""
    key = "answer" if task.head == "choice" else "label"
    records = []
    for number, (example, found) in enumerate(zip(examples, predictions, strict=True)):
        if task.head == "entities":
            found = entities_label(example.texts[0], found)
        records.append({"id": number if example.id is None else example.id, key: found})
    return records


def entities_label(text: str, entities: Sequence[tuple[int, int, str]]) -> dict[str, dict[str, list[list[int]]]]:
    """CLUENER's form: type -> mention -> [[first, last], ...]."""
    label: dict[str, dict[str, list[list[int]]]] = {}
    for start, end, kind in entities:
        label.setdefault(kind, {}).setdefault(text[start:end], []).append([start, end - 1])
    return label


def write_submission(path: Path, task: Task, examples: Sequence[Example], predictions: Sequence[Any]) -> None:
    """Write a submission: JSON lines, or one object of ids and answers for reading and for CLUE's idioms."""
    gaps = task.form == "chid" and all(str(example.id).startswith("#idiom") for example in examples)
    records = submission(task, examples, predictions)
    if task.head == "reading" or gaps:
        write_json(path, {str(record["id"]): record["answer" if gaps else "label"] for record in records})
        return
    with atomic_write(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
