"""Repeated parts: lines that stand in many documents, and stretches that stand in an earlier one, are cut out.

Comes last, over the documents that are left (otherwise two copies could each lose what only the other has). Of what is
repeated, the first occurrence stays: held-out documents come first and are never cut (so that what is trained on does
not hold their stretches), then sources by priority, then the order of the corpus. After Lee et al. 2022
(arXiv:2107.06499, section 4.1: repeated substrings) and Wenzek et al. 2020 (CCNet, arXiv:1911.00359: lines), with two
differences: whole sentences go, since half a sentence teaches nothing; and no suffix array, which would want the whole
corpus in memory. The passes, each cut into tasks with all that is known between them on disk:

    scan    every shard: hashes of its lines; fingerprints of its stretches (see `windows`)
    meet    a range of hashes: lines of too many documents; fingerprints that occur twice
    widen   every shard: the hashes of all windows of the full length around those fingerprints
    meet    again: windows that occur twice, of which all but the first are copies
    cut     every shard: what is a copy goes, `train/NNNNN.jsonl.zst` is written
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from hanmo.corpus.clean import measure
from hanmo.corpus.records import EXCERPT
from hanmo.corpus.tally import Tally
from hanmo.corpus.windows import Letters
from hanmo.corpus.writing import LazyWriter
from hanmo.files import atomic_write, read_json, read_jsonl, write_json
from hanmo.remote import work_of

Kind = Literal["lines", "prints", "windows"]
#: Where a hash stands: in which document of its shard, and at which character (lines) or letter (the others). `rank`
#: puts the document's source in its place among the sources: the smallest stays.
MARK = np.dtype([("hash", "<u8"), ("document", "<u4"), ("at", "<u4"), ("rank", "<i4")])
#: A place that came out of a meeting.
HIT = np.dtype([("shard", "<u4"), ("document", "<u4"), ("at", "<u4")])
#: Letters of a line that are no digits, for the line to be told from a heading or a set phrase.
LINE = 10
#: Marks that a meeting holds at a time, about (20 bytes each, three times over while they are sorted).
HELD = 8_000_000
_HELDOUT = -(1 << 31)


@dataclass(frozen=True)
class Repeats:
    """What all tasks know; travels to the workers."""

    out: Path
    shards: tuple[Path, ...]  # held-out ones first
    heldout: int  # how many of them are held out
    ranks: dict[str, int]  # by source: the smallest stays
    lines: int  # documents that may hold the same line; 0: any number
    stretch: int  # letters; 0: none are looked for
    min_chars: dict[str, int]  # by source: of what is left of a document

    @property
    def work(self) -> Path:
        return work_of(self.out) / "repeats"


@dataclass(frozen=True)
class ShardTask:
    """One shard in one of the passes `scan`, `widen` and `cut`."""

    step: str
    shard: int
    plan: Repeats

    @property
    def stem(self) -> Path:
        return self.plan.work / self.step / f"{self.shard:05d}"

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(".json")


@dataclass(frozen=True)
class MeetTask:
    """One of `parts` ranges of the hashes of one kind."""

    kind: Kind
    part: int
    parts: int
    plan: Repeats

    @property
    def stem(self) -> Path:
        return self.plan.work / f"meet-{self.kind}" / f"{self.part:05d}"

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(".json")


def shard_tasks(step: str, plan: Repeats) -> list[ShardTask]:
    """The tasks of a pass over all shards; held-out ones are scanned but not cut."""
    return [ShardTask(step, shard, plan) for shard in range(plan.heldout if step == "cut" else 0, len(plan.shards))]


def meet_tasks(kind: Kind, plan: Repeats) -> list[MeetTask]:
    """The tasks of a meeting, so many that each holds about `HELD` marks."""
    step = "widen" if kind == "windows" else "scan"
    marks = sum(read_json(task.done)[kind] for task in shard_tasks(step, plan))
    parts = 1 + marks // HELD
    return [MeetTask(kind, part, parts, plan) for part in range(parts)]


def scan(task: ShardTask) -> dict[str, Any]:
    """Write the marks of a shard's lines and stretches."""
    plan = task.plan
    marks: dict[Kind, list[NDArray]] = {"lines": [], "prints": []}
    for number, record, rank in _documents(task):
        letters = Letters(record["text"])
        if plan.lines:
            hashes, starts, _ = letters.lines(LINE)
            marks["lines"].append(_marks(hashes, number, starts, rank))
        if plan.stretch:
            hashes, places = letters.fingerprints(plan.stretch)
            marks["prints"].append(_marks(hashes, number, places, rank))
    return _write_marks(task, marks)


