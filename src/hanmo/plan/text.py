"""What a recipe's way from text to tokens will cost: hours, disk and memory, from a measured sample of its own sources.

The stages `corpus`, `tokenizer` and `tokens` are run in one process, as the recipe sets them, on a sample of its text
(a tenth of it first, so that loading libraries is not measured). The projection multiplies:

* seconds by text over processors, since tasks share nothing but the disk. Sorting costs a little more on more text; it
  is taken to grow with the logarithm of the number of documents;
* disk by text: what is read, what stands between the passes, what comes out;
* memory: that of a worker does not grow with the text. Joining near-duplicates to groups is one process's work and
  does: by the documents that are like another.
"""

from __future__ import annotations

import math
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hanmo.console import console, human_bytes, human_seconds
from hanmo.corpus.fields import text_of
from hanmo.corpus.formats import read
from hanmo.corpus.inputs import Found, SourceFile, look
from hanmo.corpus.records import Record
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter
from hanmo.recipe import Recipe, Stage

#: Anonymous memory of one worker at most, measured from 40 to 1000 MB of text (benchmarks/memory_corpus.py), bytes.
WORKER = {"corpus": 0.6e9, "tokens": 0.6e9}
#: Memory of the tokenizer stage by megabyte of its sample, bytes.
TOKENIZER_MB = 12e6
#: Documents of web text that are like another, about. A sample cannot tell: it seldom holds both of a pair.
ALIKE = 0.2
#: Memory of joining near-duplicates, by document that is like another (its name, hash, number and group), bytes.
JOINED_DOCUMENT = 400
_FOLDERS = ("train", "heldout", "rejects")


@dataclass(frozen=True)
class Rates:
    """What a megabyte (10**6 bytes of text in UTF-8, as read) costs, measured on one processor.

    Attributes:
        sample_mb: text of the larger sample.
        documents: documents in a megabyte.
        seconds: by stage, for a megabyte of text; the tokenizer's for a megabyte of its sample.
        disk: bytes on disk for a byte of text: `read` (the sources), `between` (the most there is while the corpus is
            made), `corpus`, `tokens`.
    """

    sample_mb: float
    documents: float
    seconds: dict[str, float]
    disk: dict[str, float]


@dataclass(frozen=True)
class Row:
    """The cost of one stage for one size of text."""

    stage: str
    hours: float
    disk: float  # bytes that stay; the corpus's also hold `between` while it works
    worker: float  # bytes of memory of each worker
    alone: float  # bytes of memory of the one process that coordinates


def project(rates: Rates, text: float, cores: int, sample_mb: int) -> list[Row]:
    """The cost of the three stages for `text` bytes on so many processors (of all machines together).

    Args:
        sample_mb: the tokenizer stage's own setting: the text it takes.
    """
    megabytes = text / 1e6
    documents = rates.documents * megabytes
    measured = max(2.0, rates.documents * rates.sample_mb)
    sorting = math.log(max(2.0, documents)) / math.log(measured)
    joined = documents * ALIKE * JOINED_DOCUMENT
    taken = min(sample_mb, megabytes)
    return [
        Row(
            "corpus",
            rates.seconds["corpus"] * megabytes * max(1.0, sorting) / cores / 3600,
            rates.disk["corpus"] * text,
            WORKER["corpus"],
            joined,
        ),
        Row("tokenizer", rates.seconds["tokenizer"] * taken / 3600, 0, 0, taken * TOKENIZER_MB),
        Row(
            "tokens",
            rates.seconds["tokens"] * megabytes / cores / 3600,
            rates.disk["tokens"] * text,
            WORKER["tokens"],
            0,
        ),
    ]


