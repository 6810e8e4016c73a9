"""Exporting from the page: `hanmo convert gguf` in a process of its own, its result a stage beside the model's.

One at a time: a conversion takes the memory of a model. What went wrong is the line that the command printed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hanmo.convert.settings import FORMATS
from hanmo.errors import HanmoError, nearest
from hanmo.studio.shelf import SELF, Shelf


@dataclass
class _Export:
    out: Path
    process: subprocess.Popen[bytes]
    told: IO[bytes]


class Exports:
    """The exports that this server was asked for."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._begun: dict[tuple[str, str], _Export] = {}

    def begin(self, run: str, stage: str, form: Any) -> dict[str, Any]:
        """Start one.

        Raises:
            HanmoError: no such format, no model there, or another export is at work.
        """
        if not isinstance(form, str) or form not in FORMATS:
            raise HanmoError(f"format: '{form}' is none of {', '.join(FORMATS)}{nearest(str(form), FORMATS)}")
        model = self._shelf.showing(run, stage, "model")
        with self._lock:
            busy = next((one for one in self._begun.values() if one.process.poll() is None), None)
            if busy is not None:
                raise HanmoError(f"{busy.out.name} is being made; one at a time, try again when it is done")
            home = self._shelf.root if run == SELF else model.parent
            out = home / f"{stage}-{form}"
            told = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process is asked about)
            process = subprocess.Popen(command(model, out, form), stdout=subprocess.DEVNULL, stderr=told)
            self._begun[run, stage] = _Export(out, process, told)
        return self.state(run, stage)

    def state(self, run: str, stage: str) -> dict[str, Any]:
        """{formats, state, stage, fault} of the last one: its state is "none", "working", "done" or "failed"."""
        formats = list(FORMATS)
        begun = self._begun.get((run, stage))
        if begun is None:
            return {"formats": formats, "state": "none"}
        status = begun.process.poll()
        state = "working" if status is None else "failed" if status else "done"
        fault = _last(begun.told) if state == "failed" else ""
        return {"formats": formats, "state": state, "stage": begun.out.name, "fault": fault}

    def close(self) -> None:
        """Stop what is at work; the same export goes on from there or begins anew."""
        for begun in self._begun.values():
            if begun.process.poll() is None:
                begun.process.terminate()
                begun.process.wait()
            begun.told.close()


def command(model: Path, out: Path, form: str) -> list[str]:
    """What is run for an export."""
    convert = [sys.executable, "-m", "hanmo", "convert", "gguf"]
    return [*convert, "--model", str(model), "--out", str(out), "--formats", form]


def _last(told: IO[bytes]) -> str:
    """The last line that a command printed."""
    told.seek(0)
    lines = [line for line in told.read().decode("utf-8", "replace").splitlines() if line.strip()]
    faults = [line for line in lines if line.startswith("error: ")]
    return (faults or lines or ["it ended without a word"])[-1].removeprefix("error: ")
