"""What is wrong with a record, and where in it; what became of all records of a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanmo.errors import HanmoError

#: Skipped records that are told one by one; all are counted.
_LISTED = 1000


class Fault(Exception):
    """What is wrong with one record: `field` names the place in it, `reason` the kind (for counting)."""

    def __init__(self, field: str, reason: str, detail: str = "") -> None:
        super().__init__(f"field '{field}': {reason}{f' ({detail})' if detail else ''}" if field else reason + detail)
        self.field = field
        self.reason = reason

    @property
    def kind(self) -> str:
        """What such faults are counted as, wherever in a list they are."""
        where = re.sub(r"\[\d+\]", "[]", self.field)
        return f"{where}: {self.reason}" if where else self.reason


def kind_of(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def refusal(faults: Sequence[tuple[Any, Fault]]) -> HanmoError:
    """What stops a stage that a file's faulty records, each with its place, are not to be left out of."""
    place, fault = faults[0]
    more = f"; {len(faults) - 1} more records of this file are faulty" if len(faults) > 1 else ""
    return HanmoError(f"{place}: {fault}; mend the record, or set on_bad_record: skip to leave such out{more}")


@dataclass
class Account:
    """What became of the records of some files."""

    files: list[str] = field(default_factory=list)
    read: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_at: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def settle(self, faults: Sequence[tuple[Any, Fault]], on_bad_record: str) -> None:
        """Count a file's faulty records.

        Raises:
            HanmoError: there are some, and `on_bad_record` is "fail".
        """
        if faults and on_bad_record == "fail":
            raise refusal(faults)
        for place, fault in faults:
            self.skipped[fault.kind] += 1
            if len(self.skipped_at) < _LISTED:
                self.skipped_at.append(f"{place}: {fault}")

    def nothing(self, what: str) -> HanmoError:
        """What is said where no record is left."""
        first = f"; the first fault: {self.skipped_at[0]}" if self.skipped_at else ""
        names = ", ".join(Path(file).name for file in self.files)
        return HanmoError(f"no usable {what} in {names} ({self.read} read){first}")

    def as_json(self) -> dict[str, Any]:
        """As it stands in a stage's results."""
        return {
            "files": self.files,
            "records": self.read,
            "used": self.used,
            "skipped": dict(self.skipped.most_common()),
            "skipped_at": self.skipped_at,
            "notes": dict(self.notes.most_common()),
        }

    def line(self, part: str) -> str:
        """What a person wants to know of it."""
        left = {f"skipped, {why}": n for why, n in self.skipped.items()} | dict(self.notes)
        more = "".join(f"; {n} × {why}" for why, n in left.items())
        return f"{part}: {self.used} examples of {', '.join(Path(file).name for file in self.files)}{more}"
