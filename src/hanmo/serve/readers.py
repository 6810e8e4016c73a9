"""The readers there are: encoders that fill masks and give vectors, and models tuned on a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hanmo.errors import HanmoError
from hanmo.models.fill import Filler
from hanmo.posttrain.training import quiet
from hanmo.serve.engines.transformers import device_of
from hanmo.serve.pooling import pooled
from hanmo.serve.reader import Reader
from hanmo.understand.forms import Example
from hanmo.understand.heads import ClassHead
from hanmo.understand.predict import open_tuned

#: Texts computed together.
_BATCH = 16


class EncoderReader(Reader):
    """An encoder that learned to fill masks. See `open_engine` for the arguments."""

    abilities = ("embeddings", "fill-mask")

    def __init__(self, path: Path, *, device: str) -> None:
        super().__init__(path)
        self._filler = Filler(path, device=str(device_of(device)))

    def embed(self, texts: Sequence[str], pooling: str) -> tuple[list[list[float]], int]:
        return pooled(self._filler.network, self._filler.tokenizer, texts, pooling)

    def fill(self, texts: Sequence[str], top: int) -> list[dict[str, Any]]:
        return list(self._filler(texts, top))

    def close(self) -> None:
        del self._filler


class TunedReader(Reader):
    """A model that `hanmo understand train` made, for classes or entities."""

    def __init__(self, path: Path, *, device: str) -> None:
        super().__init__(path)
        quiet()
        self._tuner = open_tuned(path, device)
        kind = self._tuner.task.head
        if kind not in ("class", "entities"):
            raise HanmoError(
                f"{path}: tuned on {self._tuner.task.name}, whose questions have no endpoint; "
                "`hanmo understand predict` answers files of them"
            )
        self.abilities = ("classify",) if kind == "class" else ("entities",)

    @torch.no_grad()
    def classify(self, texts: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
        tuner = self._tuner
        if tuner.task.head != "class":
            return super().classify(texts)
        wanted = max(1, len(tuner.task.fields))
        for number, parts in enumerate(texts):
            if len(parts) != wanted:
                raise HanmoError(
                    f"input.{number}: {tuner.task.name} takes {'pairs of' if wanted == 2 else 'single'} texts"
                )
        examples = [Example(None, parts, None, f"input.{number}") for number, parts in enumerate(texts)]
        if not isinstance(tuner.head, ClassHead):
            return [self._class(label, None) for label in tuner.predict(examples)]
        rows = [unit[0] for unit in tuner.head.units(examples, tuner.rows, False)]
        found = []
        for start in range(0, len(rows), _BATCH):
            batch = tuner.rows.batch(rows[start : start + _BATCH])
            with tuner.autocast():
                logits = tuner.model(**{name: value.to(tuner.device) for name, value in batch.items()}).logits
            for chances in logits.float().softmax(-1).tolist():
                by_label = dict(zip(tuner.labels, chances, strict=True))
                found.append(self._class(max(by_label, key=by_label.__getitem__), by_label))
        return found

    def _class(self, label: str, chances: dict[str, float] | None) -> dict[str, Any]:
        return {"label": label, "name": self._tuner.names.get(label), "probabilities": chances}

    def entities(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        tuner = self._tuner
        if tuner.task.head != "entities":
            return super().entities(texts)
        examples = [Example(None, (text,), None, f"input.{number}") for number, text in enumerate(texts)]
        return [
            [{"type": kind, "text": text[start:end], "start": start, "end": end} for start, end, kind in sorted(found)]
            for text, found in zip(texts, tuner.predict(examples), strict=True)
        ]

    def close(self) -> None:
        del self._tuner
