"""Everything a run folder says about itself, gathered into one JSON-able value: report.json.

Reads what stages leave behind (`manifest.json`, `log.jsonl`, `samples.jsonl`, `stats.json`, `records.json`, the
tokenizer, `eval.json` and the replies beside it). A stage that lacks one of them simply says less: nothing here is
required but an eval.json. Absolute paths stay out; a stage's inputs are given by the names of their folders.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hanmo.errors import HanmoError
from hanmo.evaluate.items import evenly
from hanmo.evaluate.settings import ReportSettings
from hanmo.files import read_json, read_jsonl

#: Figures of a log line that are places on an axis or bookkeeping, not curves.
_NOT_CURVES = {
    *("step", "tokens", "epoch", "seconds", "bits_per_byte", "model_flops_per_second", "memory_mb", "batch_tokens"),
    *("skipped", "rollbacks", "loss_scale", "overflows"),
}
#: Stages that train a model, in the order in which they are shown.
_TRAINED = ("pretrain", "sft", "distill", "reward", "dpo", "grpo")
#: Items shown of an exam: so many that were learnt on the way, and so many that the last model still gets wrong.
_LEARNT, _STILL_WRONG = 6, 3


def collect(run: Path, evals: list[Path], settings: ReportSettings, out: Path) -> dict[str, Any]:
    """Gather a run.

    Args:
        run: the folder with a folder for every stage.
        evals: eval stages (usually one, inside `run`).
        out: the report's own folder, left out.
    """
    folders = {path.resolve(): None for path in sorted(run.iterdir()) if path.is_dir()} if run.is_dir() else {}
    folders |= {path.resolve(): None for path in evals}
    folders.pop(out.resolve(), None)
    stages = [stage for folder in folders if (stage := _stage(folder)) is not None]
    stages.sort(key=lambda stage: (stage.get("started") or "~", stage["name"]))
    by_do: dict[str, list[Path]] = {}
    for stage in stages:
        by_do.setdefault(stage["do"], []).append(stage.pop("folder"))
    trained = [folder for do in _TRAINED for folder in by_do.get(do, [])]
    drawn = {}
    for do in _TRAINED:
        for folder in by_do.get(do, []):
            if series := curves(folder, settings.curve_points, by_tokens=do == "pretrain"):
                drawn[folder.name] = {"do": do, **series}
    evaluations = [evaluation(folder) for folder in evals]
    report: dict[str, Any] = {
        "title": settings.title or run.resolve().name,
        "stages": stages,
        "curves": drawn,
        "training_samples": {folder.name: found for folder in trained if (found := training_samples(folder))},
        "evaluations": evaluations,
        "data": {f.name: corpus(f, settings.reject_examples) for f in by_do.get("corpus", []) if _has(f, "stats.json")},
        "aligned": {
            folder.name: read_json(folder / "aligned.json") for folder in trained if _has(folder, "aligned.json")
        },
        "records": {folder.name: records(folder) for folder in trained if _has(folder, "records.json")},
        "tokenizers": {
            folder.name: tokenizer_facts(folder)
            for folder in by_do.get("tokenizer", [])
            if (folder / "tokenizer.json").is_file()
        },
    }
    report["headline"] = headline(report)
    return report


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _stage(folder: Path) -> dict[str, Any] | None:
    """What the manifest says, for a stage that is done."""
    if not _has(folder, "manifest.json"):
        return None
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or "do" not in manifest:
        return None
    kept = ("settings", "counts", "seconds", "peak_memory_mb", "peak_anonymous_mb", "started", "versions", "machine")
    return {
        "name": str(manifest.get("stage", folder.name)),
        "do": str(manifest["do"]),
        "inputs": {role: [Path(p).name for p in paths] for role, paths in manifest.get("inputs", {}).items()},
        **{key: manifest.get(key) for key in kept},
        "folder": folder,
    }


def _log(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a log; one that a killed stage tore is passed over."""
    if not path.is_file():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            yield value


