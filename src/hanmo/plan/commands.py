"""The commands `hanmo plan` and `hanmo models`; they import what they need when they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[STAGE.KEY=VALUE]...")
@click.option(
    "--text", multiple=True, metavar="SIZE", help="Size of the text, e.g. 200GB (several; default: the sources' own)."
)
@click.option("--cores", type=int, help="Processors of all machines together (default: this machine's).")
@click.option(
    "--sample",
    type=click.FloatRange(min=0),
    default=16.0,
    show_default=True,
    help="Megabytes of text to measure on; 0: leave text out.",
)
@click.option("--device", default="this", show_default=True, help="h100, a100, rtx4090, t4, ..., cpu, this.")
@click.option("--devices", type=click.IntRange(min=1), help="So many train together (default: as the stages have it).")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), help="Model FLOPs over the device's rate, if known.")
@click.option("--price", type=click.FloatRange(min=0), help="Of one device for an hour.")
@click.option("--watts", type=click.FloatRange(min=0), help="Power of one device (default: the board's limit).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(recipe: Path, settings: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Say what a RECIPE will cost: from text to tokens, measured on a sample; and its pretraining, on a device."""
    from hanmo.plan.whole import plan_recipe, show
    from hanmo.recipe import load_recipe

    found = plan_recipe(load_recipe(recipe, list(settings)), **given)
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
    else:
        show(found)


@click.command()
@click.option("--vocabulary", type=click.IntRange(min=0), default=0, help="Tokens (default: published, or by size).")
@click.option("--context", type=click.IntRange(min=0), default=0, help="Tokens of a row (default: by size).")
@click.option("--bases", is_flag=True, help="Public models to start from, with their licences, instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(vocabulary: int, context: int, bases: bool, as_json: bool) -> None:
    """List all presets: family, parameters, and the memory that training and serving them take."""
    from hanmo.plan import presets

    if bases:
        public = presets.bases()
        click.echo(json.dumps(public, ensure_ascii=False, indent=2)) if as_json else presets.show_bases(public)
        return
    found = presets.presets(vocabulary, context)
    if as_json:
        click.echo(json.dumps(presets.as_json(found), ensure_ascii=False, indent=2))
    else:
        presets.show(found)
