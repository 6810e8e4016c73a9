"""`hanmo corpus inspect`: what a file, folder, glob or name on a hub holds, from a bounded look, and how to use it.

A look reads the first megabyte or so of some files of each kind, so it takes seconds whatever the size; numbers about
the whole are estimates unless all of it was read. What comes out is a plain dictionary (`--json`) which also holds a
recipe that makes a corpus of what was seen.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanmo.corpus import traits
from hanmo.corpus.catalog import recipe_lines
from hanmo.corpus.fields import choose, text_of
from hanmo.corpus.hubapi import is_hub, parse
from hanmo.corpus.hubfile import HubFile
from hanmo.corpus.inputs import source_files
from hanmo.corpus.peek import ALL, PLAIN, Look, kind_of, look_at, unpacked
from hanmo.corpus.settings import QualitySettings, Source
from hanmo.errors import HanmoError

#: Fields that ask for or head what another one holds, and belong to it however short they are.
_ASKING = frozenset(("instruction", "input", "prompt", "question", "query", "title", "标题", "问题", "指令"))
#: One word without Han (a name, an address, a number), or JSON.
_NO_PROSE = re.compile(r"[!-~]{0,200}\Z|\s*[\[{]")


def inspect(paths: Sequence[str], samples: int = 3, hub: str = "") -> dict[str, Any]:
    """Look at files, folders, globs or names on a hub.

    Args:
        samples: documents of each kind that are shown before and after cleaning.
        hub: a mirror, for names on a hub.

    Returns:
        "groups" (one for each kind of file with the same fields), "faults" ({file, fault}), "left_out" (counts by
        ending), "files" and "bytes" of all, "recipe" (YAML; "" where nothing is for a corpus) and "notes".

    Raises:
        HanmoError: a path is not there, or nothing that is there can be read.
    """
    groups: list[dict[str, Any]] = []
    faults: list[dict[str, str]] = []
    left_out: Counter[str] = Counter()
    sources: list[dict[str, Any]] = []
    notes: list[str] = []
    files = size = 0
    for given in paths:
        source = Source(
            path=given if is_hub(given) else str(Path(given).expanduser().absolute()), hub=hub if is_hub(given) else ""
        )
        found = source_files(source.model_copy(update={"name": given}))
        if not found:
            raise HanmoError(f"{given}: no file there")
        files += len(found)
        size += sum(path.stat().st_size for path, _ in found)
        with tempfile.TemporaryDirectory(prefix="hanmo-") as folder:
            inside = unpacked(found, Path(folder), notes)
            looks, others = look_at(inside)
            left_out.update(others)
            faults += [{"file": _shown(look), "fault": look.fault} for look in looks if look.fault]
            mine = _groups(given, inside, looks, samples)
        groups += mine
        sources += _sources(source, found, looks, mine)
    if not any(group["records"] for group in groups):
        raise HanmoError(f"{', '.join(paths)}: nothing can be read: {_why_not(faults, groups, left_out)}")
    bad = max((group["bad"] / max(1, group["bad"] + group["records"]) for group in groups), default=0.0)
    return {
        "paths": list(paths),
        "files": files,
        "bytes": size,
        "groups": groups,
        "faults": faults,
        "left_out": dict(left_out.most_common()),
        "recipe": _recipe(sources, bad, bool(faults)) if sources else "",
        "notes": notes,
    }


def _shown(look: Look) -> str:
    return look.name if "!/" in look.name else str(look.path)


def _why_not(faults: list[dict[str, str]], groups: list[dict[str, Any]], left_out: Counter[str]) -> str:
    said = []
    if faults:
        several = f"{len(faults)} faulty files, first " if len(faults) > 1 else ""
        said.append(f"{several}{faults[0]['file']}: {faults[0]['fault']}")
    for bad in [bad for group in groups for bad in group["bad_examples"]][:1]:
        said.append(f"{bad['where']}: {bad['detail']}")
    if left_out:
        endings = ", ".join(f"{count} {ending}" for ending, count in left_out.most_common(5))
        said.append(f"no reader is known for {endings} (name one file to have its format guessed)")
    return "; ".join(said) or "it is empty"


# From files to groups -------------------------------------------------------------------------------------------------


def _groups(given: str, found: list[tuple[Path, str]], looks: list[Look], samples: int) -> list[dict[str, Any]]:
    alike: dict[tuple[Any, ...], list[Look]] = {}
    for look in looks:
        if not look.fault or look.records:
            alike.setdefault((look.kind, look.compression, look.split, look.fields), []).append(look)
    return [_group(given, found, held, samples) for held in alike.values()]


def _group(given: str, found: list[tuple[Path, str]], looks: list[Look], samples: int) -> dict[str, Any]:
    first = looks[0]
    records = [record for look in looks for record in look.records]
    places = {look.name.rpartition("/")[0] for look in looks}
    # Files that were not looked into count with those beside them.
    beside = [
        path.stat().st_size
        for path, name in found
        if name.rpartition("/")[0] in places and kind_of(path) == kind_of(first.path)
    ]
    many = len(beside) > ALL or isinstance(first.path, HubFile)
    size = sum(beside) if many else sum(look.size for look in looks)
    looked = sum(look.size for look in looks)
    scale = size / looked if many and looked else 1
    documents = sum(look.documents for look in looks) * scale
    text, why = _text(records, first.kind)
    texts = [found_text for record in records if (found_text := text_of(record, text)) is not None] if text else []
    group: dict[str, Any] = {
        "source": given,
        "format": first.kind,
        "compression": first.compression,
        "split": first.split if first.kind in PLAIN else "",
        "encodings": dict(Counter(look.encoding for look in looks if look.encoding).most_common()),
        "files": len(beside) if many else len(looks),
        "looked_into": len(looks),
        "names": [look.name for look in looks[:5]],
        "bytes": size,
        "records": len(records),
        "documents": round(documents),
        "exact": not many and all(look.exact for look in looks),
        "fields": _fields(records),
        "text": list(text),
        "why": why,
        "bad": sum(len(look.bad) for look in looks),
        "bad_examples": [
            {"where": f"{look.name}:{bad.line}", "reason": bad.reason, "detail": bad.detail}
            for look in looks
            for bad in look.bad[:2]
        ][:5],
    }
    if texts:
        # By bytes, since documents that were not looked at may be longer or shorter than those that were.
        group["chars"] = round(scale * sum(look.unpacked * _chars(look, text) / max(1, look.read) for look in looks))
        group["lengths"] = traits.lengths(texts)
        group["scripts"] = traits.scripts(texts)
        group["language"] = traits.in_words(group["scripts"])
        group["cleaning"] = traits.cleaned(texts, QualitySettings())
        group["suspicious"] = traits.suspicions(texts, whole=len(text) == 1)
        group["samples"] = _samples(looks, text, samples)
    return group


def _chars(look: Look, text: tuple[str, ...]) -> int:
    return sum(len(text_of(record, text) or "") for record in look.records)


def _text(records: Sequence[Mapping[str, Any]], kind: str) -> tuple[tuple[str, ...], str]:
    """(fields that would be taken as text, why those; or why none)."""
    if kind in PLAIN:
        return ("text",), "plain text"
    if not records:
        return (), "no record could be read"
    there = {str(name).lower() for record in records for name in record}
    if there >= {"a", "b", "c", "d"} and "question" in there:
        return (), "they are exam questions; the corpus stage takes such files as `exams`, to keep them out of the text"
    if there >= {"chosen", "rejected"}:
        return (), "they are preferences, for `hanmo dpo`"
    try:
        return choose(records, []), "known by its name"
    except HanmoError as error:
        refused = str(error).split(": ", 1)[1].partition(";")[0].partition(" (there is")[0]
    weight = _weights(records)
    nested = sum(len(str(value)) for record in records for value in record.values() if _is_nested(value))
    total = weight.total()
    if nested > total:
        return (), f"{refused}; most of it is in nested records, such as dialogues, which `hanmo sft` may know"
    if total < 8 * len(records):
        return (), refused
    # In the order in which the records have them: a question stands before its answer.
    order = dict.fromkeys(name for record in records for name in record)
    chosen = tuple(name for name in order if weight[name] >= (0.01 if name.lower() in _ASKING else 0.1) * total)
    shares = ", ".join(f"{weight[name] / total:.0%} in '{name}'" for name in chosen)
    return chosen, f"{refused}; of the characters {shares}, so these are proposed: check them"


def _weights(records: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Characters by field, of the fields that could be text: no names, addresses, categories, numbers or code."""
    weight: Counter[str] = Counter()
    for name in dict.fromkeys(name for record in records for name in record):
        values = [found for record in records if (found := text_of(record, [name]))]
        if len(set(values)) < 0.3 * len(values) and len(values) > 20:
            continue
        if sum(bool(_NO_PROSE.match(value)) for value in values) > 0.5 * len(values):
            continue
        if values:
            weight[name] = sum(map(len, values))
    return weight


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, list | dict) for item in value))


