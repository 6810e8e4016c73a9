"""The held-out part: which documents it is, and that nothing like them is trained on.

Every source holds out its own documents with the smallest `choice_of`, `heldout_fraction` of them; a source with
`ENOUGH` documents at least one. The caps are for all together and are shared evenly: while there is room, each source
in turn gives the next of its documents, so that a small one is not crowded out by a large one.

A held-out document must not come back in training in another guise. Equal texts are one document to the second pass,
whichever sources they are in. For the others, `guard` compares every document with all held-out ones once more, after
near-duplicates have been found among all (see `near`, which compares a document only with the first of its band): here
42 bands of 3 values are taken, so that of a pair that is 0.7 alike 2 in 10**8 would be missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.corpus.gather import largest_heldout
from hanmo.corpus.near import ABOUT, GONE, Sketches, band_hashes, entries_of, key_words
from hanmo.corpus.settings import CorpusSettings
from hanmo.corpus.sketch import likeness
from hanmo.files import atomic_write, write_json
from hanmo.remote import work_of

#: Documents from which on a source has one held out, however small the share asked for.
ENOUGH = 10
_ROWS = 3
_FILTER_BITS = 24
#: Documents whose signatures are looked at, and pairs that are compared, at a time.
_CHUNK, _PAIRS = 20_000, 100_000


def thresholds(
    settings: CorpusSettings, stems: Sequence[Path], kept: Sequence[int], priorities: Sequence[int]
) -> tuple[int, ...]:
    """By source: the bound below which `choice_of` means held out.

    The share is met in expectation, the caps exactly. At least one document is held out where there are several and the
    settings allow any.

    Args:
        stems: of the first pass.
        kept: documents of each source that passed the filters.
        priorities: by source.
    """
    found = [0] * len(kept)
    chosen = np.concatenate([np.load(stem.with_suffix(".chosen.npy")) for stem in stems])
    bound = int(settings.heldout_fraction * 2**64)
    if not bound or not len(chosen) or sum(kept) < 2:
        return tuple(found)
    # Candidates of equal choice are the same text, of which the second pass keeps one.
    rank = -np.array(priorities)[chosen[:, 2].astype(np.int64)]
    chosen = chosen[np.lexsort((np.arange(len(chosen)), rank, chosen[:, 0]))]
    chosen = chosen[np.unique(chosen[:, 0], return_index=True)[1]]
    before = np.zeros(len(chosen), np.uint64)  # bytes that its source gives before it
    taken = np.zeros(len(chosen), bool)
    for source in np.unique(chosen[:, 2]).astype(np.int64):
        mine = np.flatnonzero(chosen[:, 2] == source)
        before[mine] = np.cumsum(chosen[mine, 1]) - chosen[mine, 1]
        within = int((chosen[mine, 0] < np.uint64(bound)).sum())
        taken[mine[: min(max(within, int(kept[source] >= ENOUGH)), kept[source] - 1)]] = True
    if not taken.any():
        taken[0] = True
    chosen, before = chosen[taken], before[taken]
    chosen = chosen[np.lexsort((chosen[:, 0], before))]
    fits = np.cumsum(chosen[:, 1], dtype=np.uint64) <= settings.heldout_mb * 1e6
    for choice, _, source in chosen[: min(int(fits.sum()), settings.heldout_documents, sum(kept) - 1)].tolist():
        found[source] = max(found[source], choice + 1)
    return tuple(found)


@dataclass(frozen=True)
class GuardTask:
    """The documents of one task of the first pass, to be compared with the held-out ones; travels to a worker."""

    source: Path  # stem of the first pass
    stem: Path
    held: Path
    similarity: float

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(".json")


def guards(
    settings: CorpusSettings,
    out: Path,
    stems: tuple[Path, ...],
    bounds: Sequence[int],
    priorities: Sequence[int],
    gone: Path,
) -> list[GuardTask]:
    """The tasks that compare all documents with the held-out ones; none where nothing is held out.

    Args:
        bounds: see `thresholds`.
        gone: near-duplicates found among all (see `near.resolve`), which are not held out.
    """
    path = work_of(out) / "guard" / "held.npy"
    if not path.exists():
        held = _held(stems, bounds, priorities, largest_heldout(settings), gone)
        with atomic_write(path, "wb") as file:
            np.save(file, held)
    if not len(np.load(path, mmap_mode="r")):
        return []
    folder = path.parent
    return [GuardTask(stem, folder / stem.name, path, settings.near_similarity) for stem in stems]


def _held(
    stems: tuple[Path, ...], bounds: Sequence[int], priorities: Sequence[int], largest: int, gone: Path
) -> np.ndarray:
    """The `ENTRY`s of the documents that will be held out."""
    sketches = Sketches(stems)
    numbers = [np.empty(0, np.int64)]
    for start in range(0, len(sketches), _PAIRS):
        part = np.arange(start, min(start + _PAIRS, len(sketches)))
        choices = key_words(sketches.take(part, _KEY)["key"])[:, 1]
        numbers.append(part[choices < np.uint64(min(max(bounds, default=0), 2**64 - 1))])
    number = np.concatenate(numbers)
    about = sketches.take(number, ABOUT)
    words = key_words(about["key"])
    # Of equal texts, the one that the second pass keeps decides.
    order = np.lexsort((number, -np.array(priorities)[about["source"]], words[:, 1], words[:, 0]))
    first = np.concatenate([[True], (words[order][1:] != words[order][:-1]).any(1)])[: len(order)]
    order = order[first]
    below = [bounds[source] for source in about["source"][order].tolist()]
    chosen = np.array([choice < bound for choice, bound in zip(words[order, 1].tolist(), below, strict=True)], bool)
    order = order[chosen & (about["size"][order] <= largest)]
    lost = np.load(gone, mmap_mode="r")["key"]
    near = {key.tobytes() for key in lost[np.isin(key_words(lost)[:, 0], words[order, 0])]}
    return sketches.take(number[[place for place in order.tolist() if about["key"][place].tobytes() not in near]])


_KEY = np.dtype([("key", "V16")])


def guard(task: GuardTask) -> dict[str, Any]:
    """Find documents at least as like a held-out one as asked; returns what it also wrote to `task.done`."""
    held = np.load(task.held)
    hashes = band_hashes(held["sketch"], _ROWS)
    owner = np.tile(np.arange(len(held)), len(hashes))
    order = np.argsort(hashes.ravel(), kind="stable")
    sorted_hashes, owner = hashes.ravel()[order], owner[order]
    # Nearly no band of a document is one of a held-out document: one bit of a table says so.
    table = np.zeros(1 << _FILTER_BITS, bool)
    table[sorted_hashes >> np.uint64(64 - _FILTER_BITS)] = True
    entries = entries_of(task.source)
    own = {key.tobytes() for key in held["key"]}
    found = [np.empty(0, GONE)]
    for start in range(0, len(entries), _CHUNK):
        part = np.asarray(entries[start : start + _CHUNK])
        bands = band_hashes(part["sketch"], _ROWS)
        band, document = np.nonzero(table[bands >> np.uint64(64 - _FILTER_BITS)])
        first = np.searchsorted(sorted_hashes, bands[band, document], "left")
        count = np.searchsorted(sorted_hashes, bands[band, document], "right") - first
        places = np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        pairs = np.unique(np.repeat(document, count) * len(held) + owner[places])
        best: dict[int, tuple[float, int]] = {}
        for at in range(0, len(pairs), _PAIRS):
            one, two = np.divmod(pairs[at : at + _PAIRS], len(held))
            alike = likeness(part["sketch"][one], held["sketch"][two])
            for place in np.flatnonzero(alike >= task.similarity).tolist():
                best[int(one[place])] = max(best.get(int(one[place]), (0.0, 0)), (float(alike[place]), int(two[place])))
        rows = [
            (part["key"][document], held["id"][like], alike)
            for document, (alike, like) in sorted(best.items())
            if part["key"][document].tobytes() not in own
        ]
        found.append(np.array(rows, GONE))
    gone = np.concatenate(found)
    with atomic_write(task.stem.with_suffix(".npy"), "wb") as file:
        np.save(file, gone)
    result = {"gone": len(gone)}
    write_json(task.done, result)
    return result


def join_gone(gone: Path, tasks: Sequence[GuardTask], path: Path) -> Path:
    """Write to `path` ([n] `GONE`, by key) what is in `gone` and what the tasks have found besides."""
    found = np.concatenate([np.load(gone), *(np.load(task.stem.with_suffix(".npy")) for task in tasks)])
    words = key_words(found["key"])
    order = np.lexsort((np.arange(len(found)), words[:, 1], words[:, 0]))
    first = np.concatenate([[True], (words[order][1:] != words[order][:-1]).any(1)])[: len(order)]
    with atomic_write(path, "wb") as file:
        np.save(file, found[order[first]])
    return path
