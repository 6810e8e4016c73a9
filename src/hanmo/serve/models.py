"""The models of one server: loaded when they are asked for, and unloaded when others need their place.

At most `most` of them are in memory. When another one is asked for, the one that was least recently used goes, once
nobody waits for it. Every loaded model has a worker of its own, so that they answer beside each other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hanmo.errors import HanmoError, nearest
from hanmo.models import hub
from hanmo.models.families import objective_of
from hanmo.models.folder import is_encoder_decoder, resolve, title
from hanmo.serve.worker import Busy, Served, Worker
from hanmo.understand.tasks import RECORD

Kind = Literal["writer", "encoder", "tuned"]


class Unknown(HanmoError):
    """No such model on this server."""


class Unloadable(HanmoError):
    """A model of this server cannot be loaded."""


@dataclass
class Entry:
    """A model that may be asked for."""

    name: str
    kind: Kind
    open: Callable[[], Served]
    worker: Worker | None = None
    users: int = 0
    used: float = 0.0


class Models:
    """See the module.

    Args:
        entries: the models; a request that names none gets the first.
        most: so many are in memory at once; 0 is no limit.
        waiting: see `Worker`.
    """

    def __init__(self, entries: Sequence[Entry], *, most: int = 0, waiting: int = 16) -> None:
        if not entries:
            raise HanmoError("no model to serve: name at least one")
        self.entries: dict[str, Entry] = {}
        for entry in entries:
            if entry.name in self.entries:
                raise HanmoError(
                    f"two models would be called '{entry.name}'; give them names, such as {entry.name}2=PATH"
                )
            self.entries[entry.name] = entry
        self._most, self._waiting = most, waiting
        # One at a time is loaded: two would need the memory of three.
        self._loading = asyncio.Lock()
        self.started = int(time.time())
        self.loads = self.unloads = 0

    @classmethod
    def holding(cls, engine: Served, waiting: int = 16) -> Models:
        """A server's models where there is one, which is loaded already."""
        models = cls([Entry(engine.name, "writer", lambda: engine)], waiting=waiting)
        models.load_first()
        return models

    def load_first(self) -> Served:
        """Load the first model, before there are requests."""
        entry = next(iter(self.entries.values()))
        entry.worker = Worker(entry.open(), self._waiting)
        self.loads += 1
        return entry.worker.engine

    def find(self, name: str | None) -> Entry:
        """The entry of a name; None: the first.

        Raises:
            Unknown: there is no such model.
        """
        if name is None:
            return next(iter(self.entries.values()))
        if name not in self.entries:
            here = ", ".join(f"'{one}'" for one in self.entries)
            raise Unknown(
                f"the model '{name}' does not exist here{nearest(name, self.entries)}; this server has {here}"
            )
        return self.entries[name]

    async def take(self, entry: Entry) -> Worker:
        """The worker of a model, which is loaded if it must be, and stays until it is given back.

        Raises:
            Busy: as many models as may be in memory are at work.
            Unloadable: it cannot be loaded.
        """
        entry.users += 1
        try:
            async with self._loading:
                if entry.worker is None:
                    await self._load(entry)
            assert entry.worker is not None
            return entry.worker
        except BaseException:
            self.give(entry)
            raise

    def give(self, entry: Entry) -> None:
        """Give back what was taken."""
        entry.users -= 1
        entry.used = time.monotonic()

    async def _load(self, entry: Entry) -> None:
        loaded = [one for one in self.entries.values() if one.worker is not None]
        if self._most and len(loaded) >= self._most:
            idle = [one for one in loaded if not one.users]
            if not idle:
                raise Busy(f"{len(loaded)} models are in memory and at work, no more may be; try again later")
            await self._unload(min(idle, key=lambda one: one.used))
        try:
            engine = await asyncio.to_thread(entry.open)
        except Exception as error:
            raise Unloadable(f"{entry.name} cannot be loaded: {error}") from error
        entry.worker = Worker(engine, self._waiting)
        self.loads += 1

    async def _unload(self, entry: Entry) -> None:
        worker, entry.worker = entry.worker, None
        assert worker is not None
        await asyncio.to_thread(worker.close)
        self.unloads += 1

    async def close(self) -> None:
        """Unload all; answers in progress are cancelled."""
        for entry in self.entries.values():
            if entry.worker is not None:
                await self._unload(entry)

    @property
    def workers(self) -> dict[str, Worker]:
        """The loaded ones, by name."""
        return {name: entry.worker for name, entry in self.entries.items() if entry.worker is not None}


def named(given: str) -> tuple[str, Path]:
    """(name, path) of `PATH` or `NAME=PATH`; a path may be a name on a hub, and is where that model lies then."""
    name, sign, path = given.partition("=")
    if sign and name and "/" not in name and "\\" not in name and not Path(given).exists():
        return name, hub.local(path)
    found = hub.local(given)
    return title(found), found


def kind_of(path: Path) -> Kind:
    """What a model does.

    Raises:
        HanmoError: there is none.
    """
    if path.suffix.lower() == ".gguf" or (path.is_dir() and sorted(path.glob("*.gguf"))) or is_encoder_decoder(path):
        return "writer"
    folder = resolve(path)
    if (folder / RECORD).is_file():
        return "tuned"
    return "encoder" if objective_of(folder) == "masked" else "writer"
