"""Checkpoints that are whole or do not count.

A checkpoint is a folder `step-00000120/` with the fp32 weights, the optimisers' state and `state.json`, which holds the
step and a checksum of every file. It is written beside its name, flushed and moved over in one rename; on loading, one
whose checksums do not hold is passed over with a message for the one before.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.files import read_json, write_json
from hanmo.models.save import storage_errors


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
    """The checkpoints of one run, newest last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, model: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict[str, Any]) -> Path:
        """Write the checkpoint of `state["step"]`; an older one of the same step is replaced."""
        final = self.folder / f"step-{state['step']:08d}"
        temporary = self.folder / f".{final.name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            weights = {name: p.detach().contiguous() for name, p in model.named_parameters()}
            with storage_errors(final):
                save_file(weights, temporary / "model.safetensors")
                save_file(_flatten(optimizers), temporary / "optimizer.safetensors")
            checksums = {}
            for file in sorted(temporary.iterdir()):
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
                checksums[file.name] = _checksum(file)
            write_json(temporary / "state.json", {**state, "checksums": checksums})
            if final.exists():
                shutil.rmtree(final)
            temporary.replace(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return final

    def rotate(self, keep: int, also: int | None = None) -> None:
        """Remove all but the newest `keep` checkpoints and the one of step `also`."""
        for path in self._paths()[:-keep]:
            if also is None or path.name != f"step-{also:08d}":
                shutil.rmtree(path, ignore_errors=True)

    def newest(self, usable=lambda state: True) -> Checkpoint | None:
        """The newest checkpoint whose files are whole and whose state is `usable`, or None."""
        for leftover in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        for path in reversed(self._paths()):
            try:
                state = read_json(path / "state.json")
                torn = [name for name, value in state["checksums"].items() if _checksum(path / name) != value]
            except (HanmoError, OSError, KeyError, TypeError):
                torn = ["state.json"]
                state = {}
            if torn:
                console.print(f"[yellow]{path.name}: {torn[0]} is torn; going back to the checkpoint before[/]")
            elif usable(state):
                return Checkpoint(path, state)
        return None

    def load(self, checkpoint: Checkpoint, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        """Put a checkpoint's weights and optimiser state into the given objects."""
        weights = load_file(checkpoint.path / "model.safetensors")
        parameters = dict(model.named_parameters())
        if weights.keys() != parameters.keys():
            odd = sorted(weights.keys() ^ parameters.keys())
            raise HanmoError(f"{checkpoint.path}: other weights than the model's ({odd[0]}); use another --out")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        _unflatten(optimizers, load_file(checkpoint.path / "optimizer.safetensors"))

    def _paths(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir())


def _flatten(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Optimiser state as `{"<optimizer>.<parameter>.<name>": tensor}`."""
    flat = {}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                flat[f"{number}.{index}.{name}"] = value.detach().clone().contiguous()
    return flat


def _unflatten(optimizers: list[torch.optim.Optimizer], flat: dict[str, Tensor]) -> None:
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            which, index, name = key.split(".", 2)
            if int(which) == number:
                state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
