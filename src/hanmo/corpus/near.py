"""Near-duplicates: found between the two passes, by signatures on disk, in bounded memory.

Beside its spill, a task of the first pass writes

    NNNNNN.sketches    one record per kept document (`ENTRY`): hash, source, size, id, signature
    NNNNNN.bands.npy   [BANDS, documents] uint64: of every document, a hash of each band of its signature

Two documents that are alike share at least one band nearly always (banding; Leskovec et al., Mining of Massive
Datasets, 3.4): with 21 bands of 6 values, pairs of likeness 0.8 in 99.8 of 100 cases and 0.7 in 93. A task of `search`
takes one band (or a range of its hashes, where there are many documents), sorts it, and compares the signatures of
those that share a hash; what is as like as asked is an edge. `resolve` joins edges to groups and keeps one document of
each.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.corpus.sketch import SIZE, likeness, sketch
from hanmo.corpus.spill import bucket_of
from hanmo.files import atomic_write, write_json
from hanmo.remote import work_of

BANDS, ROWS = 21, 6
#: What is known of a document: enough to choose which one of a group stays, and to say which it was.
ABOUT = np.dtype([("key", "V16"), ("source", "<u2"), ("size", "<u4"), ("id", "S64")])
ENTRY = np.dtype([*ABOUT.descr, ("sketch", "<u4", SIZE)])
#: A group that went: the hash of a document, the id of the one that stays instead, and how alike they are.
GONE = np.dtype([("key", "V16"), ("kept", "S64"), ("alike", "<f4")])
#: An edge between two documents by number.
EDGE = np.dtype([("left", "<i8"), ("right", "<i8")])
#: Documents whose hashes a task of `search` holds at a time, about.
HELD = 8_000_000
_HELD_ENTRIES = 2048  # in memory while a task of the first pass writes
_PAIRS = 100_000  # signatures compared at a time


class SketchWriter:
    """Writes the sketches of one task of the first pass; both files appear when the block ends well."""

    def __init__(self, stem: Path) -> None:
        self._stem = stem
        self._held: list[tuple[bytes, int, int, bytes, np.ndarray]] = []
        self._bands: list[np.ndarray] = []
        self._stack = ExitStack()

    def __enter__(self) -> SketchWriter:
        self._file = self._stack.enter_context(atomic_write(self._stem.with_suffix(".sketches"), "wb"))
        return self

    def add(self, key: bytes, source: int, size: int, identity: str, text: str) -> None:
        """Add one document; a key that was there before is the same text and need not come again."""
        self._held.append((key, source, size, identity.encode()[:64], sketch(text)))
        if len(self._held) == _HELD_ENTRIES:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            entries = np.array(self._held, ENTRY)
            self._file.write(entries.tobytes())
            self._bands.append(band_hashes(entries["sketch"]))
            self._held.clear()

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
            with atomic_write(self._stem.with_suffix(".bands.npy"), "wb") as file:
                np.save(file, np.concatenate([np.empty((BANDS, 0), np.uint64), *self._bands], 1))
        self._stack.__exit__(*error)


def band_hashes(sketches: np.ndarray, per_band: int = ROWS) -> np.ndarray:
    """[bands, n] uint64 hashes of the bands of [n, SIZE] signatures, so many of their values in each."""
    bands = SIZE // per_band
    rows = sketches[:, : bands * per_band].reshape(-1, bands, per_band).astype(np.uint64)
    total = np.zeros(rows.shape[:2], np.uint64)
    for row in range(per_band):
        total = (total ^ rows[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        total ^= total >> np.uint64(29)
    return np.ascontiguousarray(total.T)


class Sketches:
    """All documents of a first pass, numbered through in the order of the plan."""

    def __init__(self, stems: tuple[Path, ...]) -> None:
        self._parts = [entries_of(stem) for stem in stems]
        self.starts = np.cumsum([0] + [len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, numbers: np.ndarray, form: np.dtype = ENTRY) -> np.ndarray:
        """The entries [n] of those documents, or of their fields those in `form`."""
        found = np.empty(len(numbers), form)
        part = np.searchsorted(self.starts, numbers, side="right") - 1
        for index in np.unique(part):
            mine = part == index
            entries = self._parts[index][numbers[mine] - self.starts[index]]
            for name in form.names or ():
                found[name][mine] = entries[name]
        return found


def key_words(keys: np.ndarray) -> np.ndarray:
    """The two halves of hashes, [n, 2] uint64 in the order of the hashes; the second is what `choice_of` gives."""
    return np.ascontiguousarray(keys).view(">u8").reshape(-1, 2).astype(np.uint64)


def entries_of(stem: Path) -> np.ndarray:
    """The `ENTRY`s of one task of the first pass, mapped."""
    path = stem.with_suffix(".sketches")
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, ENTRY)
    return np.memmap(path, ENTRY, "r")


@dataclass(frozen=True)
class SearchTask:
    """One band, or one of `parts` ranges of its hashes; travels to a worker."""

    band: int
    part: int
    parts: int
    out: Path
    stems: tuple[Path, ...]
    similarity: float

    @property
    def stem(self) -> Path:
        return work_of(self.out) / "near" / f"{self.band:02d}-{self.part:04d}"

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(".json")


def searches(out: Path, stems: tuple[Path, ...], similarity: float) -> list[SearchTask]:
    """The tasks that compare all documents of a first pass."""
    parts = 1 + len(Sketches(stems)) // HELD
    return [SearchTask(band, part, parts, out, stems, similarity) for band in range(BANDS) for part in range(parts)]


def search(task: SearchTask) -> dict[str, Any]:
    """Find the pairs of one band that are at least `similarity` alike; returns what it also wrote to `task.done`."""
    sketches = Sketches(task.stems)
    hashes, numbers = _column(task, sketches)
    order = np.argsort(hashes, kind="stable")
    hashes, numbers = hashes[order], numbers[order]
    edges: list[np.ndarray] = []
    while len(numbers) > 1:
        # Every document is compared with the first of its hash; those that are not like it wait for the next turn,
        # in which one of them is the first.
        leader = numbers[_heads(hashes)]
        others = np.flatnonzero(leader != numbers)
        if not len(others):
            break
        left = np.zeros(len(others), bool)
        for start in range(0, len(others), _PAIRS):
            part = others[start : start + _PAIRS]
            one, two = sketches.take(leader[part]), sketches.take(numbers[part])
            alike = likeness(one["sketch"], two["sketch"])
            left[start : start + len(part)] = alike < task.similarity
            found = (alike >= task.similarity) & (one["key"] != two["key"])
            edge = np.empty(int(found.sum()), EDGE)
            edge["left"], edge["right"] = leader[part][found], numbers[part][found]
            edges.append(edge)
        numbers, hashes = numbers[others[left]], hashes[others[left]]
    with atomic_write(task.stem.with_suffix(".npy"), "wb") as file:
        np.save(file, np.concatenate([np.empty(0, EDGE), *edges]))
    result = {"edges": sum(map(len, edges))}
    write_json(task.done, result)
    return result


def _column(task: SearchTask, sketches: Sketches) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, numbers of documents) of the task's band and range."""
    hashes, numbers = [], []
    for stem, start in zip(task.stems, sketches.starts, strict=False):
        column = np.load(stem.with_suffix(".bands.npy"), mmap_mode="r")[task.band]
        mine = np.flatnonzero((column >> np.uint64(40)) * np.uint64(task.parts) >> np.uint64(24) == task.part)
        hashes.append(column[mine])
        numbers.append(mine + start)
    return np.concatenate(hashes), np.concatenate(numbers)


