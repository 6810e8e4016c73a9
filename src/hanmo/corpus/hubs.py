"""Corpora by name: from `hf:OWNER/NAME` and its like (see `hubapi`) to the files that a corpus is made of.

A branch moves, so `pin` writes the commit of the first try into the stage's folder, and every later try reads that
commit. (ModelScope gives files by branch or tag alone; there the files' sizes and times are in the plan, so that a
changed repository makes another plan.)
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from hanmo.console import console, human_bytes
from hanmo.corpus.hubapi import Entry, Name, Repository, endpoint_of, is_hub, parse, repository_of, tree
from hanmo.corpus.hubfile import HubFile
from hanmo.errors import HanmoError, nearest
from hanmo.files import read_json, write_json

if TYPE_CHECKING:
    from hanmo.corpus.settings import Source

_WORDS = {"hf": "Hugging Face", "ms": "ModelScope"}
#: What a split's files have in their names or folders (the rule of the library `datasets`).
_SPLIT = re.compile(
    r"(?:^|[-._ 0-9/])(?:(?P<train>training|train)|(?P<validation>validation|valid|dev|val)"
    r"|(?P<test>testing|test|evaluation|eval))(?=$|[-._ 0-9/])",
    re.I,
)
#: Files of text that stand in a repository about its data, not as data.
_ABOUT = re.compile(r"(?:^|/)(?:readme|licen[cs]e|notice|citation|changelog|requirements)\b[^/]*$", re.I)
_ABOUT_JSON = frozenset(("dataset_info.json", "dataset_infos.json", "configuration.json", "config.json", "state.json"))


# From a repository to its data files ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The files that a name means, in the order of their names, and what was left out, for the user."""

    repository: Repository
    entries: tuple[Entry, ...]
    config: str
    split: str
    left_out: str


def resolve(name: Name, endpoint: str, known: Callable[[str], bool]) -> Chosen:
    """Ask the hub which files a name means.

    Args:
        known: says of a file's name whether a reader knows its format.

    Raises:
        HanmoError: the hub cannot be reached or refuses, or no file, several configurations or no such one are there.
    """
    repository = repository_of(name, endpoint)
    if name.glob is not None:
        return _by_glob(repository, name.glob)
    return _by_config(repository, tree(repository), known)


def _by_glob(repository: Repository, glob: str) -> Chosen:
    from fsspec.utils import glob_translate

    parts = glob.split("/") if glob else []
    fixed = next((index for index, part in enumerate(parts) if any(mark in part for mark in "*?[")), len(parts))
    # What has no pattern may be a file or a folder: the folder above it has both.
    folder = "/".join(parts[: min(fixed, max(0, len(parts) - 1))])
    pattern = re.compile(glob_translate(glob)) if fixed < len(parts) else None
    name = repository.name
    entries = [
        entry
        for entry in tree(repository, folder)
        if (pattern.match(entry.path) if pattern else not glob or f"{entry.path}/".startswith(f"{glob}/"))
        and not _hidden(entry.path)
    ]
    if not entries:
        raise HanmoError(f"{name}: no file of that name in the repository")
    return Chosen(repository, tuple(sorted(entries, key=lambda entry: entry.path)), "", "", "")


def _hidden(path: str) -> bool:
    return any(part.startswith((".", "__")) for part in path.split("/"))


def _by_config(repository: Repository, listed: Sequence[Entry], known: Callable[[str], bool]) -> Chosen:
    name = repository.name
    entries = [entry for entry in listed if not _hidden(entry.path)]
    data = [entry for entry in entries if known(entry.path) and not _about(entry.path)]
    tables = [entry for entry in data if not re.search(r"\.(txt|text|md|markdown)(\.\w+)?$", entry.path, re.I)]
    data = tables or data
    if not data:
        endings = Counter(PurePosixPath(entry.path).suffix or entry.path for entry in entries)
        few = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5)) or "no file at all"
        raise HanmoError(f"{name}: no data file that can be read (there is {few})")
    config, patterns = _config(name, repository.card, data)
    if patterns is None:
        splits: dict[str, list[Entry]] = {}
        for entry in data:
            splits.setdefault(_split_of(entry.path), []).append(entry)
    else:
        splits = {split: _matching(data, globs) for split, globs in patterns.items()}
    split = name.split or ("train" if splits.get("train") else "")
    if name.split and not splits.get(name.split):
        there = [known_split for known_split, held in splits.items() if held]
        raise HanmoError(f"{name}: no split '{name.split}'{nearest(name.split, there)}; there is: {', '.join(there)}")
    chosen = splits[split] if split else [entry for held in splits.values() for entry in held]
    if not chosen:
        raise HanmoError(f"{name}: the card's patterns of configuration '{config}' match no data file")
    others = [f"{len(held)} of split {other}" for other, held in splits.items() if split and other != split and held]
    unique = {entry.path: entry for entry in chosen}
    return Chosen(repository, tuple(unique[path] for path in sorted(unique)), config, split, ", ".join(others))


def _about(path: str) -> bool:
    return bool(_ABOUT.search(path)) or PurePosixPath(path).name in _ABOUT_JSON


def _split_of(path: str) -> str:
    """The split that a file's name, else a folder above it, speaks of; train where none does."""
    file = PurePosixPath(path)
    for part in (file.name, *reversed(file.parts[:-1])):
        if found := _SPLIT.search(part):
            return next(split for split, word in found.groupdict().items() if word)
    return "train"


