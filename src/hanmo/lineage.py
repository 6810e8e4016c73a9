"""Where a model comes from: the stages behind it, and the texts they read with their licences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hanmo.files import read_json
from hanmo.models.hub import repository_of

#: The licence of texts that nobody wrote: those of the small world.
MADE_HERE = "made by hanmo"


@dataclass(frozen=True)
class Made:
    """A stage that is done: its folder, and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def do(self) -> str:
        return str(self.manifest["do"])

    @property
    def name(self) -> str:
        return str(self.manifest.get("stage", self.folder.name))


def made_by(path: Path) -> Made | None:
    """The stage that made a folder (its own, or its `model/`); None where no stage of ours did."""
    for folder in (path, path.parent):
        manifest = folder / "manifest.json"
        if manifest.is_file():
            found = read_json(manifest)
            if isinstance(found, dict) and "do" in found:
                return Made(folder, found)
    return None


def lineage(path: Path) -> list[Made]:
    """The stage that made a folder and all that it read, those that were read first; [] where no stage made it.

    A run that was moved is found by the names of its folders, which stand beside each other.
    """
    found: dict[Path, Made] = {}

    def visit(place: Path) -> None:
        stage = made_by(place)
        if stage is None or stage.folder.resolve() in found:
            return
        for source in inputs_of(stage):
            visit(source)
        found[stage.folder.resolve()] = stage

    visit(path)
    return list(found.values())


def inputs_of(stage: Made) -> Iterator[Path]:
    """The files and folders that a stage read, as far as they are still there."""
    for paths in stage.manifest.get("inputs", {}).values():
        for text in paths:
            place = beside(stage, Path(text))
            if place.exists():
                yield place


def texts(stages: Iterable[Made]) -> dict[str, dict[str, Any]]:
    """The sources of all corpora in a `lineage`: name -> {documents, bytes, licence}."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        stats = stage.folder / "stats.json"
        if stage.do != "corpus" or not stats.is_file():
            continue
        made = [made_by(place) for place in inputs_of(stage)]
        ours = bool(made) and all(one is not None and one.do == "microworld" for one in made)
        for name, source in read_json(stats)["sources"].items():
            licence = source.get("licence") or (MADE_HERE if ours else "")
            own = found.setdefault(name, {"documents": 0, "bytes": 0, "licence": licence})
            own["documents"] += source["train"]["documents"]
            own["bytes"] += source["train"]["bytes"]
    return found


class Base(NamedTuple):
    """A model from outside: its folder, and OWNER/NAME where it was given by name, else the folder's name."""

    folder: Path
    name: str


def base_of(stages: Iterable[Made]) -> Base | None:
    """The model from outside that the first trained stage of a `lineage` went on from; None where all began here."""
    for stage in stages:
        given = stage.manifest.get("inputs", {}).get("model", [])
        marks = stage.manifest.get("results", {}).get("model", [])
        for text, mark in itertools.zip_longest(given, marks[: len(given)], fillvalue=""):
            folder = beside(stage, Path(text))
            if made_by(folder) is None:
                return Base(folder, repository_of(mark) or folder.name)
    return None


def beside(stage: Made, path: Path) -> Path:
    """Where an input of a stage is: where it was, or, in a run that was moved, in the folder beside the stage's."""
    moved = stage.folder.parent / path.name
    return path if path.exists() or not moved.exists() else moved
