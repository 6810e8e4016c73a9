"""The comparison of models as tables in a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from hanmo.console import Console


def show(found: dict[str, Any]) -> None:
    """Print what `side_by_side` returns: each model's figures, then each pair's differences."""
    models = Table("model", "measure", "value", "95 % interval", "chance", "n")
    for model in found["models"]:
        if bits := model["heldout"]:
            interval = f"{bits['low']:.4f}, {bits['high']:.4f}"
            row = ("bits per byte", f"{bits['bits_per_byte']:.4f}", interval, "", str(bits["documents"]))
            models.add_row(model["name"], *row)
        for name, one in model["exams"].items():
            interval = f"{one['low']:.1%}, {one['high']:.1%}"
            models.add_row(
                model["name"], name, f"{one['accuracy']:.1%}", interval, f"{one['chance']:.1%}", str(one["n"])
            )
    pairs = Table("second - first", "measure", "difference", "95 % interval", "p", "n")
    for pair in found["pairs"]:
        title = f"{pair['second']} - {pair['first']}"
        if bits := pair["heldout"]:
            interval = f"{bits['low']:+.4f}, {bits['high']:+.4f}{_sure(bits)}"
            pairs.add_row(title, "bits per byte", f"{bits['difference']:+.4f}", interval, "", str(bits["documents"]))
        for name, one in pair["exams"].items():
            interval = f"{one['low']:+.1%}, {one['high']:+.1%}{_sure(one)}"
            pairs.add_row(title, name, f"{one['difference']:+.1%}", interval, f"{one['p']:.2g}", str(one["n"]))
    console = Console()
    console.print(models)
    console.print(pairs)
    console.print("* the interval excludes zero", highlight=False)


def _sure(one: dict[str, Any]) -> str:
    return " *" if one["low"] > 0 or one["high"] < 0 else ""
