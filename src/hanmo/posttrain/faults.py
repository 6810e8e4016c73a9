"""What is wrong with a record, and where in it."""

from __future__ import annotations

from typing import Any


class Fault(Exception):
    """What is wrong with one record: `field` names the place in it, `reason` the kind (for counting)."""

    def __init__(self, field: str, reason: str, detail: str = "") -> None:
        super().__init__(f"field '{field}': {reason}{f' ({detail})' if detail else ''}" if field else reason + detail)
        self.field = field
        self.reason = reason


def kind_of(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
