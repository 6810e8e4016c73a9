"""The tokenizers' report: several measured on the same text, as one page and as JSON.

`measure` counts, `words` holds every text in two languages; the frame of the page is `hanmo.pages`, the geometry of
axes `hanmo.charts`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hanmo import charts
from hanmo.console import console, human_bytes
from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter, atomic_write, write_json
from hanmo.pages import environment
from hanmo.pool import cores, run_tasks
from hanmo.tokenizer.kinds import KINDS, kinds_of
from hanmo.tokenizer.measure import PARTS, MeasureTask, measure
from hanmo.tokenizer.opening import open_tokenizer
from hanmo.tokenizer.texts import documents
from hanmo.tokenizer.words import PAGE, tip

#: Characters of one document that are measured, so that no book stands for its source alone.
_LONGEST = 20_000
#: A path is read until so many times the wanted text went by without a source that still wants some.
_PATIENCE = 20
#: Kinds of which a line is shown as every tokenizer cuts it (the longest seen), and how long it may be.
_SHOWN_KINDS = ("modern", "poetry", "traditional", "technical", "english")
_LONGEST_LINE = 48
#: Above this share of unknown characters a rate of compression means nothing: what is not said costs nothing.
_DOUBTFUL = 0.02


def report(
    tokenizers: Sequence[Path],
    texts: Sequence[Path],
    out: Path,
    *,
    megabytes: float = 1.0,
    rare: int = 3,
    language: str = "auto",
    workers: int = 0,
) -> dict[str, Any]:
    """Measure tokenizers on text and write report.html and report.json.

    Args:
        tokenizers: paths that `open_tokenizer` knows; in a model folder the rows of the embedding are looked at, too.
        texts: corpus folders or files; what a document is counted under see `texts.documents`.
        out: a folder, or the name of the .html file.
        megabytes: text measured of every source.
        rare: a token that occurs less often than this counts as rare.
        language: of the page: auto, en or zh.
        workers: processes; 0: as many as there are processors.

    Returns:
        What report.json holds.

    Raises:
        HanmoError: a tokenizer or a text that cannot be read.
    """
    names = short_names(tokenizers)
    for path in tokenizers:
        open_tokenizer(path)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "documents.jsonl.zst"
        facts = _draw(texts, int(megabytes * 1e6), sample)
        tasks = [
            MeasureTask(name, path, sample, rare, tuple(facts["lines"]))
            for name, path in zip(names, tokenizers, strict=True)
        ]
        found: dict[str, Any] = {}
        for task, result in run_tasks(measure, tasks, workers or cores()):
            found[task.name] = result
            rate = result["total"]["characters_per_token"]
            console.print(f"{task.name}: {rate} characters a token", markup=False, highlight=False)
    result = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version("hanmo"),
        "text": facts,
        "tokenizers": [found[name] for name in names],
    }
    page = render(result, language)
    target = out if out.suffix == ".html" else out / "report.html"
    write_json(target.with_suffix(".json"), result)
    with atomic_write(target) as file:
        file.write(page)
    console.print(f"report: {target} ({human_bytes(len(page.encode()))})", markup=False)
    return result


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest names that tell the paths apart: the last part, with those before it where it must be."""
    found = []
    parts = [list(path.resolve().parts) for path in paths]
    for own in parts:
        for length in range(1, len(own) + 1):
            name = own[-length:]
            if sum(other[-length:] == name for other in parts) == 1:
                break
        else:
            raise HanmoError(f"{'/'.join(own)}: the same tokenizer is given twice")
        # A file of the form's usual name says nothing; its folder does.
        if length == 1 and name[0] in ("tokenizer.json", "tokenizer.model", "vocab.txt") and len(own) > 1:
            name = own[-2:]
        found.append("/".join(name))
    return found


def _draw(paths: Sequence[Path], most: int, out: Path) -> dict[str, Any]:
    """Write the documents to measure on, `most` bytes of every source, and say what they are."""
    taken: dict[str, int] = {}
    count = characters = 0
    candidates: dict[str, str] = {}
    with JsonlZstWriter(out) as file:
        for path in paths:
            idle = 0
            for document in documents(path):
                text = document.text[:_LONGEST]
                size = len(text.encode())
                if taken.get(document.source, 0) >= most:
                    idle += size
                    if idle > _PATIENCE * most:
                        break
                    continue
                taken[document.source] = taken.get(document.source, 0) + size
                kinds = kinds_of(text)
                file.write({"source": document.source, "text": text, "kinds": kinds})
                count, characters = count + 1, characters + len(text)
                start = 0
                for end, kind in kinds:
                    for line in text[start:end].split("\n")[:3]:
                        if len(candidates.get(kind, "")) < len(line.strip()) <= _LONGEST_LINE:
                            candidates[kind] = line.strip()
                    start = end
    if not count:
        raise HanmoError(f"{paths[0]}: no text there")
    return {
        "documents": count,
        "characters": characters,
        "bytes": sum(taken.values()),
        "sources": taken,
        "lines": [candidates[kind] for kind in _SHOWN_KINDS if kind in candidates],
    }


