"""What record files hold and what training would make of them, said before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.errors import HanmoError
from hanmo.models.folder import resolve
from hanmo.posttrain import forms, preferences
from hanmo.posttrain.encode import IGNORE, encode_pair, encode_parts
from hanmo.posttrain.faults import Fault
from hanmo.posttrain.preferences import labelled_of
from hanmo.posttrain.records import Account, Item, Kind, pair_kind, read_file, sft_kind, sources_of
from hanmo.posttrain.settings import DpoSettings, SftSettings
from hanmo.posttrain.sources import read_records

_PARTS = (50, 90, 99, 100)
#: Records that are looked at to tell dialogues from preferences.
_LOOKED_AT = 20


@dataclass
class _Seen:
    """What is gathered of one file's records."""

    characters: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    learnt: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    lengths: Counter[str] = field(default_factory=Counter)


def check(
    paths: Sequence[Path],
    tokenizer: Path | None = None,
    context: int = 0,
    too_long: str = "truncate",
    kind: str = "auto",
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Read record files as the sft and dpo stages do, and count.

    Args:
        tokenizer: a tokenizer or model folder, by which lengths are told in tokens.
        context: tokens that a record may have; 0: the model's, where the folder is one.
        too_long: what is done to longer dialogues, as in the sft stage.
        kind: "dialogues", "preferences" or "auto", which asks each file's first records.
        sets: names of sets, where a path is a folder with a dataset_info.json.

    Returns:
        {"files": [{"file", "kind", "form", "records", "usable", "faults", "faulty": [{"line", "why"}], "duplicates",
        "same_prompt", "characters", "tokens", "learnt_tokens", "labels", "roles", "turns", "too_long", "notes"}],
        "context", "faults"}; percentiles by their names ("p50" ... "max"), tokens only with a tokenizer, labels only of
        single answers that have one.

    Raises:
        HanmoError: no such file; a tokenizer without chat markers.
    """
    chat, limit = (None, context) if tokenizer is None else _chat(tokenizer, context)
    files = []
    for path in paths:
        for one, settings, named_sets in _sources(path, kind, list(sets)):
            files += [_file(file, named, one, settings, chat, limit, too_long) for file, named in named_sets]
    return {"files": files, "context": limit or None, "faults": sum(file["faults"] for file in files)}


def _chat(folder: Path, context: int) -> tuple[Any, int]:
    from hanmo.files import read_json
    from hanmo.tokenizer import load
    from hanmo.tokenizer.chat import ChatFormat

    if not (folder / "tokenizer.json").is_file():
        folder = resolve(folder)
    config = folder / "config.json"
    longest = read_json(config).get("max_position_embeddings", 0) if config.is_file() else 0
    return ChatFormat(load(folder)), context or longest


def _sources(path: Path, kind: str, sets: list[str]) -> list[tuple[Kind, Any, Any]]:
    """(kind, settings, files) of a path; a folder may hold both kinds."""
    common: dict[str, Any] = {"form": "each", "on_bad_record": "skip", "sets": sets}
    dialogues, pairs = SftSettings(**common), DpoSettings(**common, loss="kto")
    ways = {"dialogues": (sft_kind(dialogues), dialogues), "preferences": (pair_kind(pairs), pairs)}
    if kind != "auto":
        one, settings = ways[kind]
        return [(one, settings, sources_of([path], settings, one))]
    found, refusals = [], []
    for name, (one, settings) in ways.items():
        try:
            sources = sources_of([path], settings, one)
        except HanmoError as error:
            refusals.append(error)
            continue
        mine = [(file, named) for file, named in sources if named or _kind_of(file) == name]
        if mine:
            found.append((one, settings, mine))
    if not found:
        raise refusals[0]
    return found


def _kind_of(file: Path) -> str:
    votes: Counter[str] = Counter()
    try:
        for _, (_, record) in zip(range(_LOOKED_AT), read_records(file), strict=False):
            for name, recognise in (("dialogues", forms.recognise), ("preferences", preferences.recognise)):
                try:
                    votes[name] += bool(not isinstance(record, Fault) and recognise(record))
                except Fault:
                    continue
    except HanmoError:
        pass  # said when the file is read
    return "preferences" if votes["preferences"] >= max(1, votes["dialogues"]) else "dialogues"


def _file(file: Path, named: Any, kind: Kind, settings: Any, chat: Any, limit: int, too_long: str) -> dict[str, Any]:
    account = Account(listed=None)
    faulty: list[dict[str, Any]] = []
    try:
        items = read_file(file, settings, kind, account, set(), named)
    except HanmoError as error:  # the file as a whole: torn, not UTF-8, an array that does not parse
        items, faulty = [], [{"line": None, "why": str(error)}]
    faulty += [{"line": one["line"], "why": one["why"]} for one in account.skipped_at]
    seen = _Seen()
    for item in items:
        _look(item, kind, seen, chat, limit, too_long)
    prompts = Counter(item.prompt_draw for item in items)
    said = account.files[0] if account.files else {}
    return {
        "file": str(file),
        **({"set": named.name} if named else {}),
        "kind": "dialogues" if kind.what == "dialogue" else "preferences",
        "form": said.get("form") or None,
        "records": account.read or said.get("records", 0),
        "usable": len(items),
        "faults": len(faulty),
        "reasons": dict(account.skipped.most_common()),
        "faulty": faulty,
        "duplicates": account.duplicates,
        "same_prompt": sum(count - 1 for count in prompts.values()),
        "characters": _percentiles(seen.characters),
        **({"tokens": _percentiles(seen.tokens), "learnt_tokens": seen.learnt} if chat else {}),
        **({"labels": {name: seen.labels[name] for name in ("true", "false")}} if seen.labels else {}),
        "roles": dict(seen.roles.most_common()),
        "turns": {str(count): seen.turns[count] for count in sorted(seen.turns)},
        "too_long": dict(seen.lengths.most_common()),
        "notes": dict(account.notes.most_common()),
    }


def _look(item: Item, kind: Kind, seen: _Seen, chat: Any, limit: int, too_long: str) -> None:
    dialogue = kind.what == "dialogue"
    value = item.value
    sides = [] if dialogue else [one.answer for one in labelled_of(value)]
    messages = value if dialogue else [*value.prompt, {"role": "assistant", "content": sides[0]}]
    if not dialogue and len(sides) == 1:
        seen.labels["true" if value.good else "false"] += 1
    seen.roles.update(message["role"] for message in messages)
    seen.turns[sum(message["role"] == "assistant" for message in messages)] += 1
    longest = sum(len(message["content"]) for message in messages)
    seen.characters.append(longest if dialogue else longest + max(map(len, sides)) - len(sides[0]))
    if chat is None:
        return
    whole = 1 << 31
    if dialogue:
        for example in encode_parts(chat, value, whole, "drop", Counter()):
            seen.tokens.append(len(example.input_ids))
        for example in encode_parts(chat, value, limit or whole, too_long, seen.lengths):
            seen.learnt += sum(label != IGNORE for label in example.labels)
        return
    pair = encode_pair(chat, value, whole, Counter())
    assert pair is not None
    seen.tokens.append(pair.length)
    if limit and pair.length > limit:
        seen.lengths["longer than max_length, dropped"] += 1
    else:
        seen.learnt += sum(len(ids) for _, ids in pair.sides)


def _percentiles(values: list[int]) -> dict[str, int]:
    if not values:
        return {}
    found = np.percentile(values, _PARTS, method="inverted_cdf").astype(int).tolist()
    named = {f"p{part}" if part < 100 else "max": value for part, value in zip(_PARTS, found, strict=True)}
    return {"min": min(values), **named, "total": sum(values)}
