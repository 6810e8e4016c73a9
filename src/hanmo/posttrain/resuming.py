"""Checkpoints of a training under TRL's trainers: a killed run goes on from its last one and ends at the same weights.

A checkpoint is a folder `step-N`: the weights that are trained (an adapter's alone, where there is one), the optimiser,
the schedule, the generators' states, transformers' own account of the training, and the log so far. It is written whole
or not at all, right behind a line of the log, so that figures averaged between two lines lose nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from transformers import Trainer

from hanmo.files import read_json, whole_folder, write_json

if TYPE_CHECKING:
    from hanmo.posttrain.reporting import Reporter

#: transformers' account of the training, by which a folder is known as a checkpoint.
_STATE = "trainer_state.json"
_WEIGHTS = "trained.safetensors"
_TOLD = "told.json"


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: gets them.
        seconds: between two of them.
        beside: writes what else belongs to the training's state into the folder of a checkpoint.
    """

    def __init__(self, folder: Path, seconds: float, beside: Callable[[Path], None] | None = None) -> None:
        self.folder, self.seconds, self.beside = folder, seconds, beside

    def last(self) -> Path | None:
        """The newest whole one; None where there is none."""
        whole = [path.parent for path in self.folder.glob(f"step-*/{_STATE}")]
        return max(whole, key=lambda path: int(path.name.removeprefix("step-")), default=None)

    def write(self, trainer: Trainer, reporter: Reporter) -> None:
        """Keep the training as it is now, and nothing older."""
        now = self.folder / f"step-{trainer.state.global_step}"
        with whole_folder(now, _STATE) as made:
            trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}  # type: ignore[union-attr]
            save_file({name: value.detach().contiguous() for name, value in trained.items()}, made / _WEIGHTS)
            trainer._save_optimizer_and_scheduler(str(made))
            trainer._save_rng_state(str(made))
            write_json(made / _TOLD, reporter.told())
            if self.beside:
                self.beside(made)
            trainer.state.save_to_json(str(made / _STATE))
        for path in self.folder.glob("*step-*"):
            if path != now:
                shutil.rmtree(path)


def load_trained(model: Any, checkpoint: str) -> None:
    """Put a checkpoint's weights into the model."""
    model.load_state_dict(load_file(Path(checkpoint) / _WEIGHTS, device=str(model.device)), strict=False)


def told_in(checkpoint: Path) -> dict[str, Any]:
    """What the reporter had told when the checkpoint was written."""
    return read_json(checkpoint / _TOLD)
