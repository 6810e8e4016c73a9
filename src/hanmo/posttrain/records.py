"""From record files to dialogues or pairs, with every record accounted for.

The form of a file is recognised from the fields of its first record and reported; a file that mixes forms is refused.
What cannot be used stops the stage with file, line and field, or is left out and counted where the settings say so.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import xxhash

from hanmo.errors import HanmoError, nearest
from hanmo.posttrain import forms, preferences
from hanmo.posttrain.faults import Fault, refusal
from hanmo.posttrain.forms import Record
from hanmo.posttrain.named import INFO, Named, sets_of
from hanmo.posttrain.settings import DpoSettings, FileRule, PairSettings, RecordSettings
from hanmo.posttrain.sources import Place, files_of, read_records


class Item(NamedTuple):
    """A dialogue (list of messages), `Pair` or `Labelled`, with its number in reading order and where it was read."""

    number: int
    value: Any
    place: Place
    #: Hash of the content and the seed: what samples and held-out parts are drawn by.
    draw: int
    #: The same for the prompt alone.
    prompt_draw: int


@dataclass
class Account:
    """What became of every record."""

    files: list[dict[str, Any]] = field(default_factory=list)
    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_at: list[dict[str, Any]] = field(default_factory=list)
    duplicates: int = 0
    not_sampled: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    #: Skipped records that are written down one by one (None: all); all are counted.
    listed: int | None = 1000

    def as_json(self) -> dict[str, Any]:
        """The account as it stands in records.json."""
        return {
            "files": self.files,
            "read": self.read,
            "skipped": dict(self.skipped.most_common()),
            "skipped_at": self.skipped_at,
            "duplicates": self.duplicates,
            "not_sampled": self.not_sampled,
            "notes": dict(self.notes.most_common()),
        }

    def lines(self, fitted: Mapping[str, int]) -> list[str]:
        """What a person wants to know of it, a line each; `fitted` counts what was done to long records."""
        lines = []
        for file in self.files:
            form = (
                file["form"]
                if isinstance(file["form"], str)
                else ", ".join(f"{n} {f}" for f, n in file["form"].items())
            )
            how = "recognised" if file["recognised"] else "as set"
            lines.append(f"{file['file']}: {file['used']} used of {file['records']} records, form {form} ({how})")
        left = {"duplicates": self.duplicates, **{f"skipped, {why}": n for why, n in self.skipped.items()}, **fitted}
        if any(left.values()):
            lines.append("left out or cut: " + "; ".join(f"{n} × {why}" for why, n in left.items() if n))
        return lines

    def skip(self, place: Place, fault: Fault) -> None:
        """Count a record that was left out."""
        self.skipped[fault.kind] += 1
        if self.listed is None or len(self.skipped_at) < self.listed:
            self.skipped_at.append({"file": str(place.file), "line": place.line, "why": str(fault)})


class Kind(NamedTuple):
    """How one of the two kinds of records is recognised and read."""

    what: str
    made_here: str
    forms: Sequence[str]
    recognise: Callable[[Record], str]
    parse: Callable[[Record, str, FileRule, Counter[str]], list[Any]]
    prompt: Callable[[Any], Any]


def sft_kind(settings: RecordSettings) -> Kind:
    """Dialogues for SFT, and prompts for learning from rewards."""
    return Kind("dialogue", "sft.jsonl", list(forms.PARSERS), forms.recognise, forms.dialogues_of, opening)


def pair_kind(settings: PairSettings) -> Kind:
    """Pairs for reward models and preference tuning; single answers with labels for the loss that takes them."""
    single = isinstance(settings, DpoSettings) and settings.loss == "kto"

    def parse(
        record: Record, form: str, rule: FileRule, notes: Counter[str]
    ) -> list[preferences.Pair | preferences.Labelled]:
        return preferences.pairs_of(record, form, settings.ranked_pairs, single, notes)

    return Kind(
        "preference",
        "pref.jsonl",
        list(preferences.PARSERS),
        preferences.recognise,
        parse,
        lambda pair: pair.prompt,
    )


def opening(dialogue: forms.Dialogue) -> forms.Dialogue:
    """What a dialogue starts with, up to its first answer."""
    end = next(index for index, message in enumerate(dialogue) if message["role"] == "assistant")
    return dialogue[:end]


def read_items(paths: Sequence[Path], settings: RecordSettings, kind: Kind) -> tuple[list[Item], Account]:
    """Read all record files, in the order given; returns the items in reading order and the account.

    Raises:
        HanmoError: a file cannot be read, mixes forms or fits none; a faulty record under `on_bad_record: fail`; a rule
            that matches no file; nothing usable at all.
    """
    account = Account()
    sources = sources_of(paths, settings, kind)
    files = [file for file, _ in sources]
    for pattern in settings.files:
        if not any(fnmatch(file.name, pattern) for file in files):
            names = sorted({file.name for file in files})
            raise HanmoError(
                f"files: the pattern '{pattern}' matches none of the record files{nearest(pattern, names)} "
                f"({', '.join(names[:8])})"
            )
    seen: set[bytes] = set()
    items: list[Item] = []
    for file, named in sources:
        items += read_file(file, settings, kind, account, seen, named)
    if settings.max_records and len(items) > settings.max_records:
        account.not_sampled += len(items) - settings.max_records
        items = sorted(heapq.nsmallest(settings.max_records, items, key=lambda item: item.draw))
    if not items:
        raise HanmoError(f"no usable {kind.what} in {_names(files)}: {_reasons(account)}")
    return items, account


def sources_of(paths: Sequence[Path], settings: RecordSettings, kind: Kind) -> list[tuple[Path, Named | None]]:
    """The record files that are meant by paths, each with the set of a dataset_info.json that it is of, if any.

    Raises:
        HanmoError: there are none; `sets` names sets, and no dataset_info.json is there.
    """
    found: list[tuple[Path, Named | None]] = []
    informed = False
    for path in map(Path, paths):
        info = path / INFO if path.is_dir() else path
        if info.name == INFO and info.is_file():
            informed = True
            for named in sets_of(info, settings.sets, kind.what == "preference"):
                found += [(file, named) for file in files_of(named.file, kind.made_here)]
        else:
            found += [(file, None) for file in files_of(path, kind.made_here)]
    if settings.sets and not informed:
        raise HanmoError(f"sets: {', '.join(settings.sets)} asked for, but no {INFO} is among the records")
    return found


def _names(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files[:5]) + (" and others" if len(files) > 5 else "")


def _reasons(account: Account) -> str:
    if not account.skipped:
        return f"{account.read} records read"
    parts = [f"{count} × {reason}" for reason, count in account.skipped.most_common(4)]
    first = account.skipped_at[0]
    return (
        f"{account.read} records read, {'; '.join(parts)}; the first at {first['file']}:{first['line']}: {first['why']}"
    )


def _rule(file: Path, settings: RecordSettings) -> FileRule:
    return next((rule for name, rule in settings.files.items() if fnmatch(file.name, name)), FileRule())


def _fixed_form(file: Path, settings: RecordSettings, kind: Kind, rule: FileRule) -> str:
    """The form that the settings name for a file: one of the kind's, "auto" or "each"."""
    form = "template" if rule.spoken() else (rule.form or settings.form)
    known = [*kind.forms, "auto", "each"]
    if form not in known:
        raise HanmoError(
            f"{file}: '{form}' is no form of a {kind.what}{nearest(form, known)} (known: {', '.join(known)})"
        )
    if form == "template" and not rule.spoken():
        raise HanmoError(f"{file}: form 'template' needs a rule in `files` with the templates `user` and `assistant`")
    return form


