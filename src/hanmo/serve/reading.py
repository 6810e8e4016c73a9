"""The endpoints of models that read: vectors of texts, masks, classes, entities."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from hanmo.serve.engines.base import Engine, Unable
from hanmo.serve.journal import note
from hanmo.serve.metrics import Metrics
from hanmo.serve.models import Models
from hanmo.serve.reader import Reader
from hanmo.serve.schemas import (
    ClassifyRequest,
    EmbeddingRequest,
    EntitiesRequest,
    FillRequest,
    listed,
)
from hanmo.serve.schemas import (
    Request as Asked,
)
from hanmo.serve.wire import unless_gone
from hanmo.serve.worker import Busy, Call


class Reading:
    """Adds the endpoints to `app`; see `create_app`."""

    def __init__(self, app: FastAPI, models: Models, metrics: Metrics, patience: float) -> None:
        self._models, self._metrics, self._patience = models, metrics, patience
        app.post("/v1/embeddings", response_model=None)(self.embed)
        app.post("/v1/fill-mask", response_model=None)(self.fill)
        app.post("/v1/classify", response_model=None)(self.classify)
        app.post("/v1/entities", response_model=None)(self.entities)

    async def embed(self, body: EmbeddingRequest, request: Request) -> Response:
        """A vector of length 1 for each text."""
        texts = listed(body.input)

        def work(model: Any) -> dict[str, Any]:
            vectors, tokens = model.embed(texts, body.pooling or "mean")
            data = [
                {"object": "embedding", "index": index, "embedding": _coded(vector, body.encoding_format)}
                for index, vector in enumerate(vectors)
            ]
            return {"object": "list", "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}

        return await self._ask(body, request, work, writers=True)

    async def fill(self, body: FillRequest, request: Request) -> Response:
        """The likeliest tokens in place of each mask of each text."""
        texts = listed(body.input)
        return await self._ask(body, request, lambda model: _list(model.fill(texts, body.top or 5)))

    async def classify(self, body: ClassifyRequest, request: Request) -> Response:
        """A label for each text or pair of texts."""
        texts = [(text,) if isinstance(text, str) else tuple(text) for text in listed(body.input)]
        return await self._ask(body, request, lambda model: _list(model.classify(texts)))

    async def entities(self, body: EntitiesRequest, request: Request) -> Response:
        """The entities in each text, with their places in characters."""
        texts = listed(body.input)
        return await self._ask(
            body, request, lambda model: _list([{"entities": found} for found in model.entities(texts)])
        )

    async def _ask(
        self, body: Asked, request: Request, work: Callable[[Any], dict[str, Any]], writers: bool = False
    ) -> Response:
        entry = self._models.find(body.model)
        worker = await self._models.take(entry)
        try:
            model = worker.engine
            if not isinstance(model, Reader) and not (writers and isinstance(model, Engine)):
                raise Unable(f"{entry.name}: writes, and answers chat and completions")
            call = Call(lambda: work(model))
            worker.submit(call)

            async def found() -> dict[str, Any]:
                async with asyncio.timeout(self._patience):
                    async for _, result in worker.answers(call):
                        return result
                    raise Busy("the server is stopping")

            try:
                whole = await unless_gone(request.receive, found())
            finally:
                worker.cancel(call)
            note(request)["model"] = entry.name
            if whole is None:
                return Response(status_code=499)
            self._metrics.answered(entry.name, read=whole.get("usage", {}).get("prompt_tokens", 0))
            return JSONResponse({"model": entry.name, **whole})
        finally:
            self._models.give(entry)


def _list(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": [{"index": index, **one} for index, one in enumerate(found)]}


def _coded(vector: list[float], form: str | None) -> list[float] | str:
    """A vector as numbers, or as OpenAI's clients ask for it: the bytes of its float32, in base64."""
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode() if form == "base64" else vector
