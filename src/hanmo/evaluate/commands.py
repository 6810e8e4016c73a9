"""Commands of this room beside its stage: `hanmo eval …`. Each imports what it needs when it is called."""

from __future__ import annotations

import json

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
    from rich.console import Console
    from rich.table import Table

    table = Table("exam", "asks", "licence", "hub", "files below --data")
    for one in known().values():
        first = one.items or next(iter(one.subjects.values())).items
        table.add_row(
            one.name, one.about, one.licence, one.hub.path if one.hub else "", f"{one.folder or one.name}/{first}"
        )
    Console().print(table)


COMMANDS = [stage_command(KINDS["exam"]), exams]
