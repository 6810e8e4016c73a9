"""Labelled tasks in the forms of CLUE: one JSON record a line, an array of records, or SQuAD's nested form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from hanmo.corpus.records import EXCERPT, Bad, Opened, Record, excerpt, open_text
from hanmo.corpus.stream import FileFault
from hanmo.corpus.tasks import elements, form_of

#: A task's file is read as a whole; the largest of CLUE (CMNLI) has 60 MB.
LIMIT = 1 << 30


def read_tasks(file: Opened) -> Iterator[Record | Bad]:
    """The documents that the form `file.form` makes of a task's records."""
    form = form_of(file.form)
    for number, found in read_records(file):
        if isinstance(found, Bad):
            yield found
            continue
        try:
            text = form.render(found)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            there = ", ".join(map(str, list(found)[:8]))
            detail = f"not a record of form {form.name}: {error} is missing (fields: {there})"
            yield Bad(number, "bad_record", detail, str(found)[:EXCERPT])
            continue
        if text is None:
            yield Bad(number, "no_label", "it has no label that the form knows", str(found)[:EXCERPT], unwanted=True)
        else:
            yield Record(number, {"text": text, "meta": {"form": form.name}}, len(text.encode()))


def read_records(file: Opened) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    """(line, or number of the record in its array; the record) of a task's file, whichever of the forms it has."""
    source, _ = open_text(file)
    data = b""
    for piece in source:
        data += piece
        if len(data) > LIMIT:
            raise FileFault("too_big", f"more than {LIMIT >> 20} MB: no task has so much; use format: jsonl for text")
    try:
        whole = orjson.loads(data)
    except orjson.JSONDecodeError:
        yield from _lines(data)
        return
    try:
        yield from enumerate(elements(whole), 1)
    except ValueError as error:
        raise FileFault("not_json", str(error)) from None


def _lines(data: bytes) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            detail = f"not JSON ({str(error).split(':')[0]})"
            yield number, Bad(number, "not_json", detail, excerpt(line, "utf-8"))
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            yield number, Bad(number, "not_json", f"a JSON {type(value).__name__}, no record", excerpt(line, "utf-8"))
