"""The report stage: one page about a whole run, and the same as JSON.

`collect` gathers, `draw` does the curves, `words` holds every text in two languages, `page/report.html.j2` is the page
(see `hanmo.pages`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hanmo.charts import axis as axis_of
from hanmo.console import console, human_bytes, human_count
from hanmo.corpus.flows import flow_of
from hanmo.evaluate import draw
from hanmo.evaluate.collect import collect
from hanmo.evaluate.settings import ReportSettings
from hanmo.evaluate.words import WORDS
from hanmo.files import atomic_write, write_json
from hanmo.pages import Words, environment, percent, visible

#: What a stage of a kind is known by: keys of its counts (dots lead into groups), and how to write the value.
_OUTCOMES: dict[str, tuple[tuple[str, str], ...]] = {
    "microworld": (("documents", "count"), ("bytes", "bytes"), ("dialogues", "count")),
    "corpus": (("train.documents", "count"), ("train.bytes", "bytes"), ("heldout.documents", "count")),
    "tokenizer": (("vocab_size", "count"), ("vocabulary", "count"), ("characters_per_token", "number")),
    "tokens": (("train.tokens", "count"), ("heldout.tokens", "count")),
    "pretrain": (("parameters", "count"), ("tokens", "count"), ("loss", "number"), ("heldout_bpb", "number")),
    "sft": (("records", "count"), ("steps", "count"), ("validation_loss_after", "number")),
    "records": (("records", "count"),),
    "questions": (("records", "count"), ("held", "count")),
    "answers": (("prompts", "count"), ("records", "count")),
    "distill": (("records", "count"), ("steps", "count"), ("validation_loss_after", "number")),
    "reward": (("records", "count"), ("steps", "count"), ("validation_accuracy", "percent")),
    "dpo": (("records", "count"), ("steps", "count"), ("validation_accuracy_after", "percent")),
    "grpo": (("records", "count"), ("steps", "count"), ("reward_after", "number")),
    "eval": (("scored_documents", "count"), ("exam_items", "count")),
}
_PAGE = Words(WORDS)
both = _PAGE.both


def run(settings: ReportSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Write report.json and report.html.

    Inputs: "eval" (eval stages) and, optionally, "run" (the run's folder; default: the one the first eval stands in).
    """
    evals = inputs["eval"]
    folder = inputs["run"][0] if inputs.get("run") else evals[0].resolve().parent
    report = collect(folder, evals, settings, out)
    report["made"] = datetime.now(UTC).isoformat(timespec="seconds")
    report["version"] = version("hanmo")
    out.mkdir(parents=True, exist_ok=True)
    page = render(report, settings)
    write_json(out / "report.json", report)
    with atomic_write(out / "report.html") as file:
        file.write(page)
    console.print(f"report: {out / 'report.html'} ({human_bytes(len(page.encode()))})", markup=False)
    return {"stages": len(report["stages"]), "html_bytes": len(page.encode()), **report["headline"]}


def render(report: dict[str, Any], settings: ReportSettings) -> str:
    """The page of a report as one HTML document."""
    folder = Path(__file__).parent / "page"
    page = environment(folder, _PAGE)
    page.filters |= {
        "p_value": lambda value: "< 0.0001" if value < 1e-4 else f"= {value:.4f}",
        "signed": lambda value: f"{value:+.4f}",
        "points": lambda value: f"{100 * value:+.1f}",
    }
    page.globals |= {"sample_keys": sample_keys, "category": category}
    data: list[Any] = []  # what the script shows under the pointer, panel by panel
    view = {
        "report": report,
        "language": settings.language,
        "outcomes": {stage["name"]: outcomes(stage) for stage in report["stages"]},
        "learning": [
            {"name": name, "do": run["do"], "x": run["x"], "panels": _numbered(draw.panels(run), data)}
            for name, run in report["curves"].items()
        ],
        "exams": [view for part in report["evaluations"] for view in exam_views(part)],
        "texts": [view for part in report["evaluations"] if (view := heldout_view(part))],
        "flows": {name: flow_of(stats) for name, stats in report["data"].items()},
        "data": data,
    }
    return page.get_template("report.html.j2").render(view)


def _numbered(panels: list[dict[str, Any]], data: list[Any]) -> list[dict[str, Any]]:
    for panel in panels:
        panel["number"] = len(data)
        data.append(panel["data"])
    return panels