def render(result: dict[str, Any], language: str) -> str:
    """The page as one HTML document."""
    own = Path(__file__).parent / "page"
    page = environment(own, PAGE)
    page.filters |= {
        "fixed": lambda value, digits=2: "–" if value is None else f"{value:.{digits}f}",
        "share": lambda value, whole: f"{100 * value / whole:.3f}" if whole else "0",
    }
    page.globals |= {"tip": tip}
    tokenizers = result["tokenizers"]
    view = {
        "report": result,
        "language": language,
        "best": max(
            tokenizers, key=lambda one: (not doubtful(one["total"]), one["total"]["characters_per_token"] or 0)
        ),
        "widest": max(tokenizers, key=lambda one: one["total"]["coverage"] or 0),
        "lossless": sum(not one["losses"]["differing"] for one in tokenizers),
        "scatter": _scatter(tokenizers),
        "tables": [
            _table(tokenizers, "by_kind", "kinds", KINDS),
            _table(tokenizers, "by_source", "sources", sorted(result["text"]["sources"])),
        ],
        "parts": PARTS,
        "training": [_histogram(one) for one in tokenizers if "training" in one],
        "style": Markup("{}\n{}").format(page.globals["style"], Markup((own / "own.css").read_text(encoding="utf-8"))),
    }
    return page.get_template("report.html.j2").render(view)


def doubtful(counts: dict[str, Any]) -> bool:
    """Whether so much of a text is unknown that its characters per token are no compression."""
    return counts["unknown"] > _DOUBTFUL * counts["characters"]


def _scatter(tokenizers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Size of the vocabulary (logarithmic) against characters per token: axes and places in percent."""
    rates = [one["total"]["characters_per_token"] or 0.0 for one in tokenizers]
    sizes = [math.log10(max(1, one["tokens"])) for one in tokenizers]
    low, high = min(sizes) - 0.12, max(sizes) + 0.12
    ticks = [unit * 10**power for power in range(2, 7) for unit in (1, 2, 5)]
    scale = charts.Axis(low, high, [])
    scale = charts.Axis(
        low, high, [(scale.place(math.log10(t)), charts.short(t)) for t in ticks if low <= math.log10(t) <= high]
    )
    y = charts.axis(min(0.5, *rates), max(rates), 6)
    points = [
        {"number": number, "name": one["name"], "rate": rate, "x": scale.place(size), "y": 100 - y.place(rate)}
        for number, (one, rate, size) in enumerate(zip(tokenizers, rates, sizes, strict=True), 1)
    ]
    return {"x": scale, "y": y, "points": points}


def _table(tokenizers: Sequence[dict[str, Any]], title: str, part: str, order: Sequence[str]) -> dict[str, Any]:
    """A table of characters per token: columns that occur, rows of {name, cells: [{value, shade}]}."""
    columns = [name for name in order if any(name in one[part] for one in tokenizers)]
    spans = {}
    for name in columns:
        there = [found for one in tokenizers if (found := one[part].get(name)) and not doubtful(found)]
        values = [found["characters_per_token"] for found in there if found["characters_per_token"]]
        spans[name] = (min(values, default=0.0), max(values, default=1.0))
    rows = []
    for one in tokenizers:
        cells = []
        for name in columns:
            found = one[part].get(name)
            value = found["characters_per_token"] if found else None
            doubt = bool(found) and doubtful(found)
            low, high = spans[name]
            shade = 0.0 if value is None or doubt or high <= low else 42 * (value - low) / (high - low)
            cells.append({"value": value, "shade": round(0 if doubt else 4 + shade), "doubtful": doubt})
        rows.append({"name": one["name"], "cells": cells})
    lengths = [tokenizers[0][part].get(name, {}).get("characters", 0) for name in columns]
    return {"title": title, "columns": columns, "lengths": lengths, "rows": rows}


def _histogram(one: dict[str, Any]) -> dict[str, Any]:
    """A model's indicator as bars: {name, facts, bars: [{x, width, height, low}], x: axis}."""
    facts = one["training"]
    counts, edges = facts["histogram"]["counts"], facts["histogram"]["edges"]
    x = charts.axis(edges[0], edges[-1], 6, pad=False)
    most = max([math.log1p(count) for count in counts], default=1.0) or 1.0
    bars = [
        {
            "x": x.place(edges[at]),
            "width": x.place(edges[at + 1]) - x.place(edges[at]),
            # Logarithmic: the few that stand apart are what the picture is for.
            "height": 100 * math.log1p(count) / most,
            "low": edges[at] < facts["threshold"],
        }
        for at, count in enumerate(counts)
    ]
    return {"name": one["name"], "facts": facts, "bars": bars, "x": x}
