"""Commands of this room beside its stage: `hanmo eval …`. Each imports what it needs when it is called."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from hanmo.stage_commands import stage_command
from hanmo.stages import KINDS


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def exams(as_json: bool) -> None:
    """List the exams that `hanmo eval exam` knows by name: what they ask, their licence, where their files are."""
    from hanmo.evaluate.exams.catalog import exams as known

    if as_json:
        click.echo(json.dumps([one.model_dump() for one in known().values()], ensure_ascii=False, indent=2))
        return
    from rich.table import Table

    from hanmo.console import Console

    table = Table("exam", "asks", "licence", "hub", "files below --data")
    for one in known().values():
        first = one.items or next(iter(one.subjects.values())).items
        table.add_row(
            one.name, one.about, one.licence, one.hub.path if one.hub else "", f"{one.folder or one.name}/{first}"
        )
    Console().print(table)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option("--resamples", default=2000, show_default=True, type=click.IntRange(100), help="Of the bootstrap.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures into this JSON file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(folders: tuple[Path, ...], resamples: int, out: Path | None, as_json: bool) -> None:
    """Put models side by side: those of all FOLDERs, which eval and exam stages have made.

    Each pair is compared on the documents and items that both were measured on, with paired intervals.
    """
    from hanmo.errors import HanmoError
    from hanmo.evaluate.side_by_side import load, side_by_side
    from hanmo.files import write_json

    models, chances = load(folders)
    if len(models) < 2:
        raise HanmoError(f"only {len(models)} model in {', '.join(map(str, folders))}; give the folders of two")
    found = side_by_side(models, chances, resamples)
    if out:
        write_json(out, found)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    from hanmo.evaluate.side_by_side_view import show

    show(found)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--name", default="", help="Of the model.")
@click.option("--license", "licence", default="", help="Its licence's identifier on hubs, e.g. apache-2.0.")
@click.option("--overwrite", is_flag=True, help="Also a card that was not made by hanmo.")
def card(model: Path, name: str, licence: str, overwrite: bool) -> None:
    """Write MODEL's card (README.md in its folder): how it was made, of what, and all that was measured of it."""
    from hanmo.evaluate.card import write_card

    click.echo(write_card(model, name=name, licence=licence, overwrite=overwrite))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tasks(as_json: bool) -> None:
    """List the tasks that `hanmo eval generation` knows: what is written, the fields of records, the main figure."""
    from hanmo.evaluate.generation.tasks import TASKS

    if as_json:
        click.echo(json.dumps([asdict(task) for task in TASKS.values()], ensure_ascii=False, indent=2))
        return
    from rich.table import Table

    from hanmo.console import Console

    table = Table("task", "what is written", "source", "answer", "main figure")
    for task in TASKS.values():
        table.add_row(task.name, task.what, ", ".join(task.sources), ", ".join(task.targets), task.main)
    Console().print(table)


COMMANDS = [stage_command(KINDS["exam"]), stage_command(KINDS["generation"]), exams, tasks, compare, card]
