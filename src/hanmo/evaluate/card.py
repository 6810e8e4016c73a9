"""The model card: README.md in the model folder, with how the model was made and all that was measured of it.

Its head is the metadata that hubs read (language, licence, base model, data, results); GGUF files take name, licence
and language from it. Everything in it comes from manifests and results: nothing is guessed, and what is not known is
not said. A card that people have written is never overwritten: ours says in its last line that it is ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hanmo import lineage
from hanmo.console import human_bytes, human_count, human_seconds
from hanmo.errors import HanmoError
from hanmo.files import atomic_write, front_matter, read_json
from hanmo.models import hub
from hanmo.models.folder import resolve

MARK = "<!-- made by hanmo: it is written anew when more is measured; delete this line to keep it as it is -->"
#: What stages are called in a sentence, and the counts that say what they made.
_SAID = {
    "microworld": ("made the small world", ("documents", "dialogues")),
    "corpus": ("read, cleaned and deduplicated text", ("train.documents", "train.bytes")),
    "tokenizer": ("trained the tokenizer", ("vocab_size",)),
    "tokens": ("encoded the text", ("train.tokens",)),
    "pretrain": ("pretrained", ("parameters", "tokens")),
    "sft": ("tuned on dialogues", ("records", "steps")),
    "distill": ("tuned towards a larger model's probabilities", ("records", "steps")),
    "reward": ("trained a reward model", ("records", "steps")),
    "dpo": ("tuned on preferences", ("records", "steps")),
    "grpo": ("tuned by rewards", ("prompts", "steps")),
}


def write_card(
    model: Path, *, name: str = "", licence: str = "", overwrite: bool = False, to: Path | None = None
) -> Path:
    """Write the card of a model of ours, with all results that stand in the folders beside it; returns its path.

    Args:
        model: a model folder or that of a stage.
        name: of the model; by default its stage's name behind that of its run.
        licence: a licence's identifier as hubs have them, e.g. apache-2.0; by default that of an earlier card.
        overwrite: also a card that is not ours.
        to: the file; by default README.md in the model folder, where an earlier card is looked for in any case.

    Raises:
        HanmoError: no model there, or a card that people have written.
    """
    if hub.named(model):
        raise HanmoError(f"{model}: a model on a hub has its card there; give a folder")
    folder = resolve(model)
    path = folder / "README.md"
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if before and MARK not in before and not overwrite:
        raise HanmoError(f"{path}: a card that was not made by hanmo; give --overwrite to replace it")
    stages = lineage.lineage(folder)
    stage = lineage.made_by(folder)
    named = f"{stage.folder.resolve().parent.name}-{stage.name}" if stage else folder.resolve().name
    earlier = front_matter(before)
    name = name or str(earlier.get("model_name", named))
    licence = licence or str(earlier.get("license", ""))
    found = results(folder)
    texts = lineage.texts(stages)
    config = read_json(folder / "config.json")
    base = lineage.base_of(stages)
    head = _metadata(name, licence, base.name if base else None, config, texts, found)
    parts = [
        f"---\n{yaml.safe_dump(head, allow_unicode=True, sort_keys=False)}---\n\n# {name}\n",
        _what(config, stage),
        _use(config, name),
        _how(stages),
        _data(texts),
        _measured(found),
        f"{MARK}\n",
    ]
    with atomic_write(to or path) as file:
        file.write("\n".join(part for part in parts if part))
    return to or path


def refresh(model: Path) -> None:
    """`write_card` for a model of a stage of ours, unless people have written the card."""
    place = lineage.made_by(model)
    try:
        folder = resolve(model)
    except HanmoError:
        return
    card = folder / "README.md"
    if place is not None and (not card.is_file() or MARK in card.read_text(encoding="utf-8")):
        write_card(folder)


def results(folder: Path) -> dict[str, Any]:
    """What eval and exam stages beside a model's stage measured of it: {"heldout", "exams": {name: figures}}."""
    found: dict[str, Any] = {"heldout": None, "exams": {}}
    stage = lineage.made_by(folder)
    if stage is None:
        return found
    for manifest in sorted(
        stage.folder.resolve().parent.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime
    ):
        measured = lineage.made_by(manifest.parent)
        if measured is None or measured.do not in ("eval", "exam"):
            continue
        given = [resolve(Path(text)).resolve() for text in measured.manifest["inputs"]["model"] if Path(text).exists()]
        if folder.resolve() not in given:
            continue
        file = measured.folder / ("eval.json" if measured.do == "eval" else "exams.json")
        if not file.is_file():
            continue
        whole = read_json(file)
        own = whole["models"][given.index(folder.resolve())]
        if own.get("heldout"):
            found["heldout"] = own["heldout"]
        for name, exam in own["exams"].items():
            about = whole["exams"][name]
            held = (about.get("contaminated") or {}).get("items") if measured.do == "exam" else None
            how = f"{whole['method']}, {whole['shots']} shots" if measured.do == "exam" else exam["method"]["name"]
            found["exams"][about.get("title", name)] = {**exam["total"], "how": how, "contaminated": held}
    return found


