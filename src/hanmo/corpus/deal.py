"""Second pass: of each bucket, keep every text once, split off the held-out part, write the rest in the order of hash.

Since a document's hash says nothing about where it came from, the order of hashes is a shuffle of the whole corpus, the
same one whatever the number of workers. A bucket leaves `train/NNNNN.jsonl.zst`, a piece of the held-out part in
`work/deal/`, its duplicates in `rejects/` and, last, `work/deal/NNNNN.json` with its counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hanmo.corpus.gather import choice_of
from hanmo.corpus.near import gone_in
from hanmo.corpus.records import EXCERPT
from hanmo.corpus.spill import Spilled, SpillWriter, blocks_of, documents_of
from hanmo.corpus.tally import Tally
from hanmo.corpus.writing import LazyWriter
from hanmo.files import write_json
from hanmo.remote import work_of

#: A bucket is sorted in memory in parts of at most about this many bytes, however large it turned out.
PART = 128 << 20


@dataclass(frozen=True)
class DealTask:
    """One bucket; travels to a worker."""

    bucket: int
    buckets: int
    out: Path
    stems: tuple[Path, ...]  # the spills of the first pass, in the order of the plan
    bounds: tuple[int, ...]  # by source: documents whose `choice_of` is below are held out ...
    largest: int  # ... unless they have more bytes than this
    dedup: bool
    priorities: tuple[int, ...]  # by source: which of equal texts stays
    gone: Path | None  # near-duplicates (see `near`)
    train: Path  # the folder of what is to be trained on

    @property
    def stem(self) -> Path:
        return work_of(self.out) / "deal" / f"{self.bucket:05d}"

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(".json")


def deal(task: DealTask) -> dict[str, Any]:
    """Do one bucket; returns what it also wrote to `task.done`."""
    tallies: dict[int, Tally] = {}
    train = task.train / f"{task.bucket:05d}.jsonl.zst"
    heldout = task.stem.with_suffix(".heldout.jsonl.zst")
    rejects = task.out / "rejects" / f"duplicates-{task.bucket:05d}.jsonl.zst"
    gone = gone_in(task.gone, task.bucket, task.buckets) if task.gone else {}
    with contextlib.ExitStack() as stack:
        files = {path: LazyWriter(stack, path) for path in (train, heldout, rejects)}
        key, held = b"", False
        for document, original in _sorted_once(task):
            tally = tallies.setdefault(document.source, Tally())
            if original is not None or document.key in gone:
                record = orjson.loads(document.line)
                if original is not None:
                    reason, detail = "duplicate", f"the same text as {orjson.loads(original)['id']}"
                else:
                    reason, (kept, alike) = "near_duplicate", gone[document.key]
                    detail = f"{alike:.2f} like {kept}"
                tally.reject(reason, record["meta"]["at"], detail, record["text"], document.bytes)
                record |= {"text": record["text"][:EXCERPT], "meta": {"detail": detail}, "reason": reason}
                files[rejects].write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
                continue
            if document.key != key:
                # Equal texts, where they are kept, go the way of the first: none is trained on that is held out.
                bound = task.bounds[document.source]
                key, held = document.key, choice_of(document.key) < bound and document.bytes <= task.largest
            amount = tally.heldout if held else tally.train
            amount.add(document.bytes, document.chars, document.han)
            files[heldout if held else train].write(document.line)
    result = {"tallies": {str(index): tally.as_dict() for index, tally in sorted(tallies.items())}}
    write_json(task.done, result)
    return result


def _sorted_once(task: DealTask) -> Iterator[tuple[Spilled, bytes | None]]:
    """The documents of a bucket by hash and, where hashes are equal, by priority and in the order of the plan; with
    each duplicate the line of the document that it repeats."""
    for held in _parts(task):
        held.sort(key=lambda document: (document.key, -task.priorities[document.source]))
        first: Spilled | None = None
        for document in held:
            if task.dedup and first is not None and document.key == first.key:
                yield document, first.line
            else:
                first = document
                yield document, None


def _parts(task: DealTask) -> Iterator[list[Spilled]]:
    """The documents of a bucket in parts that fit in memory, each with all documents of a range of hashes.

    A bucket that is too large (there are only so many) is dealt once more, on disk.
    """
    indexed = [(stem, blocks_of(stem, task.bucket)) for stem in task.stems]
    documents = (document for stem, rows in indexed if len(rows) for document in documents_of(stem, rows))
    parts = 1 + sum(int(rows[:, 3].sum()) for _, rows in indexed) // PART
    if parts == 1:
        yield list(documents)
        return
    with SpillWriter(task.stem, task.buckets * parts) as spill:
        for document in documents:
            spill.write(document)
    for part in range(parts):
        yield list(documents_of(task.stem, blocks_of(task.stem, task.bucket * parts + part)))
    for suffix in (".bin", ".npy"):
        task.stem.with_suffix(suffix).unlink()