def curves(folder: Path, most: int, by_tokens: bool) -> dict[str, Any] | None:
    """{x: "tokens" | "step", series: {name: [[x, y], ...]}} of a log, every series thinned to `most` points.

    A line without tokens (a look at held-out text) is placed by its step.
    """
    found = list(_log(folder / "log.jsonl"))
    steps = [float(line["step"]) for line in found if isinstance(line.get("tokens"), int)]
    tokens = [float(line["tokens"]) for line in found if isinstance(line.get("tokens"), int)]
    by_tokens = by_tokens and len(steps) > 1
    series: dict[str, list[list[float]]] = {}
    for line in found:
        x = float(np.interp(line["step"], steps, tokens)) if by_tokens else float(line["step"])
        for name, value in line.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name not in _NOT_CURVES and number and math.isfinite(value):
                series.setdefault(told_apart(name, line), []).append([x, float(value)])
    if not series:
        return None
    return {
        "x": "tokens" if by_tokens else "step",
        "series": {name: thin(points, most) for name, points in series.items()},
    }


def told_apart(name: str, names: Collection[str]) -> str:
    """What a figure of a log line is called, given the names of all its figures.

    A look at held-out records gives some figures the names that they have in training, too.
    """
    look = any(one.startswith("validation_") for one in names)
    return name if not look or name.startswith("validation_") else f"validation_{name}"


def thin(points: list[list[float]], most: int) -> list[list[float]]:
    """At most about `most` points: each the mean of an equal stretch, the first and the last kept as they are."""
    if len(points) <= most:
        return points
    inner = np.array_split(np.array(points[1:-1]), most - 2)
    return [points[0], *([float(part[:, 0].mean()), float(part[:, 1].mean())] for part in inner), points[-1]]


def training_samples(folder: Path) -> list[dict[str, Any]]:
    """[{prompt, texts: [{step, text}]}] of a training run; the texts are what follows the prompt."""
    prompts: dict[str, list[dict[str, Any]]] = {}
    for line in _log(folder / "samples.jsonl"):
        prompt = str(line.get("prompt", ""))
        text = str(line.get("text", "")).removeprefix(prompt)
        prompts.setdefault(prompt, []).append({"step": line["step"], "text": text})
    return [{"prompt": prompt, "texts": texts} for prompt, texts in prompts.items()]


def corpus(folder: Path, examples: int) -> dict[str, Any]:
    """The account of a corpus stage: read = train + heldout + rejected, by source and reason, with examples."""
    stats = read_json(folder / "stats.json")
    shown: dict[str, list[dict[str, str]]] = {}
    for name, source in stats["sources"].items():
        for reason, cases in source.get("examples", {}).items():
            for case in cases:
                place = f"{name} · {Path(case.get('where', '')).name}"
                text = {"where": place, "detail": case.get("detail", ""), "text": case.get("text", "")}
                shown.setdefault(reason, []).append(text)
    keys = ("read", "train", "heldout", "rejected")
    return {
        **{key: stats[key] for key in keys},
        "changed": stats.get("changed", {}),
        "bad_files": stats.get("bad_files", 0),
        "sources": {
            name: {**{key: source[key] for key in keys}, "licence": source.get("licence", "")}
            for name, source in stats["sources"].items()
        },
        "examples": {reason: cases[:examples] for reason, cases in shown.items()},
    }


def records(folder: Path) -> dict[str, Any]:
    """The account of a tuning stage's records, file names without their folders."""
    found = read_json(folder / "records.json")
    for key in ("files", "skipped_at"):
        for item in found.get(key, []):
            item["file"] = Path(str(item.get("file", ""))).name
    return found