def _config(name: Name, card: Mapping[str, Any], data: list[Entry]) -> tuple[str, dict[str, list[str]] | None]:
    """(configuration, its splits with their patterns of file names; None where the card names no files)."""
    listed = card.get("configs")
    configs = {
        str(item["config_name"]): item
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict) and "config_name" in item
    }
    if not configs:
        if not name.config:
            return "", None
        if any(entry.path.startswith(f"{name.config}/") for entry in data):
            return name.config, {"": [f"{name.config}/**"]}
        folders = sorted({entry.path.split("/")[0] for entry in data if "/" in entry.path})
        raise HanmoError(
            f"{name}: its card names no configuration '{name.config}' and no folder is called so"
            f"{nearest(name.config, folders)}{f'; there is: {_few(folders)}' if folders else ''}"
        )
    if name.config:
        if name.config not in configs:
            raise HanmoError(
                f"{name}: no configuration '{name.config}'{nearest(name.config, configs)}; there is: {_few(configs)}"
            )
        chosen = name.config
    else:
        marked = [config for config, item in configs.items() if item.get("default") is True]
        marked = marked or [config for config in configs if config == "default"] or list(configs)
        if len(marked) > 1:
            raise HanmoError(
                f"{name}: it has {len(marked)} configurations; say which: {name.kind}:{name.repo}:{marked[0]} "
                f"(there is: {_few(marked)})"
            )
        chosen = marked[0]
    return chosen, _patterns(configs[chosen])


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _patterns(config: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """`data_files` of a configuration in any of the forms that cards have."""
    files = config.get("data_files")
    folder = str(config.get("data_dir") or "").strip("/")
    if files is None:
        return {"": [f"{folder}/**"]} if folder else None
    found: dict[str, list[str]] = {}
    items = list(files.items()) if isinstance(files, dict) else files if isinstance(files, list) else [files]
    for item in items:
        if isinstance(item, tuple):
            split, paths = item
        elif isinstance(item, dict):
            split, paths = item.get("split", "train"), item.get("path", [])
        else:
            split, paths = "train", item
        paths = paths if isinstance(paths, list) else [paths]
        found.setdefault(str(split), []).extend(f"{folder}/{path}".lstrip("/") for path in paths)
    return found


def _matching(data: list[Entry], globs: list[str]) -> list[Entry]:
    from fsspec.utils import glob_translate

    patterns = [
        re.compile(glob_translate(form)) for glob in globs for form in (glob.strip("/"), f"{glob.strip('/')}/**")
    ]
    return [entry for entry in data if any(pattern.match(entry.path) for pattern in patterns)]


# What the corpus stage asks for ---------------------------------------------------------------------------------------


def files(path: str, hub: str, keep: bool, known: Callable[[str], bool]) -> list[tuple[HubFile, str]]:
    """(file, name in the repository) of all files that a source's path means, in the order of their names.

    Args:
        hub: the source's mirror, or "".
        keep: whether the bytes are to be kept on disk.
        known: see `resolve`.
    """
    name = parse(path)
    chosen = resolve(name, endpoint_of(name.kind, hub), known)
    return [(_file(chosen.repository, entry, keep), entry.path) for entry in chosen.entries]


def _file(repository: Repository, entry: Entry, keep: bool) -> HubFile:
    name, revision = repository.name, repository.revision
    if name.kind == "hf":
        url = f"{repository.endpoint}/datasets/{name.repo}/resolve/{quote(revision, safe='')}/{quote(entry.path)}"
        state = revision
    else:
        asked = urlencode({"Source": "SDK", "Revision": revision, "FilePath": entry.path})
        url = f"{repository.endpoint}/api/v1/datasets/{name.repo}/repo?{asked}"
        state = f"{revision}@{entry.changed}"
    address = f"{name.kind}://datasets/{name.repo}@{revision[:12]}/{entry.path}"
    kept = None
    if keep:
        root = Path(os.environ.get("HANMO_CACHE") or Path.home() / ".cache" / "hanmo")
        kept = root / "hub" / name.kind / name.repo / state.replace("/", "--") / entry.path
    return HubFile(name.kind, url, address, entry.path, entry.size, revision, entry.changed, kept)


def pin(sources: list[Source], out: Path, known: Callable[[str], bool]) -> list[Source]:
    """Copies of the sources in which names on hubs carry the revision that the first try in `out` found.

    `hub.json` in `out` keeps these; the same names mean the same files then, however often the stage is taken up.
    """
    record = out / "hub.json"
    before: dict[str, str] = read_json(record) if record.is_file() else {}
    pinned: dict[str, str] = {}
    result = []
    for source in sources:
        if is_hub(source.path):
            name = parse(before.get(source.path, source.path))
            chosen = resolve(name, endpoint_of(name.kind, source.hub), known)
            fixed = str(replace(name, revision=chosen.repository.revision))
            pinned[source.path] = fixed
            size = sum(entry.size for entry in chosen.entries)
            what = f"{len(chosen.entries)} files, {human_bytes(size)}, at revision {chosen.repository.revision}"
            part = [f"configuration {chosen.config}"] * bool(chosen.config) + [f"split {chosen.split}"] * bool(
                chosen.split
            )
            left = f"; left out: {chosen.left_out}" if chosen.left_out else ""
            console.print(
                f"{_WORDS[name.kind]} {name.repo}: {what}{''.join(f', {item}' for item in part)}{left}",
                markup=False,
                soft_wrap=True,
            )
            source = source.model_copy(update={"path": fixed})
        result.append(source)
    if pinned and pinned != before:
        write_json(record, pinned)
    return result
