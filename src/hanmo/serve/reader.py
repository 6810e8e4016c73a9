"""What a reader is: a model that reads and does not write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanmo.models.folder import title
from hanmo.serve.engines.base import Unable


class Reader:
    """What readers have in common: they are asked one thing at a time, and what one cannot do is said.

    Attributes:
        name: what the model is called towards users.
        abilities: the endpoints that it answers.
    """

    parallel = 1
    ready = True
    abilities: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.name = title(path)

    def embed(self, texts: Sequence[str], pooling: str) -> tuple[list[list[float]], int]:
        """See `Engine.embed`."""
        raise self._unable("gives no embeddings")

    def fill(self, texts: Sequence[str], top: int) -> list[dict[str, Any]]:
        """See `hanmo.models.fill.fill`."""
        raise self._unable("does not fill masks")

    def classify(self, texts: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
        """{"label", "name": in words or None, "probabilities": by label, None where the method has none} of each."""
        raise self._unable("was not tuned to classify")

    def entities(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """{"type", "text", "start", "end" (behind the last character)} of each entity of each text."""
        raise self._unable("was not tuned to find entities")

    def _unable(self, what: str) -> Unable:
        return Unable(f"{self.name}: {what}; it answers {', '.join(self.abilities)}")

    def close(self) -> None:
        """Free the model's memory."""
