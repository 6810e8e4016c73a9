"""Labelled tasks as text: records in the forms of CLUE and FewCLUE, and how each becomes a document.

A form (`tasks.yaml`) says which fields are text, and by which readable templates text and label become a plain
document that a language model can be pretrained on. Which of its templates a record gets is decided by a hash of its
text, so that a corpus comes out the same each time. Several questions about one passage become one document: apart,
they would be near-duplicates of each other.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hanmo.errors import HanmoError, nearest

#: Between the items of a list that stands in a template.
_BETWEEN = "、"


class _Entry(BaseModel):
    """One form as tasks.yaml has it."""

    model_config = ConfigDict(extra="forbid")

    needs: list[str] = Field(min_length=1)
    texts: list[str] = Field(min_length=1)
    templates: list[str] = Field(min_length=1)
    label: str = ""
    answers: dict[str, dict[str, str]] = {}
    shape: str = ""
    each: str = ""


@dataclass(frozen=True)
class Form:
    """How the records of one task become text; see tasks.yaml for what its parts mean."""

    name: str
    entry: _Entry

    def texts(self, record: Mapping[str, Any]) -> list[str]:
        """The task's own texts, in their order, without labels; empty ones are left out."""
        flat = self._flat(record)
        return [text for name in self.entry.texts if (text := _text(flat.get(name)))]

    def render(self, record: Mapping[str, Any]) -> str | None:
        """The document made of a record and its label; None where it has no label (or no question an answer).

        Raises:
            KeyError: the record lacks a field of the form.
        """
        entry, flat = self.entry, self._flat(record)
        for name in entry.needs:
            if name not in flat:
                raise KeyError(name)
        values = {name: _text(value) for name, value in flat.items()}
        if entry.each:
            asked = [question for question in flat["questions"] if question.get("answer")]
            if not asked:
                return None
            values["questions"] = "\n".join(
                entry.each.format_map({name: _text(value) for name, value in question.items()}) for question in asked
            )
        elif entry.label:
            label = _text(flat.get(entry.label))
            words = entry.answers.get(label) if entry.answers else {"answer": label}
            if not label or words is None:
                return None
            values |= words
        chosen = xxhash.xxh32_intdigest("\n".join(self.texts(record)).encode()) % len(entry.templates)
        return entry.templates[chosen].format_map(values)

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has the fields of this form."""
        flat = self._flat(record)
        return all(name in flat for name in self.entry.needs)

    def _flat(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return _SHAPES[self.entry.shape](dict(record))


def _text(value: Any) -> str:
    """A field's value as it stands in a text."""
    if isinstance(value, list):
        return _BETWEEN.join(_text(item) for item in value)
    return "" if value is None else str(value).strip()


def _spans(record: dict[str, Any]) -> dict[str, Any]:
    """CLUEWSC: the two spans from within `target`."""
    target = record.get("target")
    if isinstance(target, dict):
        record |= {"span1": target.get("span1_text"), "span2": target.get("span2_text")}
    return record


def _idiom(record: dict[str, Any]) -> dict[str, Any]:
    """ChID: the idiom at the place of the label, and the text with it and with a blank."""
    candidates, place = record.get("candidates"), record.get("answer")
    content = str(record.get("content", ""))
    known = isinstance(candidates, list) and isinstance(place, int) and 0 <= place < len(candidates)
    idiom = candidates[place] if known else ""  # type: ignore[index]
    filled, blank = (content.replace("#idiom#", word) for word in (str(idiom), "____"))
    # What a reader sees, without the mark of the file's form.
    return record | {"answer": idiom, "filled": filled, "blank": blank, "content": blank}


def _choices(record: dict[str, Any]) -> dict[str, Any]:
    """C3: a passage of several lines, its questions with options."""
    if "items" in record:  # a JSON array [passage, questions, id]
        passage, questions, *rest = [*record.pop("items"), None, None]
        record |= {"passage": passage, "questions": questions, "id": rest[0]}
    passage = record.get("passage")
    if isinstance(passage, list):
        record["passage"] = "\n".join(map(str, passage))
    if isinstance(record.get("questions"), list):
        record["questions"] = [
            {**question, "options": question.get("choice")} for question in record["questions"] if question
        ]
    return record


