"""All presets side by side: class, parameters, and the memory that training and serving them take; public bases."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import resources
from itertools import groupby
from typing import Any

import yaml

from hanmo.models.families import FAMILIES, idle_in_experts
from hanmo.models.presets import PRESETS
from hanmo.plan.memory import Layout, need
from hanmo.plan.shape import of_new
from hanmo.pretrain.settings import PretrainSettings

#: Tokens of the vocabulary that a preset of ours is shown with where none is given: by its parameters, about as in
#: docs/tokenizers.md.
VOCABULARY = ((6e6, 4096), (20e6, 8192), (150e6, 16384), (float("inf"), 32768))
#: Tokens in a forward pass.
MICRO = 8192


@dataclass(frozen=True)
class Line:
    """One preset.

    Attributes:
        model: the class's `model_type` in transformers.
        active: parameters that a token meets: fewer than all in a mixture of experts.
        vocabulary: tokens that the other figures are for.
        train: bytes that training takes on an accelerator: bf16, Muon, 8,192 tokens in a forward pass.
        train_least: with one row in a pass and recomputed layers.
        serve: bytes of the weights in 16 bits and of the keys and values of one sequence of `context`.
    """

    name: str
    model: str
    parameters: int
    active: int
    vocabulary: int
    context: int
    layers: int
    width: int
    train: float
    train_least: float
    serve: float
    about: str


def presets(vocabulary: int = 0, context: int = 0) -> list[Line]:
    """A line for every preset.

    Args:
        vocabulary: tokens; 0: the published ones, and what suits the size of ours.
        context: tokens of a row; 0: the published one, or 512 up to 100M parameters, 1,024 up to 500M, 2,048 beyond.
    """
    return [_line(name, vocabulary, context) for name in PRESETS]


def _line(name: str, vocabulary: int, context: int) -> Line:
    preset = PRESETS[name]
    size = FAMILIES[preset.family].count(preset, 0, 0)
    vocabulary = vocabulary or preset.vocab or next(tokens for most, tokens in VOCABULARY if size < most)
    context = context or preset.context or (512 if size < 1e8 else 1024 if size < 5e8 else 2048)
    shape = of_new(PretrainSettings(preset=name, context=context), vocabulary)
    whole = Layout(batch_tokens=2 * MICRO, micro_tokens=max(MICRO, context), cpu=False)
    least = whole.with_(micro_tokens=context, recompute=True)
    cache = 2 * 2 * shape.layers * shape.key * context
    return Line(
        name=name,
        model=preset.family,
        parameters=shape.parameters,
        active=shape.parameters - idle_in_experts(preset),
        vocabulary=vocabulary,
        context=context,
        layers=shape.layers,
        width=shape.hidden,
        train=need(shape, whole).total,
        train_least=need(shape, least).total,
        serve=2 * shape.parameters + cache,
        about=preset.about,
    )


def as_json(lines: list[Line]) -> list[dict[str, Any]]:
    """The lines as JSON values."""
    return [asdict(line) for line in lines]


def bases() -> list[dict[str, str]]:
    """Public models to start from: {name, family, parameters, licence, for}, of classes that are trained here."""
    text = resources.files("hanmo.models").joinpath("bases.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def show(lines: list[Line]) -> None:
    """Print the presets, a table a family."""
    from rich.table import Table

    from hanmo.console import Console, human_bytes, human_count

    console = Console()
    # A table that is cut off says less than one whose lines are broken.
    console.width = max(console.width, 110)
    for model, members in groupby(lines, key=lambda line: line.model):
        family, group = FAMILIES[model], list(members)
        sparse = any(line.active < line.parameters for line in group)
        loads = family.loads or "transformers, behind `import hanmo`"
        recipe = f"; recipes/{family.recipe}" if family.recipe else ""
        console.print(f"[bold]{model}[/]: {family.what}; loads in {loads}{recipe}", soft_wrap=True, highlight=False)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("  preset", no_wrap=True)
        for name in ("parameters", *(["active"] * sparse), "vocabulary", "context", "shape", "to train", "to serve"):
            table.add_column(name, justify="right", no_wrap=True)
        for line in group:
            table.add_row(
                f"  {line.name}",
                human_count(line.parameters),
                *([human_count(line.active)] * sparse),
                str(line.vocabulary),
                str(line.context),
                f"{line.layers} x {line.width}",
                human_bytes(line.train),
                human_bytes(line.serve),
            )
        console.print(table)
    console.print(
        "\nto train: memory on an accelerator in bf16 with Muon, 8,192 tokens in a pass (--json has what one row a "
        "pass with recomputed layers takes); to serve: 16-bit weights and one sequence.\nTrain one: `hanmo pretrain "
        "--preset 8m --data TOKENS --tokens 10M`. Public models to start from: `hanmo models --bases`.",
        markup=False,
        soft_wrap=True,
    )


def show_bases(found: list[dict[str, str]]) -> None:
    """Print the public models."""
    from hanmo.console import Console

    console = Console()
    for family, group in groupby(found, key=lambda base: base["family"]):
        console.print(f"[bold]{family}[/]", highlight=False)
        for base in group:
            line = f"  {base['name']}  {base['parameters']}, {base['licence']}: {base['for']}"
            console.print(line, markup=False, soft_wrap=True)
    console.print(
        "\nContinue one: `hanmo pretrain --model hf:NAME --data TOKENS` fetches it (docs/continuing.md).\n"
        "A licence is the one that the model's page names; read it before you publish what you make of it.",
        markup=False,
        soft_wrap=True,
    )