def plan(recipe: Recipe, sample_mb: float = 16.0) -> tuple[Rates, float, int]:
    """Measure a recipe's stages from text to tokens on a sample of its sources.

    Returns:
        (rates, bytes of text in its sources (estimated), the tokenizer stage's `sample_mb`).

    Raises:
        HanmoError: no corpus stage, sources that another stage makes and that are not there yet, or too little text.
    """
    stages = {stage.kind.do: stage for stage in reversed(recipe.stages)}
    if "corpus" not in stages:
        raise HanmoError(f"{recipe.name}: no corpus stage in it, so there is nothing to measure")
    corpus = stages["corpus"]
    if made := corpus.after:
        raise HanmoError(
            f"{recipe.name}: stage '{corpus.name}' reads what stage '{made[0]}' makes, whose size is not known yet; "
            "a plan needs a corpus stage that reads files"
        )
    settings = corpus.settings
    assert isinstance(settings, CorpusSettings)
    inputs = [path for path in corpus.sources.get("documents", []) if isinstance(path, Path)]
    found = look(settings, inputs)
    with tempfile.TemporaryDirectory(prefix="hanmo-plan-") as name:
        folder = Path(name)
        samples = [
            _sample(found, folder / part / "raw", sample_mb * share) for part, share in (("first", 0.1), ("whole", 1))
        ]
        if samples[1]["mb"] < 0.3 * sample_mb:
            raise HanmoError(f"{recipe.name}: its sources hold only {samples[1]['mb']:.1f} MB of text: just run it")
        _measure(stages, settings, samples[0], folder / "first")
        whole = _measure(stages, settings, samples[1], folder / "whole")
    seconds = {stage: spent / whole["mb"] for stage, spent in whole["seconds"].items()}
    files = sum(file.size for file in found.files)
    content = sum(file.content for file in found.files)
    text = content * whole["text_share"]
    tokenizer = stages.get("tokenizer")
    return (
        Rates(
            sample_mb=whole["mb"],
            documents=whole["documents"] / whole["mb"],
            seconds=seconds,
            disk={"read": files / text, **whole["disk"]},
        ),
        text,
        tokenizer.settings.sample_mb if tokenizer else 100,  # type: ignore[attr-defined]
    )


def _sample(found: Found, folder: Path, megabytes: float) -> dict[str, Any]:
    """Write the first records of all files, each by its size, as {text}; returns the sources and what was read."""
    content = sum(file.content for file in found.files)
    folder.mkdir(parents=True)
    text_bytes = read_bytes = documents = 0
    begin = time.perf_counter()
    spent = 0.0
    sources = []
    for index, source in enumerate(found.sources):
        path = folder / f"{index}.jsonl.zst"
        with JsonlZstWriter(path) as writer:
            for file in found.files:
                if file.source == index:
                    for text, size in _records(file, megabytes * 1e6 * file.content / content):
                        began = time.perf_counter()
                        writer.write({"text": text})
                        spent += time.perf_counter() - began
                        text_bytes += len(text.encode())
                        read_bytes += size
                        documents += 1
        kept = source.model_dump(include={"name", "priority", "clean", "quality"})
        sources.append(Source(path=str(path), **kept))
    if not text_bytes:
        raise HanmoError("no text could be read from the sources")
    return {
        "sources": sources,
        "mb": text_bytes / 1e6,
        "documents": documents,
        "text_share": text_bytes / read_bytes,
        "seconds": time.perf_counter() - begin - spent,
    }


def _records(file: SourceFile, limit: float) -> Iterator[tuple[str, int]]:
    """(text, bytes it took in the file) of the first records of a file, about so many bytes of text."""
    left = limit
    try:
        for item in islice(read(file.opened), 1_000_000):
            text = text_of(item.fields, file.text) if isinstance(item, Record) else None
            if text and isinstance(item, Record):
                yield text.encode("utf-8", "replace").decode(), item.size
                left -= len(text.encode("utf-8", "replace"))
            if left <= 0:
                return
    except FileFault as fault:
        console.print(f"{file.opened.where}: {fault.detail}", markup=False)