def category(name: str) -> Markup:
    """An exam's name for a category, in words where it is one of the small world's."""
    key = f"category_{name}"
    return both(key) if key in WORDS else Markup("<bdi>{}</bdi>").format(visible(name))


def outcomes(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """What came out of a stage, as [{label, value}]: the known figures of its kind, else the first plain numbers."""
    counts = stage["counts"] or {}
    found = []
    for name, form in _OUTCOMES.get(stage["do"], ()):
        value: Any = counts
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            found.append({"label": both(f"out_{name.replace('.', '_')}"), "value": _written(value, form)})
    if stage["do"] == "convert":
        files = counts.get("files", {})
        found = [
            {"label": name, "value": human_bytes(file["bytes"])} for name, file in files.items() if "bytes" in file
        ]
    if not found:
        plain = [(key, value) for key, value in counts.items() if isinstance(value, int | float)]
        found = [{"label": both(key), "value": _written(value, "number")} for key, value in plain[:3]]
    return found


def _written(value: float, form: str) -> str:
    match form:
        case "bytes":
            return human_bytes(value)
        case "count":
            return human_count(value)
        case "percent":
            return percent(value)
        case _:
            return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def exam_views(part: dict[str, Any]) -> list[dict[str, Any]]:
    """For each exam of an evaluation: groups of rows, a row being a category with every model's score."""
    views = []
    for name, exam in part["exams"].items():
        models = [model for model in part["models"] if name in model["exams"]]
        retrieval = exam["baselines"].get("retrieval", {})
        results = {model["name"]: model["exams"][name] for model in models}
        if not results:
            continue
        first = next(iter(results.values()))

        def row(
            label: str, table: str, key: str | None, mark: float | None = None, of: Any = results
        ) -> dict[str, Any]:
            scores = [{"name": model, **(part[table][key] if key else part[table])} for model, part in of.items()]
            return {
                "label": category(label) if table == "categories" else both(label),
                "retrieval": mark,
                "scores": scores,
            }

        marks = retrieval.get("categories", {})
        hops = {"1": "one_hop", "2": "two_hops"}
        kinds = [row(key, "kinds", key) for key in first["kinds"]]
        kinds += [row(hops[key], "hops", key) for key in first["hops"]]
        views.append(
            {
                "name": name,
                "items": exam["items"],
                "groups": [
                    [row("all_items", "total", None, retrieval.get("accuracy"))],
                    [row(key, "categories", key, marks.get(key)) for key in first["categories"]],
                    kinds,
                ],
                "models": [{"name": model, **result} for model, result in results.items()],
                "retrieval": retrieval.get("accuracy"),
                "comparisons": [one for one in part["comparisons"] if one["exam"] == name],
                "shown": [item for item in part["items"] if item["exam"] == name],
            }
        )
    return views


def heldout_view(part: dict[str, Any]) -> dict[str, Any] | None:
    """Bits per byte of every model; by source where there are several, with the axis they stand on."""
    models = [model for model in part["models"] if model["heldout"]]
    if not models:
        return None
    names = list(models[0]["heldout"]["sources"])
    rows = [
        {"label": name, "scores": [{"name": m["name"], **_bits(m["heldout"]["sources"][name])} for m in models]}
        for name in (names if len(names) > 1 else ())
    ]
    highest = max([score["high"] for row in rows for score in row["scores"]], default=1.0)
    axis = axis_of(0.0, highest, 5)
    return {
        "models": models,
        "rows": rows,
        "axis": axis,
        "tokenizers": _unlike_tokenizers(models),
        "counts": part["heldout"],
        "comparisons": part["heldout_comparisons"],
    }


def _unlike_tokenizers(models: list[dict[str, Any]]) -> list[str]:
    """A model for each way in which the text was cut into tokens; perplexities are per token, so each needs its own."""
    by_count = {
        model["heldout"]["tokens"]: model["name"] for model in reversed(models) if "perplexity" in model["heldout"]
    }
    return list(reversed(by_count.values()))


def _bits(part: dict[str, Any]) -> dict[str, Any]:
    return {key: part[key] for key in ("bits_per_byte", "low", "high", "bits_per_character", "bytes")}


def sample_keys(models: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(kind, prompt) of all samples, each once, in their order."""
    return list(dict.fromkeys((one["kind"], one["prompt"]) for model in models for one in model["samples"]))