def resolve(tasks: list[SearchTask], priorities: list[int], path: Path) -> int:
    """Join all edges to groups and write who goes to `path` ([n] `GONE`, by key); returns n.

    Of a group stays the document of the source with the highest priority, among these the longest, then the one with
    the smallest hash. A group is all that hangs together, so two of its members may be less alike than asked.

    Args:
        priorities: by source.
    """
    forest = np.empty(0, EDGE)
    for task in tasks:  # the same pair is found in many bands; of each group only a tree is kept
        forest = _forest(np.concatenate([forest, np.load(task.stem.with_suffix(".npy"))]))
    members, ends = np.unique(np.stack([forest["left"], forest["right"]]), return_inverse=True)
    sketches = Sketches(tasks[0].stems)
    entries = np.concatenate(
        [np.empty(0, ABOUT), *(sketches.take(members[i : i + _PAIRS], ABOUT) for i in range(0, len(members), _PAIRS))]
    )
    # Equal texts are one node, with the source that the second pass will keep them from.
    keys = key_words(entries["key"])
    order = np.lexsort((-np.array(priorities)[entries["source"]], keys[:, 1], keys[:, 0]))
    opens = np.concatenate([[True], (keys[order][1:] != keys[order][:-1]).any(1)])[: len(order)]
    node = np.empty(len(order), np.int64)
    node[order] = np.cumsum(opens) - 1
    entries, members = entries[order[opens]], members[order[opens]]
    ends = node[ends.reshape(2, -1)]
    group = _groups(len(entries), ends)
    rank = np.lexsort(
        (
            np.arange(len(entries)),  # by key, in which they are
            -entries["size"].astype(np.int64),
            -np.array(priorities)[entries["source"]],
            group,
        )
    )
    keeper = np.empty(len(entries), np.int64)
    keeper[rank] = rank[_heads(group[rank])]
    goes = np.flatnonzero(keeper != np.arange(len(entries)))
    gone = np.empty(len(goes), GONE)
    gone["key"], gone["kept"] = entries["key"][goes], entries["id"][keeper[goes]]
    for start in range(0, len(goes), _PAIRS):
        part = goes[start : start + _PAIRS]
        one, two = sketches.take(members[part]), sketches.take(members[keeper[part]])
        gone["alike"][start : start + len(part)] = likeness(one["sketch"], two["sketch"])
    with atomic_write(path, "wb") as file:
        np.save(file, gone)
    return len(gone)