def _measure(
    stages: dict[str, Stage], settings: CorpusSettings, sampled: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Run the stages there are on a sample."""
    from hanmo.corpus import stage as corpus
    from hanmo.tokens import stage as tokens
    from hanmo.tokens.settings import TokensSettings

    text = sampled["mb"] * 1e6
    out = folder / "corpus"
    settings = settings.model_copy(update={"sources": sampled["sources"], "workers": 1})
    seconds: dict[str, float] = {}
    with _watched(out) as most, _timed(seconds, "corpus"):
        corpus.run(settings, {}, out)
    seconds["corpus"] += sampled["seconds"]
    disk = {
        "between": max(0.0, (max(most, default=0) - _size(out)) / text),
        "corpus": sum(_size(out / name) for name in _FOLDERS) / text,
    }
    for do in ("tokenizer", "tokens"):
        seconds[do] = 0.0
        disk.setdefault("tokens", 0.0)
        if do in stages and (do == "tokenizer" or "tokenizer" in stages):
            inputs = {"corpus": [out], "tokenizer": [folder / "tokenizer"]}
            with _timed(seconds, do):
                if do == "tokens":
                    tokens.run(TokensSettings(workers=1), inputs, folder / do)
                else:
                    _train(stages[do].settings, inputs, folder / do)
            if do == "tokens":
                disk["tokens"] = sum(_size(folder / do / name) for name in _FOLDERS) / text
    return {
        "mb": sampled["mb"],
        "text_share": sampled["text_share"],
        "documents": sampled["documents"],
        "seconds": seconds,
        "disk": disk,
    }


def _train(settings: Any, inputs: dict[str, list[Path]], out: Path) -> None:
    """Train the tokenizer, with as many tokens as the sample supports; its time hangs on the text more than on them."""
    from hanmo.tokenizer import train

    size = settings.vocab_size
    while True:
        try:
            train.run(settings.model_copy(update={"vocab_size": size}), inputs, out)
            return
        except HanmoError:
            size = 8192 if size == "auto" else size // 2
            if size < 300:
                raise


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - begin


@contextmanager
def _watched(folder: Path) -> Iterator[list[int]]:
    """Sizes of a folder, looked at ten times a second."""
    sizes: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            sizes.append(_size(folder))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # it was a temporary one
            continue
    return total


def size_of(text: str) -> float:
    """'200GB' -> 2e11 (decimal units).

    Raises:
        HanmoError: it is no size.
    """
    match = re.fullmatch(r"([0-9.]+)\s*([KMGT]?)B?", text.strip().upper())
    try:
        assert match
        return float(match[1]) * 1000.0 ** " KMGT".index(match[2] or " ")
    except (AssertionError, ValueError):
        raise HanmoError(f"--text {text}: not a size such as 800MB, 200GB or 10TB") from None


def describe(rates: Rates, text: float, cores: int, sample_mb: int) -> dict[str, Any]:
    """The projection for one size as JSON: totals and the stages' rows."""
    rows = project(rates, text, cores, sample_mb)
    kept = sum(row.disk for row in rows) + rates.disk["read"] * text
    return {
        "text_bytes": text,
        "cores": cores,
        "hours": sum(row.hours for row in rows),
        "disk_bytes": kept,
        "disk_at_most_bytes": max(kept, (rates.disk["read"] + rates.disk["corpus"] + rates.disk["between"]) * text),
        "memory_per_worker_bytes": max(row.worker for row in rows),
        "memory_of_one_process_bytes": max(row.alone for row in rows),
        "stages": [asdict(row) for row in rows],
    }


def show(rates: Rates, own: float, plans: list[dict[str, Any]]) -> None:
    """Print the rates and the projections."""
    from rich.table import Table

    from hanmo.console import Console

    out = Console()
    speeds = ", ".join(f"{stage} {1 / cost:.1f} MB/s" for stage, cost in rates.seconds.items() if cost)
    out.print(
        f"The sources hold about {human_bytes(own)} of text. Measured on {rates.sample_mb:.0f} MB of it, "
        f"on one processor: {speeds}. Taken for granted: {ALIKE:.0%} of the documents are like another.",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("text", "cores", "time", "disk", "disk at most", "a worker's memory", "one process's")
    for plan in plans:
        table.add_row(
            human_bytes(plan["text_bytes"]),
            str(plan["cores"]),
            human_seconds(plan["hours"] * 3600),
            human_bytes(plan["disk_bytes"]),
            human_bytes(plan["disk_at_most_bytes"]),
            human_bytes(plan["memory_per_worker_bytes"]),
            human_bytes(plan["memory_of_one_process_bytes"]),
        )
    out.print(table)
    for plan in plans:
        shares = ", ".join(f"{row['stage']} {row['hours'] / plan['hours']:.0%}" for row in plan["stages"])
        out.print(f"{human_bytes(plan['text_bytes'])}: {shares} of the time", highlight=False)
