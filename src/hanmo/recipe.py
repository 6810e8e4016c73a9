"""A recipe: one YAML file that names stages, what they do, what they read and how they are set.

    name: demo
    stages:
      - name: base
        do: pretrain
        from: {data: tokens}       # role: the name of a stage, or a path with a slash; several in a list
        preset: hanmo-4m           # the stage's own settings stand beside `do`

`from: corpus` is short for the one role a kind requires (or, where none is required, for its first). Settings are
checked by the schema of the room that owns them; a misspelt key, stage or role is an error that names the nearest right
one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hanmo.errors import HanmoError, nearest
from hanmo.files import expand
from hanmo.models import hub
from hanmo.remote import as_path, is_url
from hanmo.stage import Settings, StageKind
from hanmo.stages import KINDS, kind

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*$")
_RECIPE_KEYS = ("name", "about", "stages")


@dataclass
class Stage:
    """One stage of a recipe, checked. `sources` maps a role to stage names and paths."""

    name: str
    kind: StageKind
    settings: Settings
    sources: dict[str, list[str | Path]] = field(default_factory=dict)

    @property
    def after(self) -> list[str]:
        """Names of the stages it reads."""
        return [item for items in self.sources.values() for item in items if isinstance(item, str)]


@dataclass
class Recipe:
    """Stages in an order in which each stands behind those it reads."""

    name: str
    stages: list[Stage]


def load_recipe(path: Path | str, overrides: list[str] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file; relative paths in it are meant from its folder.
        overrides: `stage.key=value` items that replace settings, the value read as YAML.

    Raises:
        HanmoError: anything wrong in the file, with the file, the stage and the key.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HanmoError(f"{path}: no such recipe") from None
    except UnicodeDecodeError:
        raise HanmoError(f"{path}: not UTF-8; save the recipe as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise HanmoError(f"{path}{line}: not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("stages"), list) or not raw["stages"]:
        raise HanmoError(f"{path}: a recipe needs `stages:`, a list of stages")
    for key in raw:
        if key not in _RECIPE_KEYS:
            raise HanmoError(f"{path}: unknown key '{key}'{nearest(str(key), _RECIPE_KEYS)}")
    _apply(raw["stages"], overrides or [], path)
    names = [item.get("name", item.get("do")) if isinstance(item, dict) else None for item in raw["stages"]]
    stages = [_stage(item, names, path, index) for index, item in enumerate(raw["stages"])]
    _keep_exams_out(stages)
    return Recipe(str(raw.get("name", path.stem)), _sorted(stages, path))


def _keep_exams_out(stages: list[Stage]) -> None:
    """Give every corpus that names no exams those that the recipe evaluates on (`exams: []` says none)."""
    exams = [
        source
        for stage in stages
        for role in ("exam", "data")
        if role == "exam" or stage.kind.do == "exam"
        for source in stage.sources.get(role, [])
    ]
    for stage in stages:
        if stage.kind.role("exams") and "exams" not in stage.sources:
            behind = {stage.name}  # what reads this corpus cannot be read by it
            while more := {other.name for other in stages if behind & set(other.after)} - behind:
                behind |= more
            if outside := list(dict.fromkeys(exam for exam in exams if exam not in behind)):
                stage.sources["exams"] = outside


def _apply(stages: list[Any], overrides: list[str], path: Path) -> None:
    """Put `stage.key=value` items into the raw stages (nested keys by further dots)."""
    named = {item.get("name", item.get("do")): item for item in stages if isinstance(item, dict)}
    for item in overrides:
        target, equals, text = item.partition("=")
        stage, dot, key = target.partition(".")
        if not equals or not dot or not key:
            raise HanmoError(f"'{item}': settings are given as stage.key=value, e.g. base.tokens=1M")
        if stage not in named:
            raise HanmoError(f"'{item}': {path} has no stage '{stage}'{nearest(stage, [str(n) for n in named])}")
        place = named[stage]
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise HanmoError(f"'{item}': '{parent}' is no group of settings")
        place[last] = yaml.safe_load(text)


def _stage(raw: Any, names: list[Any], path: Path, index: int) -> Stage:
    where = f"{path}: stage {index + 1}"
    if not isinstance(raw, dict) or "do" not in raw:
        raise HanmoError(f"{where}: a stage needs `do:`, one of {', '.join(KINDS)}")
    name = str(raw.get("name", raw["do"]))
    where = f"{path}: stage '{name}'"
    if not _NAME.match(name):
        raise HanmoError(f"{where}: a name is made of letters, digits, '.', '_' and '-'; it becomes a folder")
    if names.count(raw.get("name", raw["do"])) > 1:
        raise HanmoError(f"{where}: the name stands twice; give one of them another `name:`")
    what = kind(str(raw["do"]), where)
    values = {key: value for key, value in raw.items() if key not in ("name", "do", "from")}
    settings = check_settings(what, values, where).anchored(path.parent.resolve())
    sources = _sources(raw.get("from"), what, [str(n) for n in names], path, where)
    return Stage(name, what, settings, sources)


def check_settings(what: StageKind, values: dict[str, Any], where: str) -> Settings:
    """Validate settings against the kind's schema; the first fault becomes one line that names the key."""
    try:
        return what.settings.model_validate(values)
    except HanmoError as error:
        raise HanmoError(f"{where}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(what.settings, first["loc"])
            if len(first["loc"]) == 1:
                known += ["from", "name", "do"]
            hint = nearest(str(first["loc"][-1]), known)
            raise HanmoError(f"{where}: unknown key '{key}'{hint} (known: {', '.join(known)})") from None
        message = first["msg"].removeprefix("Value error, ")
        if not key:  # of several settings together; the message names them
            raise HanmoError(f"{where}: {message}") from None
        # One of a few words: the message lists them.
        words = (
            re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected"))) if "literal" in first["type"] else []
        )
        hint = nearest(str(first.get("input")), words)
        raise HanmoError(f"{where}: {key}: {message} (got {first.get('input')!r:.80}){hint}") from None


def _known_keys(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the (nested) model in which the last part of `location` was not known."""
    model: Any = schema
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        found = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def _sources(raw: Any, what: StageKind, names: list[str], path: Path, where: str) -> dict[str, list[str | Path]]:
    """`from:` as {role: [stage name or path]}, with the short form filled in."""
    roles = [item.role for item in what.inputs]
    if raw is None:
        raw = {}
    elif not isinstance(raw, dict):
        needed = [item.role for item in what.inputs if item.required] or roles[:1]
        if len(needed) != 1:
            raise HanmoError(f"{where}: `from:` must say which is which: {', '.join(needed)}")
        raw = {needed[0]: raw}
    sources: dict[str, list[str | Path]] = {}
    for role, value in raw.items():
        item = what.role(str(role))
        if item is None:
            hint = nearest(str(role), roles)
            raise HanmoError(f"{where}: from: `{what.do}` reads no '{role}'{hint} (it reads: {', '.join(roles)})")
        values = value if isinstance(value, list) else [value]
        if len(values) > 1 and not item.many:
            raise HanmoError(f"{where}: from: {role}: takes one, {len(values)} are given")
        sources[item.role] = [_source(str(one), names, path, f"{where}: from: {role}", item.role) for one in values]
    missing = [item.role for item in what.inputs if item.required and not sources.get(item.role)]
    if missing:
        raise HanmoError(f"{where}: needs `from: {{{missing[0]}: ...}}` ({what.role(missing[0]).doc})")  # type: ignore[union-attr]
    return sources


def _source(value: str, names: list[str], path: Path, where: str, role: str) -> str | Path:
    if value in names:
        return value
    if is_url(value):
        return as_path(value)
    if hub.named(os.path.expandvars(value)):
        return _named_model(os.path.expandvars(value), role, where)
    if "/" in value or "\\" in value or value.startswith("$"):
        return expand(value, path.parent)
    raise HanmoError(f"{where}: no stage '{value}'{nearest(value, names)} (a path needs a slash: ./{value})")


def _named_model(value: str, role: str, where: str) -> Path:
    """A model by its name on a hub, which is no path but is handed on as one until it is fetched."""
    if role not in hub.ROLES:
        raise HanmoError(
            f"{where}: '{value}' is a name on a hub; {', '.join(hub.ROLES)} can be given by name, and corpora by "
            "`sources`"
        )
    hub.repository(value)  # a slip is told before anything runs
    return Path(value)


def _sorted(stages: list[Stage], path: Path) -> list[Stage]:
    """Stages so that each stands behind what it reads; file order otherwise."""
    done: list[Stage] = []
    waiting = list(stages)
    while waiting:
        names = {stage.name for stage in done}
        ready = next((stage for stage in waiting if set(stage.after) <= names), None)
        if ready is None:
            raise HanmoError(f"{path}: stages read each other in a circle: {', '.join(s.name for s in waiting)}")
        done.append(ready)
        waiting.remove(ready)
    return done
