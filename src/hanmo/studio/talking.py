"""The models of the runs, to talk to: OpenAI's endpoints of `hanmo.serve`, over whatever is there just now.

A model is named `RUN/STAGE`, or `RUN/STAGE/FILE` where a stage made several .gguf files. It is loaded when it is first
asked for; with more than the server may hold, the one least recently used goes. One that was trained anew meanwhile is
loaded anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanmo.serve.guard import App, Receive, Scope, Send
from hanmo.studio.shelf import Missing, Shelf

if TYPE_CHECKING:
    from hanmo.serve.models import Models

#: Models in memory at once: two are compared side by side.
LOADED = 2
#: Requests that may wait for each.
_WAITING = 8


class Talking:
    """The ASGI application of the models; imports torch and the like with the first request and not before.

    Args:
        shelf: the runs.
        device, threads, context: see `hanmo.serve.engines.open_engine`.
    """

    def __init__(
        self, shelf: Shelf, *, device: str = "auto", threads: int | None = None, context: int | None = None
    ) -> None:
        self._shelf = shelf
        self._options = {"device": device, "threads": threads, "context": context}
        self._models: Models | None = None
        self._app: App | None = None
        self._marks: dict[str, int] = {}
        self._lock = asyncio.Lock()

    def all(self) -> list[dict[str, Any]]:
        """{id, name, run, stage, chats} of the models that write, the newest run's first, stages in their order.

        `chats` says whether one was tuned to answer.
        """
        runs = self._shelf.runs()
        order = {
            (run["id"], s["id"]): (at, place) for at, run in enumerate(runs) for place, s in enumerate(run["stages"])
        }
        found = sorted(self._places(), key=lambda item: order.get((item[1], item[2].name), (len(runs), 0)))
        return [
            {
                "id": name,
                "name": "/".join((self._shelf.title(run), *name.split("/")[1:])),
                "run": run,
                "stage": folder.name,
                "chats": self._learnt(run, folder) not in ("pretrain", "import", None),
            }
            for name, run, folder, _ in found
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request under /v1 that is about models."""
        async with self._lock:
            app = await self._ready()
        await app(scope, receive, send)

    async def close(self) -> None:
        """Unload all."""
        if self._models is not None:
            await self._models.close()

    async def _ready(self) -> App:
        """The application, with an entry for each model that is there now."""
        places = await asyncio.to_thread(lambda: list(self._places()))
        if not places:
            raise Missing("no model here yet; one that writes appears when its stage is done")
        marks = {name: _mark(path) for name, _, _, path in places}
        if self._app is None or self._models is None:
            self._models, self._app = await asyncio.to_thread(self._build, places)
        entries = self._models.entries
        for name, _, _, path in places:
            entries.setdefault(name, self._entry(name, path))
        for name, entry in list(entries.items()):
            if marks.get(name) == self._marks.get(name) or entry.users:
                continue
            if entry.worker is not None:
                worker, entry.worker = entry.worker, None
                await asyncio.to_thread(worker.close)
            if name not in marks:
                del entries[name]
        self._marks = marks
        return self._app

    def _build(self, places: list[tuple[str, str, Path, Path]]) -> tuple[Models, App]:
        from hanmo.serve.api import create_app
        from hanmo.serve.models import Models

        models = Models([self._entry(name, path) for name, _, _, path in places], most=LOADED, waiting=_WAITING)
        return models, create_app(models)  # type: ignore[return-value]

    def _entry(self, name: str, path: Path) -> Any:
        from hanmo.serve.models import Entry

        return Entry(name, "writer", self._opener(name, path))

    def _opener(self, name: str, path: Path) -> Callable[[], Any]:
        def load() -> Any:
            from hanmo.serve import engines

            opened = engines.open_engine(path, **self._options)
            opened.name = name
            return opened

        return load

    def _places(self) -> Iterator[tuple[str, str, Path, Path]]:
        """(name, run, stage's folder, what to open) of the models that write."""
        for run, folder in self._shelf.all_stages():
            if not (folder / "manifest.json").is_file():
                continue
            if self._shelf.holds(folder, "model") and self._writes(folder / "model"):
                yield f"{run}/{folder.name}", run, folder, folder
            for file in sorted(folder.glob("*.gguf")):
                if file.is_file() and self._shelf.inside(file):
                    yield f"{run}/{folder.name}/{file.name}", run, folder, file

    def _writes(self, model: Path) -> bool:
        """Whether a model writes from left to right or the other way, by its class; not what fills, reads or judges."""
        config = self._shelf.json(model / "config.json")
        if not isinstance(config, dict) or config.get("is_encoder_decoder"):
            return False
        names = " ".join(map(str, config.get("architectures") or ()))
        others = ("Classification", "MaskedLM", "QuestionAnswering", "ForPreTraining")
        return bool(names) and not any(other in names for other in others)

    def _learnt(self, run: str, folder: Path) -> str | None:
        """What the weights learnt last: the kind of the stage, or of that which a conversion read."""
        for _ in range(8):
            said = self._shelf.json(folder / "manifest.json")
            if not isinstance(said, dict) or said.get("do") != "convert":
                return said.get("do") if isinstance(said, dict) else None
            inputs = [Path(path).name for path in (said.get("inputs") or {}).get("model", [])]
            try:
                folder = self._shelf.folder(run, inputs[0] if inputs else "")
            except Missing:
                return None
        return None


def _mark(path: Path) -> int:
    """When a model was written."""
    file = path if path.is_file() else path / "manifest.json"
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
