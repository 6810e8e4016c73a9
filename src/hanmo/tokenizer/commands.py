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


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option(
    "--kind",
    default="auto",
    show_default=True,
    help="sentencepiece, llama2c, tiktoken, bert, linglong, word, json; auto tells it from the file.",
)
@click.option("--chat", is_flag=True, help="Add the ChatML markers that are missing, and the chat template.")
@click.option("--lower-case/--keep-case", default=None, help="For BERT's; without either, the vocabulary tells.")
@click.option("--pinyin", type=click.Path(path_type=Path), help="A file of pinyin classes that goes with it.")
def import_command(path: Path, out: Path, kind: str, chat: bool, lower_case: bool | None, pinyin: Path | None) -> None:
    """Make a tokenizer folder of another project's tokenizer at PATH (a file, or a folder with one)."""
    from hanmo.tokenizer.imports import import_tokenizer

    facts = import_tokenizer(path, out, kind, chat, lower_case, pinyin)
    click.echo(json.dumps({"out": str(out), **facts}, ensure_ascii=False))


@click.command("suggest")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option("--model", default="hanmo-16m", show_default=True, help="Preset of the model it is meant for.")
@click.option("--kind", default="bpe", show_default=True, help="Kind of tokenizer.")
@click.option("--sample-mb", default=30, show_default=True, help="Megabytes of text to look at.")
def suggest_command(corpus: Path, model: str, kind: str, sample_mb: int) -> None:
    """Say how many tokens suit a CORPUS folder and a model, and why."""
    from typing import get_args

    from hanmo.errors import HanmoError, nearest
    from hanmo.tokenizer.settings import Kind
    from hanmo.tokenizer.suggest import corpus_bytes, suggest
    from hanmo.tokenizer.train import sample

    if kind not in get_args(Kind):
        raise HanmoError(f"--kind: '{kind}' is unknown{nearest(kind, get_args(Kind))}")
    texts = list(sample(corpus, sample_mb * 1_000_000))
    found = suggest(texts, kind, model, max(corpus_bytes(corpus), sum(len(text.encode()) for text in texts)))
    facts = {"vocab_size": found.vocab_size, "cheapest": found.cheapest, "seen": found.seen}
    click.echo(json.dumps({**facts, "bytes_per_token": {str(v): round(rate, 3) for v, rate in found.curve}}))


COMMANDS: list[click.Command] = [import_command, suggest_command, extend, report]