def _squad(record: dict[str, Any]) -> dict[str, Any]:
    """CMRC 2018 and DRCD: questions with their first answer."""
    asked = record.get("qas")
    if isinstance(asked, list):
        record["questions"] = [
            {"question": one.get("question"), "answer": next((a.get("text") for a in one.get("answers") or []), "")}
            for one in asked
        ]
    return record


_SHAPES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "": lambda record: record,
    "spans": _spans,
    "idiom": _idiom,
    "choices": _choices,
    "squad": _squad,
}


@functools.cache
def forms() -> dict[str, Form]:
    """The forms that come with the package, by name."""
    return _read(Path(__file__).with_name("tasks.yaml"))


@functools.cache
def form_of(name: str) -> Form:
    """A form by its name, or from a file of one's own with one entry.

    Raises:
        HanmoError: no such form, or the file is not one.
    """
    if name.endswith((".yaml", ".yml")):
        found = _read(Path(name))
        if len(found) != 1:
            raise HanmoError(f"{name}: {len(found)} forms in it; a file of one's own holds one")
        return next(iter(found.values()))
    if name not in forms():
        raise HanmoError(
            f"form: '{name}' is unknown{nearest(name, forms())} (known: {', '.join(forms())}, or a .yaml of your own)"
        )
    return forms()[name]


def _read(path: Path) -> dict[str, Form]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HanmoError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HanmoError(f"{path}: not YAML ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(raw, dict):
        raise HanmoError(f"{path}: a form is an entry NAME: {{needs: …, texts: …, templates: …}}")
    found = {}
    for name, value in raw.items():
        try:
            entry = _Entry.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise HanmoError(f"{path}: {name}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if entry.shape not in _SHAPES:
            known = ", ".join(filter(None, _SHAPES))
            raise HanmoError(f"{path}: {name}.shape: '{entry.shape}' is unknown (known: {known})")
        _check_templates(path, str(name), entry)
        found[str(name)] = Form(str(name), entry)
    return found


def _check_templates(path: Path, name: str, entry: _Entry) -> None:
    """See that what stands in braces in a template can be there."""
    words = {word for words in entry.answers.values() for word in words} if entry.answers else {"answer"}
    shaped = {"spans": {"span1", "span2"}, "idiom": {"filled", "blank"}}.get(entry.shape, set())
    known = {*entry.needs, *entry.texts, entry.label, *words, *shaped} - {""}
    for template in entry.templates:
        try:
            named = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        except ValueError as error:
            raise HanmoError(f"{path}: {name}.templates: {template!r}: {error}") from None
        for field in named:
            if field not in known:
                raise HanmoError(
                    f"{path}: {name}.templates: {template!r}: no '{{{field}}}'{nearest(field, known)} (there is: "
                    f"{', '.join(sorted(known))})"
                )


def texts_of(record: Mapping[str, Any]) -> list[str] | None:
    """The texts of a record of any known form, recognised by its fields; None where it fits none."""
    for form in sorted(forms().values(), key=lambda form: -len(form.entry.needs)):
        if form.fits(record):
            return form.texts(record)
    return None


def elements(value: Any) -> Iterator[dict[str, Any]]:
    """The records in a JSON file that is one value: an array of records or of C3's arrays, or what SQuAD's form holds.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise ValueError(f"a JSON {type(value).__name__}, not records")
    for item in value:
        if isinstance(item, list) and len(item) >= 2:
            yield {"items": item}
        elif isinstance(item, dict) and isinstance(item.get("paragraphs"), list):
            for paragraph in item["paragraphs"]:
                yield {"title": item.get("title", ""), **paragraph}
        elif isinstance(item, dict):
            yield item
        else:
            raise ValueError(f"a JSON {type(item).__name__} among the records")
