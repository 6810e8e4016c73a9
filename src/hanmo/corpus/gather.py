"""First pass: read, clean, filter, hash. Each task reads its files and deals what passes into buckets by hash.

A task leaves `work/gather/NNNNNN.{bin,npy}` (see `spill`), signatures (see `near`), `NNNNNN.chosen.npy` (candidates for
the held-out part), `rejects/NNNNNN.jsonl.zst` and, last, `NNNNNN.json` with its counts: with that file it is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.contamination import Exams
from hanmo.corpus.fields import text_of
from hanmo.corpus.formats import read
from hanmo.corpus.hubfile import TORN
from hanmo.corpus.inputs import Piece, bad_file
from hanmo.corpus.near import SketchWriter
from hanmo.corpus.quality.judge import Judge
from hanmo.corpus.records import EXCERPT, Bad, Record
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.spill import Spilled, SpillWriter
from hanmo.corpus.stream import FileFault
from hanmo.corpus.tally import Tally
from hanmo.files import JsonlZstWriter, atomic_write, write_json
from hanmo.remote import work_of


@dataclass(frozen=True)
class GatherTask:
    """One task of the first pass; travels to a worker."""

    number: int
    out: Path
    settings: CorpusSettings
    sources: tuple[Source, ...]
    pieces: tuple[Piece, ...]
    buckets: int
    exams: Path | None = None  # see `contamination`

    @property
    def stem(self) -> Path:
        return work_of(self.out) / "gather" / f"{self.number:06d}"

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(".json")


def key_of(data: bytes) -> bytes:
    """128-bit hash of a text in UTF-8 without its ASCII white space.

    Equal keys are duplicates; the order of keys is the order of the corpus; bytes 8 to 16 choose the held-out part.
    """
    return xxhash.xxh3_128_digest(data.translate(None, b" \t\n\r"))


def choice_of(key: bytes) -> int:
    """The number below 2**64 that decides whether a document is held out (the smallest ones are)."""
    return int.from_bytes(key[8:], "big")


def largest_heldout(settings: CorpusSettings) -> int:
    """Bytes of the largest document that may be held out: a book that fills the held-out part would measure one
    book.
    """
    return int(settings.heldout_mb * 1e6 / 10)


def gather(task: GatherTask) -> dict[str, Any]:
    """Do one task; returns what it also wrote to `task.done`."""
    return _Gatherer(task).run()


class _Gatherer:
    def __init__(self, task: GatherTask) -> None:
        self.task = task
        self.settings = task.settings
        self.tallies = {index: Tally() for index in sorted({piece.file.source for piece in task.pieces})}
        self.cleaners = {index: Cleaner(self.settings.clean_of(task.sources[index])) for index in self.tallies}
        self.judges = {index: Judge(self.settings.quality_of(task.sources[index])) for index in self.tallies}
        # Per file: lines seen, lines that could not be read, and the first of these.
        self.lines: dict[int, dict[str, Any]] = {}
        self.bound = int(self.settings.heldout_fraction * 2**64)
        self.candidates: list[tuple[int, int, int]] = []
        self.smallest: dict[int, tuple[int, int, int]] = {}  # by source
        self.rejects: list[dict[str, Any]] = []
        self.sketches: SketchWriter | None = None
        self.exams = Exams(task.exams) if task.exams else None

    def run(self) -> dict[str, Any]:
        task = self.task
        rejects = task.out / "rejects" / f"{task.number:06d}.jsonl.zst"
        with ExitStack() as stack:
            if self.settings.near_similarity:
                self.sketches = stack.enter_context(SketchWriter(task.stem))
            spill = stack.enter_context(SpillWriter(task.stem, task.buckets))
            rejected = stack.enter_context(JsonlZstWriter(rejects))
            for piece in task.pieces:
                for document in self._piece(piece):
                    spill.write(document)
                    if self.rejects:
                        self._write_rejects(rejected)
                self._write_rejects(rejected)
        if not any(tally.rejected or tally.bad_files_count for tally in self.tallies.values()):
            rejects.unlink()
        self._write_candidates()
        result = {
            "tallies": {str(index): tally.as_dict() for index, tally in self.tallies.items()},
            "lines": {str(index): value for index, value in self.lines.items()},
        }
        write_json(task.done, result)
        return result

    def _write_rejects(self, file: JsonlZstWriter) -> None:
        for value in self.rejects:
            file.write(value)
        self.rejects.clear()

    def _write_candidates(self) -> None:
        """(choice, bytes, source) of the documents of this task that may be held out; of each source one at least."""
        some = {source for _, _, source in self.candidates}
        self.candidates += (smallest for source, smallest in self.smallest.items() if source not in some)
        with atomic_write(self.task.stem.with_suffix(".chosen.npy"), "wb") as file:
            np.save(file, np.array(self.candidates, np.uint64).reshape(-1, 3))

    def _piece(self, piece: Piece) -> Iterator[Spilled]:
        """The documents of a piece that are to be kept."""
        file = piece.file
        tally = self.tallies[file.source]
        lines = self.lines.setdefault(piece.index, {"seen": 0, "bad": 0, "first": None})
        fault: FileFault | None = None
        try:
            for item in read(file.opened):
                lines["seen"] += 1
                if isinstance(item, Record):
                    text = text_of(item.fields, file.text)
                    if text is not None:
                        document = self._document(piece, item, text, tally)
                        if document is not None:
                            yield document
                        continue
                    there = ", ".join(map(str, list(item.fields)[:8]))
                    named = " + ".join(file.text) or "?"
                    detail = f"no text in field '{named}' (fields: {there})"
                    item = Bad(item.line, "no_text", detail, "", nth=item.nth)
                tally.read.documents += 1
                self._reject(tally, piece, item.place, item.reason, item.detail, item.excerpt)
                if item.unwanted:
                    continue
                lines["bad"] += 1
                lines["first"] = lines["first"] or [item.line, item.detail]
                if self.settings.max_bad_lines == 0:
                    break
        except FileFault as found:
            if self.settings.on_bad_file == "fail":
                raise bad_file(file.opened.where, found) from None
            fault = found
        else:
            if not lines["seen"] and file.opened.stripes == 1:  # nothing is wrong with it, but it shall not go unheard
                fault = FileFault("empty_file", "no record in it")
        # Most faults show in every stripe of a file, and count once; a connection breaks in one of them.
        if fault and (file.opened.stripe == 0 or fault.reason == TORN):
            where = f"{file.name}:{fault.line}" if fault.line else file.name
            tally.bad_file(f"{where}: {fault.detail}")
            source = self.task.sources[file.source].name
            self.rejects.append(
                {"id": f"{source}:{where}", "text": "", "source": source, "meta": {}, "reason": fault.reason}
            )

    def _document(self, piece: Piece, record: Record, raw: str, tally: Tally) -> Spilled | None:
        file = piece.file
        where = f"{file.name}:{record.place}"
        found: Counter[str] = Counter()
        tally.changes.begin(where)
        text, before, after = self.cleaners[file.source](raw, found, tally.changes)
        tally.change(found)
        data = text.encode()
        size = len(data) if text is raw else len(raw.encode())
        tally.read.add(size, before.chars, before.han)
        reason, detail, noted = self.judges[file.source](text, before, after)
        tally.notice(noted, after.chars)
        if not reason and self.exams:
            item, share = self.exams.worst(text)
            if share >= self.settings.contamination:
                reason, detail = "contaminated", f"holds {share:.0%} of exam item {item}"
        if reason:
            self._reject(tally, piece, record.place, reason, detail, raw[:EXCERPT], size)
            return None
        source = self.task.sources[file.source].name
        own = record.fields.get("id")
        meta = record.fields.get("meta")
        identity = str(own)[:200] if isinstance(own, (str, int)) and own != "" else f"{source}:{where}"
        line = orjson.dumps(
            {
                "id": identity,
                "text": text,
                "source": source,
                "meta": {**(meta if isinstance(meta, dict) else {}), **noted, "at": where},
            },
            option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS,
        )
        tally.kept.add(len(data), after.chars, after.han)
        key = key_of(data)
        if self.sketches:
            self.sketches.add(key, file.source, len(data), identity, text)
        if self.bound and len(data) <= largest_heldout(self.settings):
            chosen = (choice_of(key), len(data), file.source)
            if chosen[0] < self.bound:
                self.candidates.append(chosen)
            else:
                self.smallest[file.source] = min(chosen, self.smallest.get(file.source, chosen))
        return Spilled(key, file.source, len(data), after.chars, after.han, line)

    def _reject(
        self, tally: Tally, piece: Piece, place: str, reason: str, detail: str, text: str, size: int = 0
    ) -> None:
        where = f"{piece.file.name}:{place}"
        tally.reject(reason, where, detail, text, size)
        source = self.task.sources[piece.file.source].name
        self.rejects.append(
            {
                "id": f"{source}:{where}",
                "text": text.encode("utf-8", "replace").decode(),
                "source": source,
                "meta": {"detail": detail},
                "reason": reason,
            }
        )


def merged(results: list[dict[str, Any]], sources: int) -> list[Tally]:
    """The tallies of all tasks, by source."""
    tallies = [Tally() for _ in range(sources)]
    for result in results:
        for index, value in result["tallies"].items():
            tallies[int(index)].merge(Tally.from_dict(value))
    return tallies


def unreadable_lines(results: list[dict[str, Any]]) -> dict[int, tuple[int, int, int, str]]:
    """By file: lines seen, lines that could not be read, the first of these and what is wrong with it."""
    found: dict[int, tuple[int, int, int, str]] = {}
    seen: Counter[int] = Counter()
    for result in results:
        for index, value in result["lines"].items():
            file = int(index)
            seen[file] += value["seen"]
            if value["bad"]:
                _, bad, line, detail = found.get(file, (0, 0, 2**62, ""))
                if value["first"][0] < line:
                    line, detail = value["first"]
                found[file] = (0, bad + value["bad"], line, detail)
    return {file: (seen[file], bad, line, detail) for file, (_, bad, line, detail) in found.items()}
