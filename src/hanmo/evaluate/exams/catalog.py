"""The exams that are known by name, and where their questions are: beside us or on a hub."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from hanmo.errors import HanmoError, nearest
from hanmo.extras import need

Form = Literal["choice", "ending", "pair", "number"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Subject(_Strict):
    """A part of an exam: its title, what stands in front of its questions, its files below the exam's folder."""

    title: str
    description: str = ""
    items: str = ""
    examples: str = ""


class Hub(_Strict):
    """A dataset on a hub: its splits, and its configurations where they are not called as the subjects."""

    path: str
    items: str
    examples: str = ""
    configurations: dict[str, str] = Field(default_factory=dict)


class Exam(_Strict):
    """One exam of the catalogue; see catalog.yaml for the fields."""

    name: str
    title: str
    about: str
    form: Form
    reader: str
    licence: str
    folder: str = ""
    lm_eval: str = ""
    items: str = ""
    examples: str = ""
    subjects: dict[str, Subject] = Field(default_factory=dict)
    hub: Hub | None = None

    def parts(self) -> dict[str, Subject]:
        """The subjects by name, with their files."""
        if self.subjects:
            return self.subjects
        return {
            name: Subject(
                title=title,
                description=description,
                items=self.items.format(subject=name),
                examples=self.examples.format(subject=name),
            )
            for name, (title, description) in _of_lm_eval(self.lm_eval).items()
        }

    def local(self, data: Path | None) -> Path | None:
        """The exam's folder below `data`, or `data` itself where it holds the exam's files."""
        if data is None:
            return None
        below = data / (self.folder or self.name)
        if below.is_dir():
            return below
        return data if any((data / part.items).is_file() for part in self.parts().values()) else None


@cache
def exams() -> dict[str, Exam]:
    """All exams by name."""
    text = (resources.files("hanmo.evaluate.exams") / "catalog.yaml").read_text(encoding="utf-8")
    return {name: Exam(name=name, **fields) for name, fields in yaml.safe_load(text).items()}


def exam(name: str) -> Exam:
    """One exam.

    Raises:
        HanmoError: there is none of that name.
    """
    known = exams()
    if name not in known:
        raise HanmoError(
            f"unknown exam '{name}'{nearest(name, known)}; `hanmo eval exams` lists them, and lm:NAME is lm-eval's own"
        )
    return known[name]


@cache
def _of_lm_eval(folder: str) -> dict[str, tuple[str, str]]:
    """(title, description) of every subject in a folder of lm-eval's task files."""
    tasks = Path(need("lm_eval", "exams").__file__).parent / "tasks" / folder
    found = {}
    for file in sorted(tasks.glob("*.yaml")):
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
        if "dataset_name" not in fields:
            continue
        description = fields.get("description", "")
        # "以下是关于农学的单项选择题" and "以下是中国关于农学的单项选择题"
        title = description.partition("关于")[2].partition("的单项选择题")[0]
        found[fields["dataset_name"]] = (title or fields["dataset_name"], description)
    return found
