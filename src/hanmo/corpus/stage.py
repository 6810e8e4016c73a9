"""The corpus stage: raw text in; clean, single, shuffled documents and a held-out part out; an account of the rest.

Two passes over worker processes, with the disk between them, so that memory does not grow with the corpus:

1. `gather`: read files, clean, filter, hash, and deal documents into buckets by hash (`work/gather/`);
   between the passes, `near` finds documents that are nearly the same by their signatures (`work/near/`);
2. `deal`: sort each bucket by hash, drop repeated texts, split off the held-out part, write `train/NNNNN.jsonl.zst`;
   where lines or stretches are to be cut out, `repeats` goes over these once more.

What comes out depends on the settings and the files alone: the order of documents is the order of their hashes, which
is as good as a shuffle. A task's work is visible only when it is whole, so a killed stage goes on with the tasks that
are left; the plan's fingerprint in `work/plan.json` tells whether they still belong to the same settings and files.

datatrove's executors were tried for running the tasks and not taken: its local one is built on a multiprocessing Pool,
which waits for ever for a task whose worker was killed, and its record of finished tasks knows nothing of settings (a
changed filter would meet old shards). `hanmo.pool` is a page long and does these two things.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hanmo.console import console, human_bytes, human_count
from hanmo.corpus.contamination import collect
from hanmo.corpus.deal import DealTask, deal
from hanmo.corpus.gather import GatherTask, gather, largest_heldout, merged, unreadable_lines
from hanmo.corpus.heldout import guard, guards, join_gone, thresholds
from hanmo.corpus.hubapi import is_hub
from hanmo.corpus.hubs import pin
from hanmo.corpus.inputs import Found, SourceFile, known_format, look, parts
from hanmo.corpus.near import resolve, search, searches
from hanmo.corpus.repeats import Repeats, cut, meet, meet_tasks, scan, shard_tasks, widen
from hanmo.corpus.settings import CorpusSettings
from hanmo.corpus.stream import lines, pieces
from hanmo.corpus.tally import Amount, Tally
from hanmo.corpus.writing import LazyWriter
from hanmo.errors import HanmoError
from hanmo.files import fingerprint_json, fingerprint_path, read_json, write_json
from hanmo.pool import WorkerSettings, run_phase
from hanmo.remote import brought, is_remote, remove_tree, version_of, work_of
from hanmo.stage import by_effect

#: Text of one bucket, which becomes one training shard, about (bytes); and the most buckets there are.
BUCKET = 16 << 20
MOST_BUCKETS = 1024
#: Raw size of one held-out file.
HELDOUT_FILE = 64 << 20
#: Changes when the same settings and files give another result.
_VERSION = 5


def run(settings: CorpusSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Make a corpus in `out`: train/, heldout/, rejects/ (JSON lines in zstd) and stats.json.

    Args:
        inputs: role "documents": stage folders, or any folders and files of text, beside `settings.sources`; role
            "exams": files or folders of exams whose items no document may hold.

    Returns:
        counts of documents, bytes, characters and Han characters, and of what was rejected.

    Raises:
        HanmoError: nothing to read, a file that cannot be read, or no usable document.
    """
    settings = settings.model_copy(update={"sources": pin(settings.sources, out, known_format)})
    found = look(settings, inputs.get("documents", []))
    for note in found.notes:
        console.print(note, markup=False, soft_wrap=True)
    plan = _fingerprint(settings, found, inputs.get("exams", []))
    work = work_of(out)
    if _finished(out, plan):
        shutil.rmtree(work, ignore_errors=True)
        return _counts(read_json(out / "stats.json"))
    _prepare(out, plan)

    content = sum(file.content for file in found.files)
    buckets = max(1, min(-(-content // BUCKET), MOST_BUCKETS))
    exams = _exams(inputs, out) if settings.contamination and inputs.get("exams") else None
    tasks = [
        GatherTask(number, out, settings, tuple(found.sources), tuple(held), buckets, exams)
        for number, held in enumerate(parts(found.files))
    ]

    def check(result: dict[str, Any]) -> None:
        _check_lines([result], found.files, settings, whole=False)

    results = _all("reading and cleaning", gather, tasks, settings, out, check)
    _check_lines(results, found.files, settings, whole=True)
    tallies = merged(results, len(found.sources))
    kept = sum(tally.kept.documents for tally in tallies)
    if not kept:
        raise HanmoError(_nothing_usable(tallies, found))

    stems = tuple(task.stem for task in tasks)
    largest = largest_heldout(settings)
    priorities = [source.priority for source in found.sources]
    bounds = thresholds(settings, stems, [tally.kept.documents for tally in tallies], priorities)
    gone = _near(settings, out, stems, bounds, priorities) if settings.near_similarity else None
    cutting = bool(settings.repeated_lines or settings.repeated_stretch)
    shards = work / "dealt" if cutting else out / "train"
    deals = [
        DealTask(bucket, buckets, out, stems, bounds, largest, settings.dedup, tuple(priorities), gone, shards)
        for bucket in range(buckets)
    ]
    for tally, dealt in zip(
        tallies, merged(_all("sorting and deduplicating", deal, deals, settings, out), len(found.sources)), strict=True
    ):
        tally.merge(dealt)
    _join_heldout(out, [task.stem.with_suffix(".heldout.jsonl.zst") for task in deals])
    if cutting:
        _cut_repeats(settings, out, found, shards, tallies)

    stats = _stats(settings, found, tallies, plan)
    if not stats["train"]["documents"]:
        raise HanmoError(
            f"all {stats['heldout']['documents']} distinct documents were held out and none is left to train on: "
            "set heldout_fraction: 0, or give more text"
        )
    write_json(out / "stats.json", stats)
    shutil.rmtree(work, ignore_errors=True)
    _tell(stats)
    return _counts(stats)


def _exams(inputs: dict[str, list[Path]], out: Path) -> Path:
    """The file of exam items that no document may hold."""
    path = work_of(out) / "exams.npz"
    told, short = collect([brought(exam) for exam in inputs["exams"]], path)
    console.print(f"{told} exam items to keep out of the text{f', {short} too short to be told' if short else ''}")
    return path


def _fingerprint(settings: CorpusSettings, found: Found, exams: list[Path]) -> str:
    chosen = by_effect(settings, "result")
    changed = {path: version_of(path)[1] for path in {file.opened.path for file in found.files}}
    files = [
        [file.source, file.name, file.size, changed[file.opened.path], file.opened.format, list(file.text)]
        for file in found.files
    ]
    tokenizers = [Path(source.tokenizer) for source in found.sources if source.tokenizer]
    held = [fingerprint_path(path) for path in (*exams, *tokenizers, *settings.models())]
    return fingerprint_json([_VERSION, chosen, [source.name for source in found.sources], files, held])


def _finished(out: Path, plan: str) -> bool:
    stats = out / "stats.json"
    return stats.is_file() and (out / "train").is_dir() and read_json(stats).get("plan") == plan


def _prepare(out: Path, plan: str) -> None:
    """Keep what an earlier try of the same plan has finished; clear away anything else that is ours."""
    ours = [*(out / name for name in ("train", "heldout", "rejects")), work_of(out)]
    record = work_of(out) / "plan.json"
    same = record.is_file() and read_json(record) == {"plan": plan}
    (out / "stats.json").unlink(missing_ok=True)
    if same:
        for folder in () if is_remote(out) else ours:
            for torn in folder.rglob(".*.tmp"):
                torn.unlink()
        console.print("going on with what an earlier try has finished")
        return
    for folder in ours:
        remove_tree(folder)
    write_json(record, {"plan": plan})


def _all(
    title: str,
    function: Callable[[Any], dict[str, Any]],
    tasks: Sequence[Any],
    settings: CorpusSettings,
    out: Path,
    check: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """The results of all tasks in their order, doing those that are not done yet."""
    run_phase(title, function, tasks, settings, out, check)
    return [read_json(task.done) for task in tasks]


def _check_lines(
    results: Iterable[dict[str, Any]], files: list[SourceFile], settings: CorpusSettings, *, whole: bool
) -> None:
    """Stop at a file with too many unreadable lines; `whole` says that all parts of all files are in."""
    for index, (seen, bad, line, detail) in sorted(unreadable_lines(list(results)).items()):
        file = files[index]
        if (whole or file.opened.stripes == 1) and bad > settings.max_bad_lines * seen:
            share = f"{bad} of {seen} records" if seen > 1 else "the only record"
            raise HanmoError(
                f"{file.opened.where}:{line}: {detail} ({share} of this file cannot be read, more than "
                f"max_bad_lines {settings.max_bad_lines:g} allows): mend the file, or raise it to count and go on"
            )
        if whole:
            console.print(
                f"{file.opened.where}: passed over {bad} of {seen} records, first :{line}: {detail}",
                markup=False,
                soft_wrap=True,
            )


def _nothing_usable(tallies: list[Tally], found: Found) -> str:
    reasons: Counter[str] = Counter()
    first = ""
    bad_files = 0
    for tally in tallies:
        reasons.update(tally.rejected)
        bad_files += tally.bad_files_count
        if not first and tally.bad_files:
            first = tally.bad_files[0]
        for shown in tally.examples.values():
            first = first or f"{shown[0]['where']}: {shown[0]['detail']}"
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "no document at all"
    if bad_files:
        listed += f", {bad_files} unreadable files"
    files = f"{len(found.files)} file{'s' if len(found.files) > 1 else ''}"
    return f"no usable document in {files}: {listed}{f' (first: {first})' if first else ''}; see rejects/"


def _near(
    settings: CorpusSettings, out: Path, stems: tuple[Path, ...], bounds: Sequence[int], priorities: list[int]
) -> Path:
    """The file of near-duplicates that go: all but one of a group, and what is like a held-out document."""
    folder = work_of(out) / "near"
    alike, gone = folder / "alike.npy", folder / "gone.npy"
    if not alike.exists():
        tasks = searches(out, stems, settings.near_similarity)
        _all("comparing", search, tasks, settings, out)
        resolve(tasks, priorities, alike)
    if not gone.exists():
        watched = guards(settings, out, stems, bounds, priorities, alike)
        if watched:
            _all("comparing with the held-out part", guard, watched, settings, out)
        join_gone(alike, watched, gone)
    return gone


def _cut_repeats(settings: CorpusSettings, out: Path, found: Found, dealt: Path, tallies: list[Tally]) -> None:
    """Write train/ from the shards in `dealt` without what is repeated; the tallies then say what is in it."""
    heldout = sorted((out / "heldout").glob("*.jsonl.zst"))
    plan = Repeats(
        out,
        (*heldout, *sorted(dealt.glob("*.jsonl.zst"))),
        len(heldout),
        {source.name: -source.priority for source in found.sources},
        settings.repeated_lines,
        settings.repeated_stretch,
        {source.name: settings.quality_of(source).min_chars for source in found.sources},
    )
    _all("looking for repeated parts", scan, shard_tasks("scan", plan), settings, out)
    if plan.lines:
        _all("comparing lines", meet, meet_tasks("lines", plan), settings, out)
    if plan.stretch:
        _all("comparing stretches", meet, meet_tasks("prints", plan), settings, out)
        _all("looking closer", widen, shard_tasks("widen", plan), settings, out)
        _all("comparing closely", meet, meet_tasks("windows", plan), settings, out)
    results = _all("cutting repeated parts", cut, shard_tasks("cut", plan), settings, out)
    for index, source in enumerate(found.sources):
        tallies[index].train = Amount()
        for result in results:
            if source.name in result["tallies"]:
                tallies[index].merge(Tally.from_dict(result["tallies"][source.name]))


def _join_heldout(out: Path, parts: list[Path]) -> None:
    """Copy the buckets' held-out documents into few files, in the order of the buckets."""
    number = size = 0
    with ExitStack() as stack:
        file = LazyWriter(stack, out / "heldout" / "00000.jsonl.zst")
        for part in filter(Path.exists, parts):
            for _, line in lines(pieces(part), 1 << 40):
                assert isinstance(line, bytes)
                if size > HELDOUT_FILE:
                    stack.close()
                    number, size = number + 1, 0
                    file = LazyWriter(stack, out / "heldout" / f"{number:05d}.jsonl.zst")
                file.write(line + b"\n")
                size += len(line)


def _stats(settings: CorpusSettings, found: Found, tallies: list[Tally], plan: str) -> dict[str, Any]:
    files = Counter(file.source for file in found.files)
    total = Tally()
    sources = {}
    for index, (source, tally) in enumerate(zip(found.sources, tallies, strict=True)):
        account = tally.train.documents + tally.heldout.documents + tally.rejected.total()
        if tally.read.documents != account:
            raise AssertionError(f"{source.name}: read {tally.read.documents} documents, accounted for {account}")
        total.merge(tally)
        shown = tally.as_dict()
        del shown["kept"]
        sources[source.name] = {
            "licence": source.licence,
            "files": files[index],
            "left_out": found.left_out[index],
            **shown,
        }
        if is_hub(source.path):
            sources[source.name]["hub"] = source.path  # with the revision that was read
    summary = total.as_dict()
    return {
        "plan": plan,
        **{name: summary[name] for name in ("read", "train", "heldout", "rejected", "rejected_bytes", "seen")},
        **{name: summary[name] for name in ("changed", "changed_documents")},
        "bad_files": total.bad_files_count,
        "sources": sources,
        "settings": settings.model_dump(mode="json", exclude={"sources", *WorkerSettings.model_fields}),
    }


def _counts(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: stats[name] for name in ("read", "train", "heldout", "rejected", "bad_files")}


def _tell(stats: dict[str, Any]) -> None:
    train, heldout = Amount(**stats["train"]), Amount(**stats["heldout"])
    rejected = ", ".join(f"{count} {reason}" for reason, count in stats["rejected"].items()) or "none"
    console.print(
        f"{train.documents} documents to train on ({human_bytes(train.bytes)}, {human_count(train.han)} Han), "
        f"{heldout.documents} held out ({human_bytes(heldout.bytes)}); rejected: {rejected}",
        soft_wrap=True,
    )