def read_file(
    file: Path,
    settings: RecordSettings,
    kind: Kind,
    account: Account,
    seen: set[bytes],
    named: Named | None = None,
) -> list[Item]:
    """Read one file; what became of its records goes into `account`, the hashes of their content into `seen`.

    Args:
        named: the set that it is of: how its fields are called, and how many records are taken.

    Raises:
        HanmoError: see `read_items`.
    """
    rule = _rule(file, settings)
    if named and named.max_records and not rule.max_records:
        rule = rule.model_copy(update={"max_records": named.max_records})
    form = _fixed_form(file, settings, kind, rule)
    by_form: Counter[str] = Counter()
    faults: list[tuple[Place, Fault]] = []
    read = duplicates = 0
    first: tuple[Place, str] | None = None
    items: list[Item] = []
    for place, record in read_records(file):
        read += 1
        try:
            if isinstance(record, Fault):
                raise record
            if named:
                record = named.renamed(record)
            this = form
            if form in ("auto", "each"):
                this = kind.recognise(record)
                if form == "auto" and first is not None and this != first[1]:
                    raise HanmoError(
                        f"{place}: the file mixes forms: this record is of form '{this}', line {first[0].line} of form "
                        f"'{first[1]}'; split the file, or set form: each to take every record by its own form"
                    )
            first = first or (place, this)
            values = kind.parse(record, this, rule, account.notes)
            by_form[this] += 1
        except Fault as fault:
            faults.append((place, fault))
            if settings.on_bad_record == "skip":
                account.skip(place, fault)
            continue
        for value in values:
            content = orjson.dumps(value, default=tuple)
            digest = xxhash.xxh3_128_digest(content)
            if digest in seen:
                duplicates += 1
                continue
            seen.add(digest)
            items.append(
                Item(
                    len(seen),
                    value,
                    place,
                    xxhash.xxh3_64_intdigest(content, settings.seed),
                    xxhash.xxh3_64_intdigest(orjson.dumps(kind.prompt(value)), settings.seed),
                )
            )
    if faults and settings.on_bad_record == "fail":
        raise refusal(faults)
    found = len(items)
    if rule.max_records and found > rule.max_records:
        items = sorted(heapq.nsmallest(rule.max_records, items, key=lambda item: item.draw))
        account.not_sampled += found - len(items)
    account.read += read
    account.duplicates += duplicates
    account.files.append(
        {
            "file": str(file),
            "form": next(iter(by_form)) if len(by_form) == 1 else dict(by_form),
            "recognised": form in ("auto", "each"),
            "records": read,
            "skipped": len(faults),
            "duplicates": duplicates,
            "used": len(items),
        }
    )
    return items


def hold_out(items: Sequence[Item], fraction: float) -> tuple[list[Item], list[Item]]:
    """Split into (training, validation): about `fraction` of the items, drawn by their prompts.

    All items of one prompt fall on the same side, so that no held-out prompt was trained on.
    """
    wanted = round(len(items) * fraction)
    if fraction > 0 and len(items) >= 20:
        wanted = max(1, wanted)
    groups: dict[int, int] = Counter(item.prompt_draw for item in items)
    held: set[int] = set()
    count = 0
    for draw in sorted(groups):
        if count >= wanted or count + groups[draw] > len(items) // 2:
            break
        held.add(draw)
        count += groups[draw]
    train = [item for item in items if item.prompt_draw not in held]
    return train, [item for item in items if item.prompt_draw in held]
