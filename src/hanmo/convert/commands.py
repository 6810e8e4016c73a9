"""Commands of this room beside its stage: `hanmo convert …`. Each imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--config", type=click.Path(path_type=Path), help="Its configuration, where none lies beside it.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Its tokenizer, where none lies beside it.")
@click.option(
    "--strict/--no-strict",
    default=True,
    show_default=True,
    help="Refuse weights that have no place in the class, and a class that would miss some.",
)
def import_(path: Path, out: Path, config: Path | None, tokenizer: Path | None, strict: bool) -> None:
    """Make a Hugging Face folder from the checkpoint at PATH (a file, or a folder with one).

    What it is is seen by its tensors and configuration. Of stock classes: Tiny LLM zh, llama2.c (.pt and .bin),
    MiniMind, GPT-2 (Wenzhong), BERT and MegatronBert (Erlangshen), fine-tuned and reward models. Of classes of
    Hanmo's own: LingLong (.pt with its YAML by --config, or a folder), Zhouwenwang, Randeng. None of its code is run.
    """
    from hanmo.convert.imports import describe, import_model

    record = import_model(path, out, config, tokenizer, strict)
    click.echo(describe({"out": str(out), **record}))


COMMANDS: list[click.Command] = [import_]
