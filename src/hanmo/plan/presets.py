"""All presets side by side: class, parameters, and the memory that training and serving them take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
        vocabulary: tokens that the other figures are for.
        train: bytes that training takes on an accelerator: bf16, Muon, 8,192 tokens in a forward pass.
        train_least: with one row in a pass and recomputed layers.
        serve: bytes of the weights in 16 bits and of the keys and values of one sequence of `context`.
    """

    name: str
    model: str
    parameters: int
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
    body = of_new(PretrainSettings(preset=name), 64)
    size = body.parameters - body.embedding
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


def show(lines: list[Line]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    from hanmo.console import human_bytes, human_count

    table = Table("preset", "class", "parameters", "vocabulary", "context", "shape", "to train", "to serve", "")
    for line in lines:
        table.add_row(
            line.name,
            line.model,
            human_count(line.parameters),
            str(line.vocabulary),
            str(line.context),
            f"{line.layers} x {line.width}",
            f"{human_bytes(line.train)} ({human_bytes(line.train_least)})",
            human_bytes(line.serve),
            line.about,
        )
    console = Console()
    console.print(table)
    console.print(
        "to train: on an accelerator in bf16 with Muon, 8,192 tokens in a pass (one row, layers recomputed); "
        "to serve: 16-bit weights and one sequence. All are stock classes of transformers."
    )
