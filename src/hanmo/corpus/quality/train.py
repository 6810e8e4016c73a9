"""Training the models that judge documents, from files of any form that the corpus stage reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanmo.console import console, human_bytes, human_count
from hanmo.corpus.clean import Cleaner
from hanmo.corpus.fields import text_of
from hanmo.corpus.formats import read
from hanmo.corpus.inputs import bad_file, look
from hanmo.corpus.quality import classifier, ngram
from hanmo.corpus.quality.characters import codes_of
from hanmo.corpus.records import Record
from hanmo.corpus.settings import CleanSettings, CorpusSettings, Source
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError

#: Characters of a document that training keeps in memory.
_KEPT = 8000


def texts(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """(where, text) of all documents of files and folders, cleaned as the corpus stage cleans them.

    Raises:
        HanmoError: a file that cannot be read; a record of which no text can be had is passed over, and told.
    """
    clean = Cleaner(CleanSettings())
    sources = [Source(path=str(path), name=f"{number}-{path.name}") for number, path in enumerate(paths)]
    for file in look(CorpusSettings(sources=sources), []).files:
        passed = 0
        try:
            for stripe in range(file.opened.stripes):
                for item in read(replace(file.opened, stripe=stripe)):
                    text = text_of(item.fields, file.text) if isinstance(item, Record) else None
                    if text is None:
                        passed += 1
                        continue
                    text = clean(text, Counter())[0]
                    if text:
                        yield f"{file.name}:{item.place}", text
        except FileFault as fault:
            raise bad_file(file.opened.where, fault) from None
        if passed:
            console.print(f"{file.opened.where}: passed over {passed} records without text", markup=False)


def train_classifier(
    good: Sequence[Path], bad: Sequence[Path], out: Path, documents: int, bits: int, epochs: int, seed: int
) -> dict[str, Any]:
    """Train a classifier and write it; returns its figures on the documents held back (see `classifier.measure`).

    At most `documents` of each kind are used, drawn evenly from all of them.
    """
    sides = [_sample(texts(paths), documents, seed) for paths in (good, bad)]
    model, figures = classifier.train(*sides, bits=bits, epochs=epochs, seed=seed)
    model.save(out)
    return figures


def _sample(found: Iterator[tuple[str, str]], most: int, seed: int) -> list[str]:
    """At most so many of the texts, each as likely as any other (reservoir sampling), in a fixed order."""
    import random

    dice = random.Random(seed)
    kept: list[str] = []
    for number, (_, text) in enumerate(found):
        if number < most:
            kept.append(text[:_KEPT])
        elif (place := dice.randrange(number + 1)) < most:
            kept[place] = text[:_KEPT]
    return kept


def train_ngram(paths: Sequence[Path], out: Path, order: int, bits: int, least: int, megabytes: float) -> Any:
    """Train a character n-gram model on at most so many megabytes of text and write it; returns its facts."""
    left = megabytes * 1e6

    def bounded() -> Iterator[str]:
        nonlocal left
        for _, text in texts(paths):
            if left <= 0:
                return
            left -= len(text.encode())
            yield text

    model = ngram.train(bounded(), order, bits, least)
    model.save(out)
    console.print(
        f"{out}: {human_count(model.facts['characters'])} characters of {model.facts['documents']} documents, "
        f"{human_bytes(4 << bits)}, {model.facts['filled']:.0%} of the table filled",
        markup=False,
        soft_wrap=True,
    )
    return model.facts


def scores(model: Path, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """{where, score, text} of every document, by a classifier or an n-gram model (whose score is the perplexity)."""
    judge = _load(model)
    for where, text in texts(paths):
        yield {"where": where, "score": round(judge(codes_of(text)), 4), "text": text}


def _load(model: Path) -> Any:
    try:
        return classifier.Classifier.load(model).score
    except HanmoError as error:
        try:
            return ngram.NgramModel.load(model).perplexity
        except HanmoError:
            raise error from None
