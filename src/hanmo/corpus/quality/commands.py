"""Commands about quality: `hanmo corpus quality …`, `perplexity …`, `audit`. Each imports what it needs when called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

_FILES = {"nargs": -1, "required": True, "type": click.Path(exists=True, path_type=Path)}
_OUT = click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to make.")


@click.group()
def quality() -> None:
    """Train a classifier of documents and score with it."""


@quality.command("train")
@click.option("--good", multiple=True, required=True, type=click.Path(exists=True, path_type=Path), help="Good text.")
@click.option("--bad", multiple=True, required=True, type=click.Path(exists=True, path_type=Path), help="Bad text.")
@_OUT
@click.option("--documents", default=50_000, show_default=True, help="Most documents of each kind.")
@click.option("--bits", default=20, show_default=True, type=click.IntRange(12, 24), help="2**BITS weights of 4 bytes.")
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(1, 100), help="Passes over the documents.")
@click.option("--seed", default=7, show_default=True)
def quality_train(good: tuple[Path, ...], bad: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Learn to tell --good from --bad documents (files or folders in any form that the corpus stage reads, each option
    several times).

    A fifth of the documents is held back, to measure on; the figures are printed as JSON, with a table of thresholds.
    """
    from hanmo.console import console
    from hanmo.corpus.quality.train import train_classifier

    figures = train_classifier(good, bad, out, **given)
    held, (accuracy, *a), (auc, *b) = (figures[name] for name in ("documents", "accuracy", "auc"))
    console.print(f"{out}: held back {held['good']} good and {held['bad']} bad documents", markup=False)
    console.print(f"accuracy {accuracy:.4f} [{a[0]:.4f}, {a[1]:.4f}], AUC {auc:.4f} [{b[0]:.4f}, {b[1]:.4f}] (95 %)")
    for row in figures["thresholds"]:
        kept = f"keeps {row['good_kept']:6.1%} of the good and {row['bad_kept']:6.1%} of the bad"
        console.print(f"  min_score {row['threshold']:<5g} {kept}", highlight=False)
    click.echo(json.dumps({"model": str(out), **figures}))


@quality.command("score")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", **_FILES)
@click.option("--text", is_flag=True, help="Give the text, too.")
def quality_score(model: Path, files: tuple[Path, ...], text: bool) -> None:
    """Score the documents of FILES with a MODEL of `quality train` (0 bad to 1 good) or of `perplexity train`; one JSON
    line a document.
    """
    from hanmo.corpus.quality.train import scores

    for record in scores(model, files):
        if not text:
            del record["text"]
        click.echo(json.dumps(record, ensure_ascii=False))


@click.group()
def perplexity() -> None:
    """Train a character n-gram model whose perplexity tells fluent text."""


@perplexity.command("train")
@click.argument("files", **_FILES)
@_OUT
@click.option("--order", default=4, show_default=True, type=click.IntRange(2, 4), help="Longest run of characters.")
@click.option("--bits", default=22, show_default=True, type=click.IntRange(12, 28), help="2**BITS runs of 4 bytes.")
@click.option("--least", default=2, show_default=True, type=click.IntRange(1), help="Runs seen less often are pruned.")
@click.option("--megabytes", default=200.0, show_default=True, help="Read at most so much text.")
def perplexity_train(files: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Count the characters of FILES (in any form that the corpus stage reads) and write a model.

    Score with `hanmo corpus quality score`; in a recipe: quality: {perplexity: FILE, max_perplexity: N}.
    """
    from hanmo.corpus.quality.train import train_ngram

    click.echo(json.dumps({"model": str(out), **train_ngram(files, out, **given)}))


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page to make (default: audit.html in the corpus).")
@click.option(
    "--examples", default=8, show_default=True, type=click.IntRange(1, 100), help="Of each reason and source."
)
@click.option("--language", default="auto", type=click.Choice(["auto", "zh", "en"]), help="What the page begins in.")
def audit(corpus: Path, out: Path | None, examples: int, language: str) -> None:
    """Make a page that shows what a CORPUS folder kept and rejected, with figures and real examples."""
    from hanmo.corpus.audit import audit as make

    click.echo(json.dumps({"page": str(make(corpus, out or corpus / "audit.html", examples, language))}))
