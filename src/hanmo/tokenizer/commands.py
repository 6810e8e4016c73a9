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

    record = function(base, out, corpus=corpus, pieces=pieces, add=add, sample_mb=sample_mb, equal_scores=equal_scores)
    click.echo(json.dumps({"out": str(out), **record}, ensure_ascii=False))


@click.command()
@click.argument("tokenizers", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="TOKENIZER...")
@click.option(
    "--text", "texts", multiple=True, required=True, type=click.Path(path_type=Path), help="Corpus folder or text file."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder, or a file name with .html.")
@click.option("--megabytes", default=1.0, show_default=True, help="Text measured of every source.")
@click.option("--rare", default=3, show_default=True, help="Tokens that occur less often are counted as rare.")
@click.option("--language", type=click.Choice(["auto", "en", "zh"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def report(
    tokenizers: tuple[Path, ...],
    texts: tuple[Path, ...],
    out: Path,
    megabytes: float,
    rare: int,
    language: str,
    as_json: bool,
) -> None:
    """Compare tokenizers on text: compression, coverage, losses, idle tokens, as one page.

    A TOKENIZER is a Hugging Face folder, a SentencePiece .model, a WordPiece vocab.txt or a .tiktoken file. In the
    folder of a model the rows of its embedding are looked at, too.
    """
    from hanmo.tokenizer.report import report as function

    result = function(tokenizers, texts, out, megabytes=megabytes, rare=rare, language=language)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))


COMMANDS: list[click.Command] = [extend, report]
