"""The exam stage: models sit public exams, through lm-eval.

Out: `exams.json` with every figure, and `items-<model>.jsonl` with every item: what was asked, what the model chose and
what each option cost it.
"""

from __future__ import annotations

import itertools
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import torch

from hanmo.console import console, human_seconds
from hanmo.errors import HanmoError
from hanmo.evaluate.exams.catalog import Exam, exam
from hanmo.evaluate.exams.overlap import overlap
from hanmo.evaluate.exams.reading import Item, Part, read
from hanmo.evaluate.exams.settings import ExamSettings
from hanmo.evaluate.items import evenly
from hanmo.evaluate.significance import compare, tally
from hanmo.evaluate.stage import is_chat, load, name_folders, peculiar, pick_device
from hanmo.extras import need
from hanmo.files import atomic_write, write_json


@dataclass
class _Asked:
    """An exam with the items that are asked of it, by subject."""

    exam: Exam
    parts: list[Part]
    held: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.exam.name

    def chance(self, item: Item) -> float:
        return 1 / len(item.options) if item.options else 0.0

    def key(self, part: Part, item: Item) -> str:
        """The item's name in all outputs."""
        return f"{self.name}/{part.name}/{item.id}"


def run(settings: ExamSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Let every model sit every exam; see the module for what is written.

    Inputs: "model" (folders), "data" (optional, a folder of the exams' own files; else the hub), "corpus" (optional,
    corpus stages: which items their training text holds).

    Raises:
        HanmoError: an unknown exam, no questions, a model that cannot sit it.
    """
    need("lm_eval", "exams")
    _quiet()
    out.mkdir(parents=True, exist_ok=True)
    for left in (*out.glob("items-*.jsonl"), out / "exams.json"):
        left.unlink(missing_ok=True)
    (data,) = inputs.get("data") or [None]
    own = [name for name in settings.tasks if not name.startswith("lm:")]
    foreign = [name[3:] for name in settings.tasks if name.startswith("lm:")]
    asked = [_asked(exam(name), data, settings) for name in dict.fromkeys(own)]
    if inputs.get("corpus"):
        for one in asked:
            texts = {one.key(p, i): [i.question, *i.options] for p in one.parts for i in p.items}
            one.held = overlap(texts, inputs["corpus"], settings.contamination)
    device = pick_device(settings.device)
    models, right = [], {}
    for name, folder in name_folders(inputs["model"]).items():
        result, records = _sit(name, folder, asked, foreign, settings, device)
        models.append(result)
        right[name] = {record["item"]: bool(record["right"]) for record in records}
        with atomic_write(out / f"items-{name}.jsonl", "wb") as file:
            for record in records:
                file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    pairs = []
    for first, second in itertools.combinations(right, 2):
        for one in asked:
            keys = [key for key in right[first] if key.startswith(f"{one.name}/")]
            found = compare([right[first][k] for k in keys], [right[second][k] for k in keys], settings.resamples)
            pairs.append({"exam": one.name, "first": first, "second": second, **found})
    write_json(
        out / "exams.json",
        {
            "method": settings.method,
            "shots": settings.shots,
            "precision": settings.precision,
            "exams": {one.name: _about(one, bool(inputs.get("corpus"))) for one in asked},
            "models": models,
            "comparisons": pairs,
        },
    )
    return {
        "items": sum(len(part.items) for one in asked for part in one.parts),
        "models": {
            model["name"]: {name: found["total"]["accuracy"] for name, found in model["exams"].items()}
            for model in models
        },
    }


def _asked(one: Exam, data: Path | None, settings: ExamSettings) -> _Asked:
    parts = read(one, data)
    for part in parts:
        part.items = evenly(part.items, settings.limit)
    return _Asked(one, parts)


def _about(one: _Asked, looked: bool) -> dict[str, Any]:
    """What there is to say of an exam without a model."""
    skipped: dict[str, int] = {}
    for part in one.parts:
        for reason, count in part.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    items = [item for part in one.parts for item in part.items]
    return {
        "title": one.exam.title,
        "licence": one.exam.licence,
        "items": len(items),
        "subjects": len(one.parts),
        "chance": sum(map(one.chance, items)) / len(items),
        "skipped": skipped,
        "contaminated": {"items": len(one.held), "which": sorted(one.held)} if looked else None,
    }


def _sit(
    name: str,
    folder: Path,
    asked: Sequence[_Asked],
    foreign: Sequence[str],
    settings: ExamSettings,
    device: torch.device,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One model's figures for exams.json, and a record for every item of the exams of the catalogue."""
    from lm_eval.evaluator import evaluate

    from hanmo.evaluate.exams.asking import decides, task
    from hanmo.evaluate.exams.model import HanmoLM

    model, tokenizer = load(folder, getattr(torch, settings.precision), device)
    if peculiar(model):
        raise HanmoError(f"{folder}: a model with pinyin or from right to left sits no exams; leave it out")
    longest = int(model.config.max_position_embeddings)
    if settings.context and settings.context > longest:
        raise HanmoError(f"context is {settings.context}, but model '{name}' is made for {longest} tokens; lower it")
    writes = settings.method == "gen"
    chat = settings.chat == "yes" or (settings.chat == "auto" and writes and is_chat(model, tokenizer))
    if chat and not tokenizer.chat_template:
        raise HanmoError(f"{folder}: the tokenizer has no chat template; set chat to no")
    lm = HanmoLM(
        model,
        tokenizer,
        context=settings.context,
        batch_tokens=settings.batch_tokens or default_batch(device),
        name=name,
    )
    asking = {"apply_chat_template": chat, "fewshot_as_multiturn": chat, "bootstrap_iters": 0}
    exams: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    for one in asked:
        began = time.perf_counter()
        tasks = {
            part.name: task(part.name, one.exam.form, part, part.items, settings.method, settings.shots)
            for part in one.parts
        }
        lm.cut = 0
        whole: Any = {"tasks": tasks, "groups": {}, "group_map": {}}
        found: Any = evaluate(lm, whole, **asking)
        metric = decides(settings.method) if one.exam.form != "number" else "acc"
        own = [
            _record(one, part, item, sample, metric)
            for part in one.parts
            for item, sample in zip(part.items, found["samples"][part.name], strict=True)
        ]
        records += own
        seconds = time.perf_counter() - began
        exams[one.name] = _figures(one, own) | {
            "chat": chat,
            "shots": {part.name: min(settings.shots, len(part.examples)) for part in one.parts},
            "cut": lm.cut,
            "seconds": round(seconds, 3),
        }
        _say(name, one, exams[one.name], seconds)
    others = _foreign(lm, foreign, settings, asking) if foreign else {}
    return {"name": name, "exams": exams, "lm_eval": others}, records


def default_batch(device: torch.device) -> int:
    """Tokens that are read at once: what a processor's cache holds the activations of, or enough for an accelerator."""
    return min(4096, 512 * torch.get_num_threads()) if device.type == "cpu" else 16384


def _record(one: _Asked, part: Part, item: Item, sample: dict[str, Any], metric: str) -> dict[str, Any]:
    """An item as it was asked: the last prompt, the scores or the reply, and whether the answer is right."""
    replies = [answers[0] for answers in sample["resps"]]
    if isinstance(replies[0], str):
        given: dict[str, Any] = {"reply": replies[0]}
    else:
        given = {"scores": [round(r[0] if isinstance(r, tuple | list) else -r, 5) for r in replies]}
    key = one.key(part, item)
    return {
        "item": key,
        "subject": part.title,
        "question": item.question,
        "options": list(item.options),
        "answer": item.answer,
        **given,
        "right": bool(sample[metric]),
        **({"contaminated": round(one.held[key], 3)} if key in one.held else {}),
    }


def _figures(one: _Asked, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """In total, by subject, and over the items that the corpus does not hold."""
    chances = {one.key(part, item): one.chance(item) for part in one.parts for item in part.items}

    def over(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return tally([record["right"] for record in chosen], [chances[record["item"]] for record in chosen])

    by_part = itertools.groupby(records, key=lambda record: record["item"].split("/")[1])
    titles = {part.name: part.title for part in one.parts}
    subjects = {name: {"title": titles[name], **over(list(own))} for name, own in by_part}
    clean = [record for record in records if "contaminated" not in record]
    return {
        "total": over(records),
        "mean_of_subjects": sum(part["accuracy"] for part in subjects.values()) / len(subjects),
        "clean": over(clean) if len(clean) < len(records) else None,
        "subjects": subjects,
    }


def _foreign(lm: Any, names: Sequence[str], settings: ExamSettings, asking: dict[str, Any]) -> dict[str, Any]:
    """Tasks of lm-eval's own, as it has them: {task: {metric: value}}."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise HanmoError(f"lm-eval has no task '{unknown[0]}' (see `lm_eval ls tasks`)")
    try:
        found: Any = simple_evaluate(
            lm, tasks=list(names), num_fewshot=settings.shots, limit=settings.limit, task_manager=manager, **asking
        )
    except (OSError, ConnectionError) as error:
        raise HanmoError(
            f"lm-eval's {', '.join(names)}: the data cannot be fetched ({str(error).splitlines()[0]})"
        ) from None
    return {
        name: {
            metric.removesuffix(",none"): value for metric, value in values.items() if isinstance(value, int | float)
        }
        for name, values in found["results"].items()
    }


def _say(name: str, one: _Asked, found: dict[str, Any], seconds: float) -> None:
    total = found["total"]
    word = {"above": "above chance", "below": "below chance", "same": "no better than chance"}[total["versus_chance"]]
    held = f", {len(one.held)} items in the corpus" if one.held else ""
    console.print(
        f"{name}: {one.exam.title} {total['k']} of {total['n']} right, {total['accuracy']:.1%} [{total['low']:.1%}, "
        f"{total['high']:.1%}], chance {total['chance']:.1%}: {word}{held}, in {human_seconds(seconds)}",
        markup=False,
        soft_wrap=True,
    )


def _quiet() -> None:
    """lm-eval speaks of every task; what matters of it is in the results."""
    import lm_eval.api.task

    for logger in ("lm_eval", "lm-eval", "datasets"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    # Its bars, one a subject, have no switch of their own.
    lm_eval.api.task.tqdm = lambda items, **_: items  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", module="lm_eval")
