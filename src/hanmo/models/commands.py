"""Commands about model folders: `hanmo model …`. Each imports what it needs when it is called."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="The folder of the new tokenizer.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--multiple", default=64, show_default=True, type=click.IntRange(min=1), help="Round rows up to this.")
def resize(model: Path, tokenizer: Path, out: Path, multiple: int) -> None:
    """Give MODEL another vocabulary: an extended tokenizer or another one altogether.

    Each new row of the embeddings starts as the mean of the rows that the old tokenizer uses for its text.
    """
    from hanmo.models.vocabulary import resize as function

    click.echo(json.dumps({"out": str(out), **function(model, tokenizer, out, multiple)}, ensure_ascii=False))


COMMANDS: list[click.Command] = [resize]
