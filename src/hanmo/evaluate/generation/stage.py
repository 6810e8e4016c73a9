"""The generation stage: models answer a task's records, and their answers are judged.

Out: `generation.json` with every figure and its interval, and `predictions-<model>.jsonl` with every answer.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from hanmo.console import console, human_seconds, progress
from hanmo.evaluate import variety
from hanmo.evaluate.generation import checks, overlap
from hanmo.evaluate.generation.files import Item, read_items
from hanmo.evaluate.generation.measures import Measure, differences, figures
from hanmo.evaluate.generation.settings import GenerationSettings, RecordsSettings, TaskSettings
from hanmo.evaluate.generation.tasks import Task, task
from hanmo.files import atomic_write, write_json


def run(settings: GenerationSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Let every model answer; see the module for what is written.

    Inputs: "model" (folders), "data" (the task's files), "examples" (optional, more of such files: worked examples for
    models that are asked plainly).

    Raises:
        HanmoError: an unknown task, a faulty file, a model that cannot be asked.
    """
    from hanmo.evaluate.generation.writing import Writer
    from hanmo.evaluate.stage import name_folders, pick_device

    chosen = task(settings.task)
    items, account = read_items(inputs["data"], chosen, settings)
    examples = _examples(inputs.get("examples") or [], chosen, settings)
    judge(chosen, items, [""] * len(items))  # a package that is missing is said before anything is written
    out.mkdir(parents=True, exist_ok=True)
    for left in (*out.glob("predictions-*.jsonl"), out / "generation.json"):
        left.unlink(missing_ok=True)
    device = pick_device(settings.device)
    models: list[dict[str, Any]] = []
    measured: dict[str, dict[str, Measure]] = {}
    for name, folder in name_folders(inputs["model"]).items():
        began = time.perf_counter()
        writer = Writer(folder, settings, device, settings.answer_tokens or chosen.tokens, examples)
        with progress() as bar:
            shown = bar.add_task(f"{name}: {chosen.name}", total=len(items), info="")
            prompts = [asked(chosen, settings, item) for item in items]
            replies = writer.write(prompts, lambda done, bar=bar, shown=shown: bar.advance(shown, done))
        texts = [reply.text for reply in replies]
        measured[name], counted = judge(chosen, items, texts)
        found = figures(measured[name], settings.resamples, settings.seed)
        models.append(
            {
                "name": name,
                "parameters": writer.parameters,
                "asked": writer.way,
                "shots": writer.shots,
                "figures": found,
                "variety": _variety(texts) if chosen.kind == "text" else None,
                "counts": counted
                | {
                    "empty": sum(not reply.text and not reply.too_long for reply in replies),
                    "cut": sum(reply.cut for reply in replies),
                    "too_long": sum(reply.too_long for reply in replies),
                },
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        _write(out / f"predictions-{name}.jsonl", items, texts, measured[name])
        main = found[chosen.main]
        console.print(
            f"{name}: {chosen.name} {chosen.main} {main['value']:.1%} [{main['low']:.1%}, {main['high']:.1%}] on "
            f"{len(items)} records in {human_seconds(models[-1]['seconds'])}",
            markup=False,
        )
    pairs = [
        {"first": a, "second": b, **differences(measured[a], measured[b], settings.resamples, settings.seed)}
        for a, b in itertools.combinations(measured, 2)
    ]
    write_json(
        out / "generation.json",
        {
            "task": chosen.name,
            "main": chosen.main,
            "prompt": settings.prompt or chosen.prompt,
            "records": account.as_json(),
            "models": models,
            "baselines": _baselines(chosen, items, settings),
            "references": _variety([item.references[0] for item in items]) if chosen.kind == "text" else None,
            "comparisons": pairs,
        },
    )
    return {
        "records": len(items),
        "skipped": account.skipped.total(),
        "models": {one["name"]: {chosen.main: one["figures"][chosen.main]["value"]} for one in models},
    }


def make_records(settings: RecordsSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Write `sft.jsonl`, a dialogue of one turn for each record of the task's files, and `records.json`.

    Inputs: "data" (the task's files).
    """
    chosen = task(settings.task)
    items, account = read_items(inputs["data"], chosen, settings)
    with atomic_write(out / "sft.jsonl", "wb") as file:
        for item in items:
            turns = (("user", asked(chosen, settings, item)), ("assistant", item.learnt))
            record = {"messages": [{"role": role, "content": text} for role, text in turns]}
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    write_json(out / "records.json", account.as_json())
    return {"records": len(items), "skipped": account.skipped.total()}


def asked(chosen: Task, settings: TaskSettings, item: Item) -> str:
    """What a model is asked."""
    return (settings.prompt or chosen.prompt).replace("{}", item.source)


def judge(chosen: Task, items: Sequence[Item], texts: Sequence[str]) -> tuple[dict[str, Measure], dict[str, int]]:
    """The figures of answers to a task's items, and what was counted on the way."""
    references = [item.references for item in items]
    match chosen.kind:
        case "words":
            return checks.words(texts, [one for (one,) in references])
        case "spelling":
            return checks.spelling(texts, [item.source for item in items], [one for (one,) in references])
        case "sums":
            values = [checks.answer_of(answer) for answer, _ in references]
            return checks.sums(texts, values, [equation for _, equation in references])
        case "facts":
            return checks.facts(texts, references)
        case _:
            return overlap.measures(texts, references), {}


def _examples(paths: Sequence[Path], chosen: Task, settings: GenerationSettings) -> list[tuple[str, str]]:
    if not paths:
        return []
    items, _ = read_items(paths, chosen, settings)
    drawn = random.Random(settings.seed).sample(items, min(settings.shots, len(items)))
    return [(asked(chosen, settings, item), item.learnt) for item in drawn]


def _variety(texts: Sequence[str]) -> dict[str, float] | None:
    return variety.figures([[text] for text in texts]) if any(text.strip() for text in texts) else None


def _baselines(chosen: Task, items: Sequence[Item], settings: GenerationSettings) -> dict[str, Any]:
    """What needs no model: a text's beginning, as long as references are; single characters, and jieba's words."""
    made: dict[str, list[str]] = {}
    if chosen.kind == "text":
        length = round(sum(len(item.references[0]) for item in items) / len(items))
        made["beginning"] = [item.source[:length] for item in items]
    elif chosen.kind == "words":
        made["characters"] = [" ".join(item.source) for item in items]
        made["jieba"] = [" ".join(overlap.words(item.source)) for item in items]
    elif chosen.kind == "spelling":
        made["unchanged"] = [item.source for item in items]
    return {
        name: figures(judge(chosen, items, texts)[0], settings.resamples, settings.seed) for name, texts in made.items()
    }


def _write(path: Path, items: Sequence[Item], texts: Sequence[str], measured: dict[str, Measure]) -> None:
    """A line a record, with the figures that are means over records."""
    single = {
        name: one.total(one.sums)
        for name, one in measured.items()
        if one.sums.shape[1] == 2 and not name.startswith("kept")
    }
    with atomic_write(path, "wb") as file:
        for number, (item, text) in enumerate(zip(items, texts, strict=True)):
            record = {
                "id": item.id,
                "file": item.place.file.name,
                "line": item.place.line,
                "source": item.source,
                "references": item.references,
                "prediction": text,
                **{name: round(float(values[number]), 4) for name, values in single.items()},
            }
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
