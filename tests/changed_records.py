"""Records with one field changed, each with what the error line must say: what generators of faulty lines share."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

#: In place of a value: the field is taken away.
GONE = object()


class Faulty(NamedTuple):
    """A line that cannot be used, of a task whose other lines are sound."""

    task: str
    name: str
    line: str
    says: str


def changed(
    sound: Mapping[str, Any], changes: Iterable[tuple[str, str, str | tuple[str | int, ...], Any, str]]
) -> Iterator[Faulty]:
    """A faulty line of each change.

    Args:
        sound: a sound record of each task.
        changes: (task, name of the kind, field or path to it, its new value, what the error says).
    """
    for task, name, field, value, says in changes:
        record = copy.deepcopy(sound[task])
        *path, last = (field,) if isinstance(field, str) else field
        place = record
        for step in path:
            place = place[step]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
        yield Faulty(task, name, json.dumps(record, ensure_ascii=False), says)