def widen(task: ShardTask) -> dict[str, Any]:
    """Write the marks of all windows that a repeated fingerprint stands in."""
    length = task.plan.stretch
    near = _hits(task, "prints")
    marks: list[NDArray] = []
    for number, record, rank in _documents(task, near):
        hashes = Letters(record["text"]).windows(length)
        reach = np.zeros(len(hashes) + 1, np.int64)
        np.add.at(reach, np.maximum(near[number] - (length - length // 2), 0), 1)
        np.add.at(reach, np.minimum(near[number] + 1, len(hashes)), -1)
        starts = np.flatnonzero(np.cumsum(reach)[:-1] > 0)
        marks.append(_marks(hashes[starts], number, starts, rank))
    return _write_marks(task, {"windows": marks})


def meet(task: MeetTask) -> dict[str, Any]:
    """Find what occurs more than once in a range of hashes, and write where."""
    step = "widen" if task.kind == "windows" else "scan"
    found, shards = [], []
    edges = [(1 << 64) * part // task.parts for part in (task.part, task.part + 1)]
    for one in shard_tasks(step, task.plan):
        marks = np.load(one.stem.with_suffix(f".{task.kind}.npy"), mmap_mode="r")
        first = int(np.searchsorted(marks["hash"], np.uint64(edges[0])))
        last = len(marks) if task.part == task.parts - 1 else int(np.searchsorted(marks["hash"], np.uint64(edges[1])))
        found.append(np.array(marks[first:last]))
        shards.append(np.full(last - first, one.shard, np.uint32))
    marks, shard = np.concatenate(found), np.concatenate(shards)
    order = np.lexsort((marks["at"], marks["document"], shard, marks["rank"], marks["hash"]))
    marks, shard = marks[order], shard[order]
    same = marks["hash"][1:] == marks["hash"][:-1]
    again = np.concatenate([[False], same]) if len(marks) else np.empty(0, bool)
    if task.kind == "prints":  # every occurrence, the first one too: around it the windows are to be looked at
        chosen = again | np.concatenate([again[1:], [False]]) if len(marks) else again
    elif task.kind == "windows":
        chosen = again
    else:
        chosen = _beyond(again, shard, marks["document"], task.plan.lines)
    hits = np.empty(int(chosen.sum()), HIT)
    hits["shard"], hits["document"], hits["at"] = shard[chosen], marks["document"][chosen], marks["at"][chosen]
    hits.sort(order=["shard", "document", "at"])
    with atomic_write(task.stem.with_suffix(".npy"), "wb") as file:
        np.save(file, hits)
    result = {"hits": len(hits)}
    write_json(task.done, result)
    return result


def _beyond(again: NDArray[np.bool_], shard: NDArray, document: NDArray, allowed: int) -> NDArray[np.bool_]:
    """Which marks (equal ones together, in order) stand in a document behind the first `allowed` ones of their hash."""
    if not len(again):
        return again
    other = np.concatenate([[True], (shard[1:] != shard[:-1]) | (document[1:] != document[:-1])]) | ~again
    count = np.cumsum(other)
    start = np.flatnonzero(~again)
    before = np.repeat(count[start] - 1, np.diff(np.append(start, len(again))))
    return count - before > allowed


def cut(task: ShardTask) -> dict[str, Any]:
    """Write the shard without what is repeated; documents of which too little is left are rejected."""
    plan = task.plan
    lines = _hits(task, "lines") if plan.lines else {}
    windows = _hits(task, "windows") if plan.stretch else {}
    tallies: dict[str, Tally] = {}
    path = plan.shards[task.shard]
    rejects = plan.out / "rejects" / f"repeats-{path.name}"
    with ExitStack() as stack:
        train, rejected = (LazyWriter(stack, file) for file in (plan.out / "train" / path.name, rejects))
        for number, record, _ in _documents(task):
            tally = tallies.setdefault(record["source"], Tally())
            text = record["text"]
            spans = []
            if number in lines:
                spans += _lines_at(text, lines[number])
                tally.changed["repeated_lines"] += len(spans)
            if number in windows:
                found = _stretches_at(text, windows[number], plan.stretch)
                tally.changed["repeated_text"] += sum(end - start for start, end in found)
                spans += found
            left = without(text, spans) if spans else text
            if spans and len(left) < plan.min_chars[record["source"]]:
                detail = f"{len(text) - len(left)} of {len(text)} characters stand in other documents"
                tally.reject("repeated_text", record["meta"]["at"], detail, text, len(text.encode()))
                rejected.write(
                    orjson.dumps(
                        {**record, "text": text[:EXCERPT], "meta": {"detail": detail}, "reason": "repeated_text"},
                        option=orjson.OPT_APPEND_NEWLINE,
                    )
                )
                continue
            counts = measure(left)
            tally.train.add(len(left.encode()), counts.chars, counts.han)
            train.write(orjson.dumps({**record, "text": left}, option=orjson.OPT_APPEND_NEWLINE))
    result = {"tallies": {source: tally.as_dict() for source, tally in sorted(tallies.items())}}
    write_json(task.done, result)
    return result


def without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text without those spans (start, end), which may overlap; no more than one empty line where they were."""
    parts: list[str] = []
    at = 0
    for start, end in sorted(spans):
        parts.append(text[at : max(at, start)])
        at = max(at, end)
    parts.append(text[at:])
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).strip("\n ")


def _lines_at(text: str, starts: NDArray) -> list[tuple[int, int]]:
    """The spans of the lines that begin there, their newlines included."""
    found = []
    for start in starts.tolist():
        end = text.find("\n", start)
        found.append((start, len(text) if end < 0 else end + 1))
    return found


#: Where a sentence may end: after its mark and the quotes and brackets that close with it, or a line's end.
_SENTENCE_END = re.compile(r"[。！？!?；;…]+[”’」』）)\]】》]*\n?|\n")


def _stretches_at(text: str, starts: NDArray, length: int) -> list[tuple[int, int]]:
    """The spans that windows of `length` letters cover, drawn in to whole sentences.

    Where no sentence begins in the first quarter of a span (or ends in its last), it is cut where it begins (ends).
    """
    place = Letters(text).place
    opens = np.concatenate([[True], np.diff(starts) > length])
    firsts = starts[opens]
    lasts = np.append(starts[np.flatnonzero(opens)[1:] - 1], starts[-1]) + length - 1
    ends = np.array([0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)])
    found = []
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        start = int(place[first])
        end = int(place[last + 1]) if last + 1 < len(place) else len(text)
        quarter = (end - start) // 4
        # A sentence's first letter may stand behind an opening quote or the indentation of its line.
        before = int(place[first - 1]) + 1 if first else 0
        begin = int(ends[np.searchsorted(ends, before)])
        finish = int(ends[np.searchsorted(ends, end, "right") - 1])
        found.append(
            (begin if begin <= start + quarter else start, finish if finish >= end - quarter else int(place[last]) + 1)
        )
    return found


def _documents(task: ShardTask, only: dict[int, Any] | None = None) -> Iterator[tuple[int, dict[str, Any], int]]:
    """(number in the shard, record, rank) of the documents of a shard, or of some of them."""
    plan = task.plan
    if only is not None and not only:
        return
    for line, record in read_jsonl(plan.shards[task.shard]):
        if only is None or line - 1 in only:
            yield line - 1, record, _HELDOUT if task.shard < plan.heldout else plan.ranks[record["source"]]


def _marks(hashes: NDArray, document: int, places: NDArray, rank: int) -> NDArray:
    marks = np.empty(len(hashes), MARK)
    marks["hash"], marks["document"], marks["at"], marks["rank"] = hashes, document, places, rank
    return marks


def _write_marks(task: ShardTask, marks: dict[Kind, list[NDArray]]) -> dict[str, Any]:
    """Write marks by kind, sorted by hash, and how many there are."""
    result = {}
    for kind, parts in marks.items():
        held = np.concatenate([np.empty(0, MARK), *parts])
        held = held[np.argsort(held["hash"], kind="stable")]
        with atomic_write(task.stem.with_suffix(f".{kind}.npy"), "wb") as file:
            np.save(file, held)
        result[kind] = len(held)
    write_json(task.done, result)
    return result


def _hits(task: ShardTask, kind: Kind) -> dict[int, NDArray[np.int64]]:
    """By document of the shard: the places that a meeting found."""
    found = []
    for one in meet_tasks(kind, task.plan):
        hits = np.load(one.stem.with_suffix(".npy"), mmap_mode="r")
        first, last = np.searchsorted(hits["shard"], (task.shard, task.shard + 1))
        found.append(np.array(hits[first:last]))
    hits = np.concatenate(found)
    hits.sort(order=["document", "at"])
    numbers, starts = np.unique(hits["document"], return_index=True)
    places = np.split(hits["at"].astype(np.int64), starts[1:])
    return dict(zip(numbers.tolist(), places, strict=False))  # of no hits, split makes one empty part
