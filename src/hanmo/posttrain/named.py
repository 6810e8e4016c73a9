"""Named sets of records: a folder with LLaMA-Factory's dataset_info.json.

    {"mine": {"file_name": "mine.json", "formatting": "alpaca" or "sharegpt" or "openai", "ranking": false,
              "columns": {"prompt": "q", "response": "a"}, "tags": {"role_tag": "role"}, "num_samples": 100}}

Columns and tags say what a file calls the fields of its form; a record is renamed to the form's own names and then read
like any other. Form: LLaMA-Factory's data/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hanmo.errors import HanmoError, nearest
from hanmo.files import read_json
from hanmo.posttrain.faults import Fault

INFO = "dataset_info.json"
#: Column of an alpaca set -> our field, with the name it has where none is given; others are left out unless named.
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_OPTIONAL = ("system", "tools", "history", "chosen", "rejected", "messages", "kto_tag")
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
#: What the form "openai" is told apart by.
_OPENAI = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
}
_KEYS = {"file_name", "formatting", "ranking", "columns", "tags", "num_samples", "split", "subset", "folder"}
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


class Named(NamedTuple):
    """A set: its file, how its records are renamed (None: not at all), how many are taken (0: all)."""

    name: str
    file: Path
    ranking: bool
    columns: Mapping[str, str]
    tags: Mapping[str, str]
    max_records: int

    def renamed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record by the names that its form has here.

        Raises:
            Fault: a column that is named is not there.
        """
        found = {}
        for ours, theirs in self.columns.items():
            if theirs in record:
                found[ours] = (
                    self._turns(record[theirs]) if ours in ("conversations", "chosen", "rejected") else (record[theirs])
                )
            elif ours not in ("input", "system", "tools", "history"):
                raise Fault(theirs, "is missing", f"the set '{self.name}' names it for '{ours}'")
        return found

    def _turns(self, value: Any) -> Any:
        """A turn, or a list of turns, by ShareGPT's names; what has another shape is left to who reads the form."""
        if isinstance(value, list):
            return [self._turns(item) for item in value]
        if not isinstance(value, Mapping) or not self.tags:
            return value
        ours = {self.tags[tag]: name for tag, name in _TAGS.items() if tag not in ("role_tag", "content_tag")}
        role, content = self.tags["role_tag"], self.tags["content_tag"]
        turn = {key: item for key, item in value.items() if key not in (role, content)}
        if role in value:
            turn["from"] = ours.get(value[role], value[role]) if isinstance(value[role], str) else value[role]
        return turn | ({"value": value[content]} if content in value else {})


def sets_of(path: Path, wanted: list[str], ranking: bool) -> list[Named]:
    """The sets of a dataset_info.json.

    Args:
        path: the file.
        wanted: their names; none: all that lie in files here, of the right kind.
        ranking: whether preferences are asked for, or dialogues.

    Raises:
        HanmoError: no such set, one without a file here, a key nobody knows.
    """
    said = read_json(path)
    if not isinstance(said, dict) or not all(isinstance(entry, dict) for entry in said.values()):
        raise HanmoError(f"{path}: expected an object with an object for each set's name")
    for name in wanted:
        if name not in said:
            raise HanmoError(f"{path}: there is no set '{name}'{nearest(name, said)} (there are {', '.join(said)})")
    found = []
    for name, entry in said.items():
        if name not in wanted and (wanted or _ranks(entry) != ranking or "file_name" not in entry):
            continue
        found.append(_named(path, name, entry))
        if found[-1].ranking != ranking:
            is_, needed = ("preferences", "dialogues") if found[-1].ranking else ("dialogues", "preferences")
            raise HanmoError(f"{path}: the set '{name}' has {is_}; {needed} are needed here")
    if not found:
        raise HanmoError(f"{path}: none of its sets has {'preferences' if ranking else 'dialogues'} in a file here")
    return found


def _ranks(entry: Mapping[str, Any]) -> bool:
    """Whether a set has preferences: pairs, or answers with labels (for KTO)."""
    columns = entry.get("columns")
    return bool(entry.get("ranking")) or (isinstance(columns, Mapping) and "kto_tag" in columns)


def _named(path: Path, name: str, entry: Mapping[str, Any]) -> Named:
    where = f"{path}: set '{name}'"
    if elsewhere := [key for key in _ELSEWHERE if key in entry and "file_name" not in entry]:
        raise HanmoError(f"{where}: it lies elsewhere ({elsewhere[0]}); fetch it and give its file_name")
    for key in entry:
        if key not in _KEYS and key not in _ELSEWHERE:
            raise HanmoError(f"{where}: unknown key '{key}'{nearest(key, sorted(_KEYS))}")
    file = path.parent / str(entry.get("file_name"))
    if not file.exists():
        raise HanmoError(f"{where}: {file}: no such file")
    form, columns, tags = entry.get("formatting", "alpaca"), entry.get("columns", {}), entry.get("tags", {})
    if form not in ("alpaca", "sharegpt", "openai"):
        raise HanmoError(f"{where}: formatting is '{form}'; known are alpaca, sharegpt and openai")
    for given, known in ((columns, {*_ALPACA, *_OPTIONAL}), (tags, set(_TAGS))):
        for key in given:
            if key not in known:
                raise HanmoError(f"{where}: unknown '{key}'{nearest(key, sorted(known))}")
    ranking = bool(entry.get("ranking"))
    if form == "alpaca":
        names = {ours: columns.get(key, ours) for key, ours in _ALPACA.items() if not (ranking and key == "response")}
        tags = {}
    else:
        names = {"conversations": columns.get("messages", "messages" if form == "openai" else "conversations")}
        tags = _TAGS | (_OPENAI if form == "openai" else {}) | tags
    names |= {key: columns[key] for key in ("system", "tools", "history", "chosen", "rejected") if key in columns}
    if ranking:
        names = {"chosen": "chosen", "rejected": "rejected"} | names
    if "kto_tag" in columns:
        names["label"] = columns["kto_tag"]
    return Named(name, file, _ranks(entry), names, tags, int(entry.get("num_samples") or 0))