def _metadata(
    name: str, licence: str, base: str | None, config: dict[str, Any], texts: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    writes = any(str(kind).endswith(("ForCausalLM", "LMHeadModel")) for kind in config.get("architectures") or [])
    head: dict[str, Any] = {
        "model_name": name,
        "language": ["zh"],
        "library_name": "transformers",
        "tags": ["hanmo", str(config.get("model_type", ""))],
    }
    if licence:
        head["license"] = licence
    if writes:
        head["pipeline_tag"] = "text-generation"
    if base:
        head["base_model"] = base
    if texts:
        head["datasets"] = list(texts)
    measured = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": exam, "type": exam},
            "metrics": [{"type": "accuracy", "value": round(100 * one["accuracy"], 2)}],
        }
        for exam, one in found["exams"].items()
    ]
    if measured:
        head["model-index"] = [{"name": name, "results": measured}]
    return head


def _what(config: dict[str, Any], stage: lineage.Made | None) -> str:
    counts = stage.manifest.get("counts", {}) if stage else {}
    sizes = (
        ("layers", config.get("num_hidden_layers", config.get("n_layer"))),
        ("wide", config.get("hidden_size", config.get("n_embd"))),
        ("tokens in the vocabulary", config.get("vocab_size")),
        ("tokens of context", config.get("max_position_embeddings", config.get("n_positions"))),
    )
    said = ", ".join(f"{value:,} {word}" for word, value in sizes if isinstance(value, int))
    kind = (config.get("architectures") or [config.get("model_type", "a model")])[0]
    parameters = counts.get("parameters")
    number = f", {human_count(parameters)} parameters" if isinstance(parameters, int) else ""
    return f"A Chinese language model ({kind}{number}): {said}.\n"


def _use(config: dict[str, Any], name: str) -> str:
    kinds = [str(kind) for kind in config.get("architectures") or []]
    if not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        return ""
    ours = str(config.get("model_type", "")).startswith(("hanmo", "linglong", "megatron"))
    needs = "import hanmo  # the architecture is its own\n" if ours else ""
    code = f'''```python
{needs}from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
ids = tokenizer("从前有一个", return_tensors="pt", return_token_type_ids=False)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0], skip_special_tokens=True))
```
'''
    return f"## Use\n\n{code}"


def _how(stages: list[lineage.Made]) -> str:
    rows = []
    for stage in stages:
        said, keys = _SAID.get(stage.do, (stage.do, ()))
        counts = []
        for key in keys:
            value: Any = stage.manifest.get("counts") or {}
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if isinstance(value, int | float):
                size = human_bytes(value) if key.endswith("bytes") else human_count(value)
                counts.append(size if key.endswith("bytes") else f"{size} {key.split('.')[-1].replace('_', ' ')}")
        seconds = human_seconds(stage.manifest["seconds"]) if stage.manifest.get("seconds") else ""
        rows.append(f"| {stage.name} | {said} | {', '.join(counts)} | {seconds} |")
    if not rows:
        return ""
    last = stages[-1].manifest
    machine = last.get("machine", {})
    where = (
        f"\nOn {machine['cpu']}, {machine['cores']} cores, with Hanmo {last['versions']['hanmo']}.\n" if machine else ""
    )
    return "\n".join(["## How it was made", "", "| stage | | made | time |", "|---|---|---|---|", *rows, where])


def _data(texts: dict[str, dict[str, Any]]) -> str:
    if not texts:
        return ""
    rows = [
        f"| {name} | {one['documents']:,} | {human_bytes(one['bytes'])} | {one['licence'] or 'not stated'} |"
        for name, one in texts.items()
    ]
    return "\n".join(
        ["## Text it was trained on", "", "| source | documents | size | licence |", "|---|---|---|---|", *rows, ""]
    )


def _measured(found: dict[str, Any]) -> str:
    lines = []
    if bits := found["heldout"]:
        lines += [
            f"Held-out text ({bits['documents']:,} documents, {human_bytes(bits['bytes'])}): "
            f"**{bits['bits_per_byte']:.4f} bits per byte** [{bits['low']:.4f}, {bits['high']:.4f}].",
            "",
        ]
    if found["exams"]:
        lines += [
            "| exam | right | 95 % interval | chance | items | asked by | in the training text |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, one in found["exams"].items():
            beyond = {"above": "above chance", "below": "below chance", "same": "no better than chance"}
            held = "not looked" if one["contaminated"] is None else f"{one['contaminated']} items"
            right = f"**{one['accuracy']:.1%}**, {beyond[one['versus_chance']]}"
            cells = (f"{one['low']:.1%} – {one['high']:.1%}", f"{one['chance']:.1%}", str(one["n"]), one["how"], held)
            lines.append(f"| {name} | {right} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(["## Measured", "", *lines]) if lines else ""