def _forest(edges: np.ndarray) -> np.ndarray:
    """Edges [n] `EDGE` that join the same groups, as few as there can be: from each document to its group's first."""
    members, ends = np.unique(np.stack([edges["left"], edges["right"]]), return_inverse=True)
    label = _groups(len(members), ends.reshape(2, -1))
    rest = np.flatnonzero(label != np.arange(len(members)))
    found = np.empty(len(rest), EDGE)
    found["left"], found["right"] = members[label[rest]], members[rest]
    return found


def _heads(values: np.ndarray) -> np.ndarray:
    """For every place in sorted `values`, the first place that holds the same value."""
    return np.searchsorted(values, values, side="left")


def _groups(count: int, ends: np.ndarray) -> np.ndarray:
    """The connected components of nodes 0 to count - 1 under edges [2, n]: each node's smallest fellow, [count]."""
    label = np.arange(count)
    while True:
        before = label.copy()
        low = np.minimum(label[ends[0]], label[ends[1]])
        np.minimum.at(label, ends[0], low)
        np.minimum.at(label, ends[1], low)
        label = label[label]
        if np.array_equal(label, before):
            return label


def gone_in(path: Path, bucket: int, buckets: int) -> dict[bytes, tuple[str, float]]:
    """Of one bucket: hash of a document that goes -> (id of the one that stays, how alike they are)."""
    gone = np.load(path, mmap_mode="r")

    def at(place: int) -> int:
        return bucket_of(gone[place]["key"].tobytes(), buckets)

    places = range(len(gone))  # they are sorted by key, and buckets in their order hold the keys in theirs
    first, last = bisect_left(places, bucket, key=at), bisect_left(places, bucket + 1, key=at)
    return {
        row["key"].tobytes(): (row["kept"].decode("utf-8", "replace"), round(float(row["alike"]), 3))
        for row in gone[first:last]
    }
