"""The answers of a long batch on disk: they are kept as they come, and appear under their name when all are there.

Until then they lie in `NAME.partial`, whose first line says what they are answers to; the same work, started again,
goes on behind them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.files import atomic_write


class Results:
    """A .jsonl file being made, batch by batch; see the module.

    Args:
        path: the file; what stands there is replaced when all is done.
        key: of all that the answers depend on.
        total: records that it will have.
        batch: records that are added at a time (fewer at the end). A torn batch is not gone on with: its answers were
            computed together.

    Attributes:
        done: the records that were there.
    """

    def __init__(self, path: Path, key: str, total: int, batch: int) -> None:
        if path.is_dir():
            raise HanmoError(f"{path}: a folder stands where a file is wanted; choose another path")
        self._path, self._total = path, total
        self._partial = path.with_name(f"{path.name}.partial")
        self._head = orjson.dumps({"key": key, "batch": batch}, option=orjson.OPT_APPEND_NEWLINE)
        self.done, lines = self._read(total, batch)
        self._count = len(self.done)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._count == 0:
            self._partial.write_bytes(self._head)
        else:
            os.truncate(self._partial, sum(map(len, lines)))
            console.print(f"{self._partial}: goes on behind {self._count} of {total} answers", markup=False)
        self._file = self._partial.open("ab")

    def _read(self, total: int, batch: int) -> tuple[list[dict[str, Any]], list[bytes]]:
        """The records of whole batches, and the lines of the file up to their end."""
        if not self._partial.is_file():
            return [], []
        lines = self._partial.read_bytes().splitlines(keepends=True)
        if not lines or lines[0] != self._head:
            console.print(f"{self._partial}: of other prompts, model or settings; begins anew", markup=False)
            return [], []
        found = []
        for line in lines[1:]:
            if not line.endswith(b"\n"):
                break  # the process was killed while it wrote
            found.append(orjson.loads(line))
        whole = total if len(found) == total else len(found) // batch * batch
        return found[:whole], lines[: whole + 1]

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Keep the records of a batch."""
        self._file.write(b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in records))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._count += len(records)

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is not None:
            if self._count == 0:
                self._partial.unlink()
            else:
                console.print(
                    f"{self._partial}: has {self._count} of {self._total} answers; the same command goes on with it",
                    markup=False,
                )
            return
        with self._partial.open("rb") as source, atomic_write(self._path, "wb") as whole:
            source.readline()
            whole.writelines(source)
        self._partial.unlink()