def tokenizer_facts(folder: Path) -> dict[str, Any]:
    """Of a vocabulary: its size, how many characters its tokens have, and its longest Chinese tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    lengths: dict[str, int] = {}
    han: list[str] = []
    for index in range(tokenizer.get_vocab_size()):
        if index in special:
            continue
        text = tokenizer.decode([index])
        if "\ufffd" in text:
            kind = "bytes"  # a piece of a character
        else:
            count = len(text.strip())
            kind = str(count) if count < 4 else "4+"
            if count > 1 and all("\u4e00" <= char <= "\u9fff" for char in text.strip()):
                han.append(text.strip())
        lengths[kind] = lengths.get(kind, 0) + 1
    han.sort(key=lambda text: (-len(text), text))
    return {
        "vocabulary": tokenizer.get_vocab_size(),
        "special": len(special),
        "lengths": {kind: lengths[kind] for kind in sorted(lengths)},
        "longest": han[:24],
        "cut": [cut(tokenizer, text) for text in ("春天到了，花园里的花都开了。", "2024年3月5日，Hanmo学会了写字。")],
    }


def cut(tokenizer: Any, text: str) -> list[str]:
    """The pieces a text is cut into, by the places where its tokens stand; pieces of one character stay together."""
    ends = sorted({end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets})
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def evaluation(folder: Path) -> dict[str, Any]:
    """eval.json with some items and the models' replies to them."""
    if not _has(folder, "eval.json"):
        raise HanmoError(f"{folder}: no eval.json there; give the folder of an eval stage that has finished")
    found = read_json(folder / "eval.json")
    replies = {}
    for model in found["models"]:
        file = folder / f"exam-{model['name']}.jsonl"
        replies[model["name"]] = [row for _, row in read_jsonl(file)] if file.is_file() and file.stat().st_size else []
    return found | {"items": items_shown(replies)}


def items_shown(replies: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Items of several categories that the first model got wrong and the last right, then some the last gets wrong."""
    if not replies or not all(replies.values()):
        return []
    rows = list(zip(*replies.values(), strict=True))
    learnt: dict[tuple[str, str], Any] = {}
    wrong: dict[tuple[str, str], Any] = {}
    for row in rows:
        key = (row[-1]["exam"], row[-1]["category"])
        if not row[-1]["right"]:
            wrong.setdefault(key, row)
        elif key not in learnt or (learnt[key][0]["right"] and not row[0]["right"]):
            learnt[key] = row
    chosen = [*evenly(list(learnt.values()), _LEARNT), *evenly(list(wrong.values()), _STILL_WRONG)]
    return [
        {
            **{key: row[-1][key] for key in ("exam", "category", "kind", "hops", "question", "answer")},
            "replies": [
                {"model": name, "reply": one["reply"], "right": one["right"]}
                for name, one in zip(replies, row, strict=True)
            ],
        }
        for row in chosen
    ]


def headline(report: dict[str, Any]) -> dict[str, Any]:
    """The figures a person looks for first; absent ones are left out."""
    found: dict[str, Any] = {}
    models = [model for part in report["evaluations"] for model in part["models"]]
    if models:
        found["parameters"] = models[-1]["parameters"]
    tokens = [
        stage["counts"]["tokens"]
        for stage in report["stages"]
        if stage["do"] == "pretrain" and (stage["counts"] or {}).get("tokens")
    ]
    if tokens:
        found["trained_tokens"] = sum(tokens)
    scored = [model for model in models if model["heldout"]]
    if scored:
        # The first base model is what pretraining made; tuning for chat is expected to cost a little here.
        model = next((one for one in scored if one["kind"] == "base"), scored[0])
        part = model["heldout"]
        found["heldout"] = {"model": model["name"], **{k: part[k] for k in ("bits_per_byte", "low", "high")}}
        found["characters_per_token"] = part["characters_per_token"]
    for part in report["evaluations"]:
        for name, exam in part["exams"].items():
            sat = [model for model in part["models"] if name in model["exams"]]
            if sat and "exam" not in found:
                first, last = sat[0], sat[-1]
                found["exam"] = {
                    "name": name,
                    "items": exam["items"],
                    "chance": exam["chance"],
                    "first": {"model": first["name"], **first["exams"][name]["total"]},
                    "last": {"model": last["name"], **last["exams"][name]["total"]},
                    "baselines": {key: value["accuracy"] for key, value in exam["baselines"].items()},
                }
    seconds = [stage["seconds"] for stage in report["stages"] if stage["seconds"] is not None]
    memory = [stage["peak_memory_mb"] for stage in report["stages"] if stage["peak_memory_mb"] is not None]
    if seconds:
        found["seconds"] = sum(seconds)
    if memory:
        found["peak_memory_mb"] = max(memory)
    machine = next((stage["machine"] for stage in reversed(report["stages"]) if stage["machine"]), None)
    if machine:
        found["machine"] = machine
    return found
