"""No exam in the training text: documents that hold much of an exam item are left out.

An item is known by its runs of `GRAM` letters, digits and Han characters (punctuation, case and white space do not
count). A document is contaminated when it holds at least a given share of the runs of one item: a share, because a
single run is often a set phrase ("根据中华人民共和国民法典的规定……") that exams and honest texts have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.corpus.formats import FORMATS, format_of, read
from hanmo.corpus.readers.jsons import sniff_json
from hanmo.corpus.records import Opened, Record
from hanmo.corpus.sketch import hashes
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError
from hanmo.evaluate.items import load_items
from hanmo.files import atomic_write

#: Characters of a run. Items with fewer are too common to be told from other text.
GRAM = 13
#: Fields of a record that say which item it is rather than what it asks.
_NOT_TEXT = frozenset(("id", "idx", "category", "kind", "type", "subject", "split", "source", "label"))
_FILTER_BITS = 20


def collect(paths: list[Path], out: Path) -> tuple[int, int]:
    """Read exams and write what `Exams` needs to `out` (.npz).

    Args:
        paths: exam files (our own exam.jsonl, or records of any form whose texts are taken together), or folders that
            hold an exam.jsonl.

    Returns:
        (items that can be told, items too short for it).

    Raises:
        HanmoError: a file that is missing, torn or of no known form.
    """
    return write_grams((item for path in paths for item in _items(path)), out)


def write_grams(items: Iterable[tuple[str, Sequence[str]]], out: Path) -> tuple[int, int]:
    """Write what `Exams` needs of items (name, texts) to `out` (.npz); returns what `collect` does."""
    names: list[str] = []
    grams: list[np.ndarray] = []
    short = 0
    for name, texts in items:
        found = np.unique(np.concatenate([hashes(text, GRAM) for text in texts] or [np.empty(0, np.uint64)]))
        if len(found):
            names.append(name)
            grams.append(found)
        else:
            short += 1
    all_grams = np.concatenate([np.empty(0, np.uint64), *grams])
    item = np.repeat(np.arange(len(grams)), [len(found) for found in grams])
    order = np.argsort(all_grams, kind="stable")
    with atomic_write(out, "wb") as stream:
        np.savez(
            stream,
            grams=all_grams[order],
            item=item[order],
            size=np.array([len(found) for found in grams], np.int64),
            name=np.array([name.encode() for name in names], np.bytes_),
        )
    return len(names), short


def _items(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(name, texts) of every item of an exam file, or of a folder: our own, or of public exams' files."""
    file = path / "exam.jsonl" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        from hanmo.evaluate.exams.reading import read_folder

        for exam, part, item in read_folder(path):
            yield f"{exam}/{part}:{item.id}", [item.question, *item.options]
        return
    if file.name == "exam.jsonl":
        for item in load_items(file):
            yield f"{file.parent.name}:{item.id}", [item.question, *(item.choices or ())]
        return
    kind = format_of(file.name)
    if not file.is_file() or kind is None or (FORMATS[kind].fields and kind not in ("txt", "md")):
        raise HanmoError(f"{file}: no exam file; give a folder with exam.jsonl, or jsonl, json, csv, parquet, txt")
    try:
        opened = Opened(path=file, format=kind, split="line")
        for record in read(replace(opened, format=sniff_json(opened)) if kind == "json" else opened):
            if not isinstance(record, Record):
                raise HanmoError(f"{file}:{record.line}: {record.detail}; mend the exam")
            yield f"{file.stem}:{record.line}", list(_texts(dict(record.fields)))
    except FileFault as fault:
        raise HanmoError(f"{file}: {fault.detail}; mend the exam") from None


def _texts(value: Any) -> Iterator[str]:
    """All texts in a record, however nested."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if str(key).lower() not in _NOT_TEXT:
                yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


class Exams:
    """The runs of all items, to test documents against."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as data:
            self._grams, self._item = data["grams"], data["item"]
            self._size, self._name = data["size"], data["name"]
        # Nearly every run of a document is in no exam: one bit of a table says so.
        self._filter = np.zeros(1 << _FILTER_BITS, bool)
        self._filter[self._grams >> np.uint64(64 - _FILTER_BITS)] = True

    def worst(self, text: str) -> tuple[str, float]:
        """The item of which `text` holds most, and the share of it (0 where it holds none)."""
        share = self._shares(text)
        if share is None:
            return "", 0.0
        worst = int(share.argmax())
        return self._name[worst].decode(), float(share[worst])

    def held(self, text: str, least: float) -> list[tuple[str, float]]:
        """The items of which `text` holds at least the share `least`, and the share of each."""
        share = self._shares(text)
        chosen = [] if share is None else np.flatnonzero(share >= least).tolist()
        return [(self._name[index].decode(), float(share[index])) for index in chosen]  # type: ignore[index]

    def _shares(self, text: str) -> np.ndarray | None:
        """float64 (items,): the share of each item's runs that `text` holds; None where it holds none of any."""
        runs = hashes(text, GRAM)
        runs = np.unique(runs[self._filter[runs >> np.uint64(64 - _FILTER_BITS)]])
        first = np.searchsorted(self._grams, runs, "left")
        count = np.searchsorted(self._grams, runs, "right") - first
        if not count.any():
            return None
        places = np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.bincount(self._item[places], minlength=len(self._size)) / self._size
