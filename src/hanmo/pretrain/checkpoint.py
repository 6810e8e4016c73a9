"""Checkpoints that are whole or do not count, written while the training goes on.

A checkpoint is a folder `step-00000120/` in the format of `torch.distributed.checkpoint`: every process has written the
parts of the tensors that it holds, and any number of processes can read them again. `state.json` beside them holds the
step and a checksum of every file. The tensors are copied when the checkpoint is due, and a thread writes the copies
under another name, flushes them and moves the folder over in one rename. On loading, a checkpoint whose checksums do
not hold is passed over with a message for the one before. Where the disk is full the training goes on, and the last
good checkpoint stays.
"""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import xxhash
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, FileSystemReader, FileSystemWriter

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.files import read_json, write_json
from hanmo.pretrain.distributed import World

# Without a group of processes torch says at every checkpoint that it takes this for a single one; it is.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")

#: Of the files and of the names of tensors in them; others are refused.
FORMAT = 2
#: The commonest reason why a checkpoint cannot be written.
FULL = "the disk is full"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder and what its `state.json` says."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps that had been made."""
        return int(self.state["step"])


class CheckpointStore:
    """The checkpoints of one run, newest last. All processes of the run make the same calls in the same order.

    Args:
        folder: which all of them see.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: Path, world: World, keep: int = 2) -> None:
        self.folder, self.world, self.keep = folder, world, keep
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[str] | None = None

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any], also: Collection[int] = ()) -> None:
        """Copy the tensors and have the checkpoint of `state["step"]` written; waits for the one before, if need be.

        Args:
            tensors: by name. What is a plain tensor is the same in all processes that have it.
            also: steps whose checkpoints are kept when newer ones come.
        """
        self.wait()
        temporary = self.folder / f".{self._name(state['step'])}.tmp"
        files = FileSystemWriter(temporary)
        copied = files.stage({name: tensor.detach() for name, tensor in tensors.items()})
        self._writing = self._writer.submit(self._write, files, copied, {**state, "format": FORMAT}, temporary, also)

    def wait(self) -> str:
        """Wait for what is being written; returns why it could not be, or an empty string."""
        return self._writing.result() if self._writing else ""

    def _write(
        self,
        files: FileSystemWriter,
        tensors: dict[str, Any],
        state: dict[str, Any],
        temporary: Path,
        also: Collection[int],
    ) -> str:
        """Write, check, move, in the thread; the same outcome in all processes."""
        final = self.folder / self._name(state["step"])

        def begin() -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

        def checked() -> dict[str, str]:
            mine = {path.name: path for path in temporary.glob(f"__{self.world.rank}_*")}
            if self.world.first:
                mine[".metadata"] = temporary / ".metadata"
            return {name: checksum(path) for name, path in sorted(mine.items())}

        def commit() -> None:
            sums = {name: value for part in parts for name, value in part.items()}
            write_json(temporary / "state.json", {**state, "checksums": sums})
            if final.exists():
                shutil.rmtree(final)
            temporary.replace(final)
            if os.name == "posix":  # the rename itself must reach the disk before older ones are removed
                handle = os.open(self.folder, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)
            self._rotate(also)

        try:
            self.world.agreed(begin, files=True)
            dcp.save(tensors, storage_writer=files, process_group=self.world.files, no_dist=self.world.size == 1)
            parts = self.world.gathered(checked, files=True)
            self.world.agreed(commit, files=True)
        except (Exception, CheckpointException) as error:  # the latter is no Exception
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            why = self._why(error, size)
            if self.world.first:
                shutil.rmtree(temporary, ignore_errors=True)
                console.print(f"[yellow]step {state['step']}: no checkpoint could be written ({why})[/]")
            return why
        return ""

    def _why(self, error: BaseException, size: int) -> str:
        """The reason in a few words: of the operating system where it gave one."""
        causes = [error]
        if isinstance(error, CheckpointException):
            causes = [caught for caught, *_ in error.failures.values()]
        for cause in causes:
            if isinstance(cause, OSError) and cause.strerror:
                return FULL if cause.errno == errno.ENOSPC else cause.strerror
        # torch's own writer has no errno; a folder that has no room for as much again is full.
        if self.folder.exists() and shutil.disk_usage(self.folder).free < size:
            return FULL
        return " ".join(str(causes[0]).split())[:200] or type(causes[0]).__name__

    def _rotate(self, also: Collection[int]) -> None:
        """Remove all but the newest checkpoints and those of the steps `also`."""
        named = {self._name(step) for step in also}
        for path in self._paths()[: -self.keep]:
            if path.name not in named:
                shutil.rmtree(path, ignore_errors=True)

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints of steps after `step`: the run went back and will come to them in another way."""

        def drop() -> None:
            for path in self._paths():
                if path.name > self._name(step):
                    shutil.rmtree(path, ignore_errors=True)

        self.wait()
        self.world.agreed(drop)

    def begun(self) -> dict[str, Any] | None:
        """What the newest readable state.json says, its files unchecked: for what all checkpoints of a run share."""
        for path in reversed(self._paths()):
            state, _ = self._state(path, lambda state: True)
            if state is not None:
                return state
        return None

    def newest(self, usable: Callable[[dict[str, Any]], bool] = lambda state: True) -> Checkpoint | None:
        """The newest checkpoint whose files are whole and whose state is `usable`, or None; the same in all processes.

        Raises:
            HanmoError: an earlier version wrote it.
        """

        def candidates() -> list[str]:
            for leftover in self.folder.glob(".step-*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            return [path.name for path in reversed(self._paths())]

        for name in self.world.agreed(candidates):
            path = self.folder / name
            state, torn = self.world.agreed(lambda path=path: self._state(path, usable))
            if state is not None:
                sums = sorted(state["checksums"].items())[self.world.rank :: self.world.size]
                found = self.world.gathered(
                    lambda path=path, sums=sums: [n for n, s in sums if checksum(path / n) != s]
                )
                torn = [name for part in found for name in part]
                if not torn:
                    return Checkpoint(path, state)
            if torn and self.world.first:
                console.print(f"[yellow]{name}: {torn[0]} is torn; going back to the checkpoint before[/]")
        return None

    def _state(self, path: Path, usable: Callable[[dict[str, Any]], bool]) -> tuple[dict[str, Any] | None, list[str]]:
        """(what state.json says, or None where it does not serve; the torn file, if any)."""
        try:
            state = read_json(path / "state.json")
            form = state.get("format", 1)
            _ = state["checksums"], state["step"]
        except (HanmoError, OSError, KeyError, TypeError, AttributeError):
            return None, ["state.json"]
        if form != FORMAT:
            raise HanmoError(f"{path}: another version of hanmo wrote this checkpoint; give another --out")
        return (state if usable(state) else None), []

    def load(self, checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
        """Put a checkpoint's values into the given tensors; they may be cut otherwise than when they were written.

        Raises:
            HanmoError: it holds other tensors.
        """
        reader = FileSystemReader(checkpoint.path)
        known = reader.read_metadata().state_dict_metadata
        odd = {name for name, t in tensors.items() if getattr(known.get(name), "size", None) != t.shape}
        odd |= {name for name in known if name.startswith("model.") and name not in tensors}
        if odd:
            raise HanmoError(f"{checkpoint.path}: other weights than the model's ({min(odd)}); use another --out")
        values: dict[str, Any] = {name: tensor.detach() for name, tensor in tensors.items()}
        try:
            with torch.no_grad():
                dcp.load(values, storage_reader=reader, process_group=self.world.files, no_dist=self.world.size == 1)
        except CheckpointException as error:
            raise HanmoError(f"{checkpoint.path}: it cannot be read ({self._why(error, 0)})") from None

    def close(self) -> None:
        """End the thread, once it has written what it has."""
        self._writer.shutdown(wait=True)

    @staticmethod
    def _name(step: int) -> str:
        return f"step-{step:08d}"

    def _paths(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir())


def checksum(path: Path) -> str:
    """xxh3 of a file's bytes; empty where there is no such file."""
    digest = xxhash.xxh3_64()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()
