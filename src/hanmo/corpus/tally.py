"""Counting: what came in, what each rule changed, what was rejected and why. Plain dicts, so that they travel
as JSON.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hanmo.corpus.cleaning.changes import Changes

#: Rejected documents of one reason and source that are shown in the statistics.
EXAMPLES = 2
#: Faulty files that are named in the statistics.
FILES_NAMED = 20


@dataclass
class Amount:
    """An amount of text."""

    documents: int = 0
    bytes: int = 0
    chars: int = 0
    han: int = 0

    def add(self, bytes_: int, chars: int, han: int, documents: int = 1) -> None:
        self.documents += documents
        self.bytes += bytes_
        self.chars += chars
        self.han += han

    def as_dict(self) -> dict[str, int]:
        return {"documents": self.documents, "bytes": self.bytes, "chars": self.chars, "han": self.han}


@dataclass
class Tally:
    """The account of one source, or of a task's part of it. Every document of `read` is in one of the others."""

    read: Amount = field(default_factory=Amount)
    kept: Amount = field(default_factory=Amount)  # passed the filters (by the first pass)
    train: Amount = field(default_factory=Amount)
    heldout: Amount = field(default_factory=Amount)
    rejected: Counter[str] = field(default_factory=Counter)
    rejected_bytes: Counter[str] = field(default_factory=Counter)  # by the first pass before cleaning, later after it
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    changed: Counter[str] = field(default_factory=Counter)
    changed_documents: Counter[str] = field(default_factory=Counter)
    changes: Changes = field(default_factory=Changes)  # before and after, by rule: a sample
    seen: dict[str, Counter[str]] = field(default_factory=dict)  # see `notice`
    bad_files: list[str] = field(default_factory=list)
    bad_files_count: int = 0

    def notice(self, found: Mapping[str, Any], chars: int) -> None:
        """Count what a document was found to be, whether it is kept or not: by `lang`, `register` and `script`; by
        `chars` in powers of two; by `quality` in tenths and by `perplexity` in halves of a power of two. A bin goes
        by its lower end.
        """
        self._notice("chars", str(1 << max(0, chars.bit_length() - 1)))
        for name, value in found.items():
            if name == "quality":
                value = f"{min(9, int(10 * value)) / 10:g}"
            elif name == "perplexity":
                value = f"{2 ** (math.floor(2 * math.log2(max(1.0, value))) / 2):.4g}"
            self._notice(name, value)

    def _notice(self, name: str, value: str) -> None:
        self.seen.setdefault(name, Counter())[value] += 1

    def reject(self, reason: str, where: str, detail: str, text: str, size: int) -> None:
        """Count one rejected document of so many bytes; the first ones of a reason are kept as examples."""
        self.rejected[reason] += 1
        self.rejected_bytes[reason] += size
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append({"where": where, "detail": detail, "text": text[:80]})

    def change(self, found: Counter[str]) -> None:
        """Count what cleaning changed in one document, by rule."""
        if found:
            self.changed.update(found)
            self.changed_documents.update(found.keys())

    def bad_file(self, line: str) -> None:
        """Count one file that could not be read to its end."""
        self.bad_files_count += 1
        if len(self.bad_files) < FILES_NAMED:
            self.bad_files.append(line)

    def merge(self, other: Tally) -> None:
        """Add another account to this one."""
        for name in ("read", "kept", "train", "heldout"):
            amount: Amount = getattr(other, name)
            getattr(self, name).add(amount.bytes, amount.chars, amount.han, amount.documents)
        self.rejected.update(other.rejected)
        self.rejected_bytes.update(other.rejected_bytes)
        self.changed.update(other.changed)
        self.changed_documents.update(other.changed_documents)
        self.changes.merge(other.changes.as_list())
        for name, counts in other.seen.items():
            self.seen.setdefault(name, Counter()).update(counts)
        for reason, shown in other.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine.extend(shown[: EXAMPLES - len(mine)])
        self.bad_files.extend(other.bad_files[: FILES_NAMED - len(self.bad_files)])
        self.bad_files_count += other.bad_files_count

    def as_dict(self) -> dict[str, Any]:
        """For stats.json and the tasks' own records."""
        return {
            "read": self.read.as_dict(),
            "kept": self.kept.as_dict(),
            "train": self.train.as_dict(),
            "heldout": self.heldout.as_dict(),
            "rejected": dict(sorted(self.rejected.items())),
            "rejected_bytes": dict(sorted(self.rejected_bytes.items())),
            "seen": {name: dict(sorted(counts.items())) for name, counts in sorted(self.seen.items())},
            "examples": dict(sorted(self.examples.items())),
            "changed": dict(sorted(self.changed.items())),
            "changed_documents": dict(sorted(self.changed_documents.items())),
            "changes": self.changes.as_list(),
            "bad_files": self.bad_files,
            "bad_files_count": self.bad_files_count,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Tally:
        """The inverse of `as_dict`."""
        amounts = {name: Amount(**value[name]) for name in ("read", "kept", "train", "heldout")}
        changes = Changes()
        changes.merge(value["changes"])
        return cls(
            **amounts,
            rejected=Counter(value["rejected"]),
            rejected_bytes=Counter(value["rejected_bytes"]),
            seen={name: Counter(counts) for name, counts in value["seen"].items()},
            examples=value["examples"],
            changed=Counter(value["changed"]),
            changed_documents=Counter(value["changed_documents"]),
            changes=changes,
            bad_files=value["bad_files"],
            bad_files_count=value["bad_files_count"],
        )