def _fields(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    shown = []
    for name in dict.fromkeys(name for record in records for name in record):
        values = [record[name] for record in records if record.get(name) not in (None, "", [], {})]
        kinds = Counter(_kind(value) for value in values)
        example = next((str(value) for value in values), "")
        lengths = [len(value) for value in values if isinstance(value, str)]
        shown.append(
            {
                "name": str(name),
                "types": [kind for kind, _ in kinds.most_common()] or ["null"],
                "filled": round(len(values) / max(1, len(records)), 4),
                "mean_chars": round(sum(lengths) / len(lengths)) if lengths else None,
                "example": " ".join(example.split())[:80],
            }
        )
    return shown


def _kind(value: Any) -> str:
    if isinstance(value, list):
        inner = {_kind(item) for item in value[:20]}
        return f"list of {inner.pop()}" if len(inner) == 1 else "list"
    names = {str: "text", bool: "yes/no", int: "number", float: "number", dict: "record", bytes: "bytes"}
    return names.get(type(value), type(value).__name__)


def _samples(looks: list[Look], text: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    from hanmo.corpus.clean import Cleaner
    from hanmo.corpus.settings import CleanSettings

    cleaner = Cleaner(CleanSettings())
    places = [
        (f"{look.name}:{line}", found)
        for look in looks
        for line, record in zip(look.lines, look.records, strict=True)
        if (found := text_of(record, text))
    ]
    chosen = places if len(places) <= count else random.Random(0).sample(places, count)
    shown = []
    for where, found in chosen:
        changed: Counter[str] = Counter()
        clean, _, _ = cleaner(found[:20_000], changed)
        shown.append(
            {"where": where, "before": found[:300], "after": clean[:300], "changed": dict(changed), "chars": len(found)}
        )
    return shown


# The recipe -----------------------------------------------------------------------------------------------------------


def _sources(
    source: Source, found: list[tuple[Path, str]], looks: list[Look], groups: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Sources that read what was seen: one for all of it, or one for each kind of file."""
    usable = [group for group in groups if group["text"]]
    wants = [_wants(group) for group in usable]
    path = _pinned(source.path, found)
    extra = {"hub": source.hub} if source.hub else {}
    known = all(group["why"] in ("known by its name", "plain text") for group in groups)
    same = all(want == wants[0] for want in wants)
    if wants and same and (known or len(groups) == 1):
        return [{"path": path, **extra, **wants[0]}]
    sources = []
    archives = {name: path for path, name in found}
    for group, want in zip(usable, wants, strict=True):
        names = [look for look in looks if _belongs(look, group)]
        for look in names:
            place = f"{_root(path)}/{look.name}" if is_hub(path) else str(look.path)
            if "!/" in look.name:  # a member is read with its archive, and its field is found when it is read
                place = str(archives[look.name.partition("!/")[0]])
                if any(one["path"] == place for one in sources):
                    continue
            sources.append({"path": place, **extra, **want})
    return sources


def _root(path: str) -> str:
    name = parse(path)
    return str(replace(name, config="", split="", glob=""))


def _pinned(path: str, found: list[tuple[Path, str]]) -> str:
    first = found[0][0]
    return str(replace(parse(path), revision=first.revision)) if isinstance(first, HubFile) else path


def _belongs(look: Look, group: dict[str, Any]) -> bool:
    names = {item["name"] for item in group["fields"]}
    mine = {str(name) for name in look.fields}
    return (
        (look.kind, look.compression) == (group["format"], group["compression"])
        and names == mine
        and bool(look.records)
    )


def _wants(group: dict[str, Any]) -> dict[str, Any]:
    """The settings a source needs beside its path."""
    want: dict[str, Any] = {}
    if kind_of(Path(group["names"][0]))[0] is None:
        want["format"] = group["format"]
    if group["why"] not in ("known by its name", "plain text"):
        want["text"] = group["text"]
    if group["split"] not in ("", "file"):
        want["split"] = group["split"]
    if group["cleaning"]["han"] < QualitySettings().min_han:
        want["quality"] = {"min_han": 0}
    return want


def _recipe(sources: list[dict[str, Any]], bad: float, faulty: bool) -> str:
    named: Counter[str] = Counter()
    for source in sources:
        name = (
            parse(source["path"]).short
            if is_hub(source["path"])
            else Path(source["path"]).name.split(".")[0].strip("*")
        )
        named[name or "source"] += 1
        if named[name or "source"] > 1:
            source["name"] = f"{name or 'source'}-{named[name or 'source']}"
    stage: dict[str, Any] = {"name": "corpus", "do": "corpus", "sources": sources}
    if bad:
        stage["max_bad_lines"] = round(min(1.0, 2 * bad + 0.01), 3)
    if faulty:
        stage["on_bad_file"] = "skip"
    recipe = {"name": "inspected", "stages": [stage]}
    return recipe_lines(recipe)
