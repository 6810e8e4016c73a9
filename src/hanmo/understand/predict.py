"""Answering files with a tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.models.folder import resolve
from hanmo.posttrain.training import quiet
from hanmo.understand.files import read_examples
from hanmo.understand.scoring import score
from hanmo.understand.settings import UnderstandSettings
from hanmo.understand.stage import RECORD, Tuner
from hanmo.understand.submit import write_submission
from hanmo.understand.tasks import task


def open_tuned(model: Path | str, device: str = "auto") -> Tuner:
    """A model that `hanmo understand train` made, ready to be asked.

    Raises:
        HanmoError: no such model there.
    """
    folder = resolve(model)
    if not (folder / RECORD).is_file():
        raise HanmoError(
            f"{folder}: not tuned on a task (no {RECORD} there); `hanmo understand train` makes such a model"
        )
    record = read_json(folder / RECORD)
    settings = UnderstandSettings(
        task=record["task"],
        method=record["method"],
        entities=record["entities"],
        # Folders without it are older than the mean.
        pooling=record.get("pooling", "cls"),
        max_length=record["max_length"],
        device=device,
    )
    if settings.method == "head":
        return Tuner(settings, task(settings.task), folder, record["labels"])
    from hanmo.understand.prompts import PromptTuner

    return PromptTuner(settings, task(settings.task), folder, record["labels"], record["names"])


def predict_file(model: Path | str, path: Path | str, out: Path | str, device: str = "auto") -> dict[str, Any]:
    """Write predictions for a file in the task's form; a faulty record stops it, since a submission must be whole.

    Returns:
        examples, and the score where the file has labels.

    Raises:
        HanmoError: an unusable model or file.
    """
    quiet()
    tuner = open_tuned(model, device)
    examples, _ = read_examples([Path(path)], tuner.task, "fail")
    found = tuner.predict(examples)
    write_submission(Path(out), tuner.task, examples, found)
    figures = score(tuner.task, len(tuner.labels), examples, found)
    return {"task": tuner.task.name, "examples": len(examples), **(figures or {})}
