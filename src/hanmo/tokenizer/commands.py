"""Commands of this room beside its stage: `hanmo tokenizer …`. Each imports what it needs when it is called."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option(
    "--corpus", multiple=True, type=click.Path(path_type=Path), help="Corpus folder or text file (several times)."
)
@click.option("--pieces", type=click.Path(path_type=Path), help="A tokenizer to take pieces from, or a file of lines.")
@click.option("--add", type=click.IntRange(min=1), help="So many new tokens; with --pieces all of them.")
@click.option("--sample-mb", default=50, show_default=True, help="Megabytes of the corpus to learn from.")
@click.option("--equal-scores", is_flag=True, help="Score 0 for all new pieces, as published LLaMA merges have it.")
def extend(
    base: Path,
    out: Path,
    corpus: tuple[Path, ...],
    pieces: Path | None,
    add: int | None,
    sample_mb: int,
    equal_scores: bool,
) -> None:
    """Add Chinese pieces to the tokenizer BASE: new ids behind the old ones, all old merges before the new.

    BASE is a Hugging Face folder or a SentencePiece .model with a BPE. The pieces are learnt from --corpus or taken
    from --pieces. What text without Chinese becomes does not change when they are learnt.
    """
    from hanmo.tokenizer.extend import extend as function

    record = function(
        base, out, corpus=corpus, pieces=pieces, add=add, sample_mb=sample_mb, equal_scores=equal_scores
    )
    click.echo(json.dumps({"out": str(out), **record}, ensure_ascii=False))


COMMANDS: list[click.Command] = [extend]
