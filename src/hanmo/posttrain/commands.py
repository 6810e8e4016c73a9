"""Commands about record files: `hanmo data …`. Each imports what it needs when it is called."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hanmo.messages import translated

#: Faulty lines that are shown of each file; --json has all.
_SHOWN = 10


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--tokenizer",
    "--model",
    "tokenizer",
    type=click.Path(path_type=Path),
    help="A tokenizer or model folder: lengths in its tokens, and what would be cut.",
)
@click.option(
    "--context", type=click.IntRange(min=0), default=0, help="Tokens of a record at most [default: the model's]."
)
@click.option(
    "--too-long",
    type=click.Choice(["truncate", "split", "drop"]),
    default="truncate",
    show_default=True,
    help="What is done to longer dialogues, as in sft.",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "dialogues", "preferences"]),
    default="auto",
    show_default=True,
    help="What the records are; auto: by their fields.",
)
@click.option("--set", "sets", multiple=True, metavar="NAME", help="A set of a dataset_info.json (several times).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(files: tuple[Path, ...], as_json: bool, **given: Any) -> None:
    """Say what record FILES (or folders of them) hold, which lines are faulty, and what training would cut or drop.

    Ends with status 2 where a record is faulty, and with 0 where none is.
    """
    from hanmo.posttrain.check import check as function

    found = function(files, **given)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _show(found)
    if found["faults"]:
        sys.exit(2)


def _show(found: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from hanmo.console import Console

    console = Console()
    table = Table("file", "form", "records", "usable", "faulty", "duplicates", "same prompt", box=SIMPLE_HEAD)
    lengths = Table("file", "lengths in", "min", "p50", "p90", "p99", "max", "total", box=SIMPLE_HEAD)
    for one in found["files"]:
        name = Path(one["file"]).name
        form = (
            one["form"]
            if isinstance(one["form"], str)
            else ", ".join(f"{n} {f}" for f, n in (one["form"] or {}).items())
        )
        numbers = (one[key] for key in ("records", "usable", "faults", "duplicates", "same_prompt"))
        table.add_row(name, f"{one['kind']}: {form or '?'}", *(f"{number:,}" for number in numbers))
        for unit in ("characters", "tokens"):
            if one.get(unit):
                lengths.add_row(name, unit, *(f"{value:,}" for value in one[unit].values()))
    console.print(table)
    if lengths.rows:
        console.print(lengths)
    for one in found["files"]:
        _details(one, found["context"], len(found["files"]) > 1)


def _details(one: dict[str, Any], context: int | None, named: bool) -> None:
    lines = []
    if one.get("labels"):
        lines.append("labels: " + ", ".join(f"{label} {count:,}" for label, count in one["labels"].items()))
    if one["roles"]:
        lines.append("roles: " + ", ".join(f"{role} {count:,}" for role, count in one["roles"].items()))
        lines.append("answers in a record: " + ", ".join(f"{n} ({count:,})" for n, count in one["turns"].items()))
    if isinstance(one["form"], dict) and len(one["form"]) > 1:
        lines.append("the file mixes forms: training wants `form: each`")
    if context and one.get("tokens"):
        cut = "; ".join(f"{count:,} × {why}" for why, count in one["too_long"].items())
        lines.append(f"at a context of {context:,} tokens: {cut or 'nothing is cut'}")
        lines.append(f"tokens that are learnt: {one['learnt_tokens']:,}")
    lines += [f"{count:,} × {note}" for note, count in one["notes"].items()]
    if named and (lines or one["faulty"]):
        click.echo(f"{one['file']}:")
    for line in lines:
        click.echo(f"  {translated(line)}")
    for fault in one["faulty"][:_SHOWN]:
        click.echo(f"  {one['file']}:{fault['line']}: {fault['why']}" if fault["line"] else f"  {fault['why']}")
    if len(one["faulty"]) > _SHOWN:
        click.echo("  " + translated(f"and {len(one['faulty']) - _SHOWN:,} more; --json has them all"))


COMMANDS: list[click.Command] = [check]
