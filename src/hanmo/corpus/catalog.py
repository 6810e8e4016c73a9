"""Well-known corpora: what they hold, what their licence allows, and the recipe lines that fetch them.

The facts stand in `catalog.yaml` beside this file. `hanmo corpus catalog` shows them.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from hanmo.corpus.settings import Source
from hanmo.errors import HanmoError, nearest

Allowed = Literal["yes", "no", "terms", "unknown"]


class Entry(BaseModel):
    """One corpus of the catalogue. `sources` are the settings of a corpus stage."""

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str
    kind: str
    language: str
    size: str
    documents: str
    licence: str
    training: Allowed
    publishing: Allowed
    home: str
    notes: str
    sources: list[dict[str, Any]]

    def recipe(self) -> str:
        """The lines of a recipe's corpus stage."""
        return recipe_lines({"sources": self.sources})

    def where(self) -> str:
        """Where the text comes from, in a word."""
        path = str(self.sources[0]["path"])
        return {"hf": "Hugging Face", "ms": "ModelScope"}.get(path.partition(":")[0], "download it first")


class _Lines(yaml.SafeDumper):
    """YAML as people write recipes: lists of words on one line, nothing said by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.nodes.SequenceNode:
        words = all(isinstance(item, str) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=words)


def recipe_lines(value: Any) -> str:
    """A part of a recipe as text."""
    return yaml.dump(value, Dumper=_Lines, allow_unicode=True, sort_keys=False, width=1000)


@cache
def entries() -> dict[str, Entry]:
    """All corpora by name, in the order of the file."""
    text = resources.files("hanmo.corpus").joinpath("catalog.yaml").read_text("utf-8")
    found = {}
    for name, value in yaml.safe_load(text).items():
        value["documents"] = str(value["documents"])
        entry = Entry(name=name, **value)
        for source in entry.sources:
            Source.model_validate(source)
        found[name] = entry
    return found


def entry(name: str) -> Entry:
    """One corpus by name.

    Raises:
        HanmoError: there is none of that name.
    """
    known = entries()
    if name not in known:
        raise HanmoError(f"no corpus '{name}' in the catalogue{nearest(name, known)} (`hanmo corpus catalog` lists it)")
    return known[name]


def _short(said: str) -> str:
    """The first part of what was said, up to a bracket, a semicolon or a comma between words."""
    return re.split(r" \(|;|, (?=\D)", said)[0]


def show(name: str | None) -> None:
    """Print the catalogue, or one corpus with its recipe lines, on the terminal."""
    from rich.table import Table
    from rich.text import Text

    from hanmo.console import Console

    out = Console(highlight=False)
    if name is None:
        wide = out.width >= 140
        table = Table(box=None, pad_edge=False, header_style="bold")
        columns = ["name", *(["what"] if wide else []), "size", *(["documents", "from"] if wide else [])]
        for label in (*columns, "licence", "train", "publish"):
            table.add_column(label, no_wrap=True, max_width=28 if label in ("what", "licence") else None)
        for item in entries().values():
            what, more = ([_short(item.kind)], [_short(item.documents), item.where()]) if wide else ([], [])
            allowed = (item.training, item.publishing)
            cells = (item.name, *what, _short(item.size), *more, _short(item.licence), *allowed)
            table.add_row(*(Text(cell) for cell in cells))
        out.print(table)
        said = "train, publish: whether the licence lets a model be trained on it, and that model be published"
        out.print(f"\n{said}", markup=False, soft_wrap=True)
        out.print("`hanmo corpus catalog NAME` shows one of them with the recipe lines that fetch it", markup=False)
        return
    found = entry(name)
    table = Table(show_header=False, box=None, title=Text(found.title), title_justify="left")
    for label, value in found.model_dump(exclude={"name", "title", "sources"}).items():
        table.add_row(Text(label), Text(str(value)))
    out.print(table)
    out.print("\nIn a recipe, under a stage with `do: corpus`:\n", markup=False)
    out.print(found.recipe(), markup=False, soft_wrap=True)
