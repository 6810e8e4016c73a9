"""Commands of this room beside its stage: `hanmo corpus …`. Each imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hanmo.corpus.quality.commands import audit, perplexity, quality


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def catalog(name: str | None, as_json: bool) -> None:
    """List well-known corpora, or show one (NAME) with its licence and the recipe lines that fetch it."""
    import json

    from hanmo.corpus.catalog import entries, entry, show

    if not as_json:
        show(name)
        return
    chosen = [entry(name)] if name else list(entries().values())
    values = [{**item.model_dump(), "recipe": item.recipe()} for item in chosen]
    click.echo(json.dumps(values[0] if name else values, ensure_ascii=False, indent=2))


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--sample", default=3, show_default=True, type=click.IntRange(0), help="Documents to show of each kind.")
@click.option("--hub", default="", help="A mirror, for names on a hub, e.g. https://hf-mirror.com.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(paths: tuple[str, ...], sample: int, hub: str, as_json: bool) -> None:
    """Say what files, folders, globs or names on a hub (hf:OWNER/NAME) hold, and how a recipe reads them.

    Reads a bounded part only, so it takes seconds whatever the size.
    """
    import json

    from hanmo.corpus.inspection import inspect as look

    found = look(paths, sample, hub)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    from hanmo.corpus.inspection_view import show

    show(found)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--set", "given", multiple=True, metavar="KEY=VALUE", help="A setting of `clean`, e.g. lines.icp=false.")
@click.option("--sample", default=3, show_default=True, type=click.IntRange(0), help="Excerpts of each rule.")
@click.option("--documents", default=10_000, show_default=True, type=click.IntRange(0), help="Look at so many; 0: all.")
@click.option("--text", multiple=True, metavar="FIELD", help="Fields that hold the text (default: found).")
@click.option("--format", "kind", default="auto", help="txt, md, jsonl, json, csv, tsv, parquet.")
@click.option("--encoding", default="auto", help="Of the file.")
@click.option("--split", default="file", help="What is a document of a text file: file, line or blank_line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def clean(
    path: Path,
    given: tuple[str, ...],
    sample: int,
    documents: int,
    text: tuple[str, ...],
    kind: str,
    encoding: str,
    split: str,
    as_json: bool,
) -> None:
    """Show what cleaning would change in PATH (a file, folder or glob), before and after; nothing is written."""
    import json

    from hanmo.corpus.cleaning.show import preview, print_preview, settings_of

    source: dict[str, Any] = {"text": list(text), "format": kind, "encoding": encoding, "split": split}
    found = preview(settings_of(path, list(given), source), sample, documents)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print_preview(found)


COMMANDS: list[click.Command] = [catalog, inspect, clean, quality, perplexity, audit]
