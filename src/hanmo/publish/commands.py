"""The command of this room: publish."""

from __future__ import annotations

from pathlib import Path

import click

from hanmo.errors import HanmoError
from hanmo.messages import translated


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("target", metavar="hf:OWNER/NAME|ms:OWNER/NAME")
@click.option("--licence", default="", help="Of the model, e.g. apache-2.0; by default the one in its card.")
@click.option("--also", multiple=True, type=click.Path(path_type=Path), help="A .gguf file, or a folder of such.")
@click.option("--states", multiple=True, metavar="NAME=LICENCE", help="The licence of a text or file that names none.")
@click.option("--accept", multiple=True, metavar="NAME", help="A source whose terms you have read and meet.")
@click.option("--private", is_flag=True, help="A repository that only you see, where there is none yet.")
@click.option("--message", default="", help="Of the commit.")
@click.option("--dry-run", is_flag=True, help="Say what would go up, and send nothing.")
def publish(
    model: Path,
    target: str,
    licence: str,
    also: tuple[Path, ...],
    states: tuple[str, ...],
    accept: tuple[str, ...],
    private: bool,
    message: str,
    dry_run: bool,
) -> None:
    """Put MODEL on Hugging Face or ModelScope, with its card and lineage, after a look at what it was trained on."""
    from hanmo.publish.hubs import Target
    from hanmo.publish.licences import check, sources
    from hanmo.publish.parcel import licence_of, parcel, skipped
    from hanmo.publish.show import show

    where = Target.of(target)
    stated = {}
    for words in states:
        name, equals, value = words.partition("=")
        if not equals or not value.strip():
            raise HanmoError(f"--states {words}: give NAME=LICENCE")
        stated[name] = value.strip()
    found = sources(model, stated)
    with parcel(model, where.repo, also, licence) as folder:
        own = licence_of(folder)
        show(where, folder, skipped(model), found, accept, own)
        check(found, accept, own)
        if not own:
            raise HanmoError(f"{model}: which licence is the model to have? give --licence, e.g. apache-2.0")
        if dry_run:
            click.echo(
                translated(f"nothing was sent (--dry-run); without it this goes to {where.endpoint}/{where.repo}")
            )
            return
        click.echo(
            where.send(folder, private=private, licence=own, message=message or f"Published by hanmo: {model.name}")
        )
