"""Which fields of a record hold its text: named by the user, or one recognised by its name. Never a silent guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanmo.errors import HanmoError, nearest

#: Names under which published Chinese corpora keep their text. Exactly one of them must be present.
TEXT_FIELDS = (
    "text",
    "content",
    "contents",
    "正文",
    "内容",
    "文本",
    "全文",
    "body",
    "article",
    "document",
    "passage",
    "paragraphs",
    "raw_content",
    "story",
)


def choose(records: Sequence[Mapping[str, Any]], named: Sequence[str]) -> tuple[str, ...]:
    """The fields that hold the text of records like these (the first of a file).

    Args:
        named: the user's choice; checked against what is there.

    Raises:
        HanmoError: a named field is in none of the records; or none or several fields could be the text.
    """
    there = sorted({name for record in records for name in record})
    listed = ", ".join(there)
    if named:
        for name in named:
            if name not in there:
                raise HanmoError(f"no field '{name}'{nearest(name, there)}; there is: {listed}")
        return tuple(named)
    candidates = [name for name in there if any(_is_text(record.get(name)) for record in records)]
    known = [name for name in candidates if name.lower() in TEXT_FIELDS]
    if len(known) == 1:
        return (known[0],)
    if not known and len(there) == 1 and candidates:
        return (candidates[0],)
    if known:
        could = " or ".join(f"'{name}'" for name in known)
        raise HanmoError(f"the text could be in {could}; say which with `text: [{known[0]}]` (there is: {listed})")
    raise HanmoError(f"no field is known to hold the text; name it with `text: [...]` (there is: {listed})")


def _is_text(value: Any) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
    )


def text_of(fields: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The text of a record: its fields joined by newlines (a list of strings is joined so, too).

    An absent or null field adds nothing when another one is there; None when none of them is text.
    """
    parts: list[str] = []
    found = False
    for name in names:
        value = fields.get(name)
        if isinstance(value, str):
            found = True
            parts.append(value)
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            found = True
            parts.extend(value)
    if not found:
        return None
    return parts[0] if len(parts) == 1 else "\n".join(part for part in parts if part)
