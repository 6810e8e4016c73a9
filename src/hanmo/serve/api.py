"""The server's application: OpenAI's endpoints and the chat page, over one engine.

Everything that takes time (encoding, computing) happens in threads; the event loop only passes messages on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from hanmo.errors import HanmoError
from hanmo.serve.engines.base import Engine, EngineDown
from hanmo.serve.guard import Guard, error_body
from hanmo.serve.prompt import PromptTooLong, fit_history
from hanmo.serve.sampling import Sampling, SamplingError
from hanmo.serve.schemas import ChatRequest, CompletionRequest, GenerationRequest
from hanmo.serve.wire import EventStream, Shape, event, unless_gone, usage
from hanmo.serve.worker import Busy, EngineFailure, Job, Worker

_log = logging.getLogger("hanmo.serve")
_PAGE = Path(__file__).parent / "page"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_BRANCHES = ("str", "list", "TextPart")
#: The page loads nothing from elsewhere, runs no inline script and cannot be framed.
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class ApiError(Exception):
    """An error for the client, in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = error_body(message, kind, code, param)

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return JSONResponse(self.body, self.status, headers={"retry-after": "1"} if self.status == 503 else None)


def create_app(
    engine: Engine,
    *,
    api_key: str | None = None,
    defaults: Sampling | None = None,
    waiting: int = 16,
    max_body: int = 1 << 20,
    only_loopback: bool = False,
) -> FastAPI:
    """The ASGI application that serves `engine`; it closes the engine when it shuts down.

    Args:
        engine: the model.
        api_key: clients must send it for everything under /v1.
        defaults: settings for what a request leaves out.
        waiting: requests that may wait behind the one being answered; more get status 503.
        max_body: bytes a request may have; larger ones get status 413.
        only_loopback: refuse requests under a host name that is not loopback's.
    """
    worker = Worker(engine, waiting)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close)

    # FastAPI's own documentation pages load scripts from elsewhere; the description at /openapi.json stays.
    app = FastAPI(title="Hanmo", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard, api_key=api_key, max_body=max_body, only_loopback=only_loopback)  # type: ignore[arg-type]
    app.state.worker = worker
    _add_errors(app)
    _add_page(app)
    _Endpoints(app, worker, defaults or Sampling())
    return app


class _Endpoints:
    def __init__(self, app: FastAPI, worker: Worker, defaults: Sampling) -> None:
        self._worker = worker
        self._engine = worker.engine
        self._defaults = defaults
        self._started = int(time.time())
        app.get("/health")(self.health)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}")(self.model)
        app.post("/v1/chat/completions", response_model=None)(self.chat)
        app.post("/v1/completions", response_model=None)(self.complete)

    async def health(self) -> JSONResponse:
        """Whether answers can be had, and how long the line is."""
        alive, ready = self._worker.alive, self._engine.ready
        body = {
            "status": "stopping" if not alive else "ok" if ready else "starting",
            "model": self._engine.name,
            "active": self._worker.active,
            "waiting": self._worker.waiting,
        }
        return JSONResponse(body, 200 if alive and ready else 503)

    async def models(self) -> dict[str, Any]:
        """The models that may be asked for."""
        return {"object": "list", "data": [self._describe()]}

    async def model(self, name: str) -> dict[str, Any]:
        """One model."""
        self._check_model(name)
        return self._describe()

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """The next turn of a conversation."""
        self._check_model(body.model)
        sampling = body.sampling(self._defaults)
        messages = [message.plain() for message in body.messages]
        if body.truncation == "auto":
            room = self._engine.context // 4
            reserve = min(room, sampling.max_tokens or room)
            fitted = await asyncio.to_thread(
                fit_history, messages, self._engine.encode_chat, self._engine.context, reserve
            )
            return await self._answer(body, request, [fitted[1]], sampling, {"dropped_messages": fitted[2]})
        prompt = await asyncio.to_thread(self._engine.encode_chat, messages)
        return await self._answer(body, request, [prompt], sampling, {})

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        """Text that goes on from the prompt."""
        self._check_model(body.model)
        sampling = body.sampling(self._defaults)
        prompts = [await asyncio.to_thread(self._encode, prompt) for prompt in body.prompts()]
        return await self._answer(body, request, prompts, sampling, {})

    def _encode(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._engine.encode(prompt)
        if self._engine.backward:
            raise ApiError(400, "prompt: this model writes from right to left; give text and not ids", param="prompt")
        if max(prompt) >= self._engine.vocab_size:
            raise ApiError(400, f"prompt: token ids must be below {self._engine.vocab_size}", param="prompt")
        return prompt

    async def _answer(
        self,
        body: GenerationRequest,
        request: Request,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        extra: dict[str, Any],
    ) -> Response:
        for prompt in prompts:
            self._engine.check_room(prompt)
        shape = Shape(self._engine.name, isinstance(body, ChatRequest), extra)
        job = Job(prompts, sampling, body.n or 1)
        self._worker.submit(job)
        if body.stream:
            return EventStream(self._events(job, shape, body.wants_usage), lambda: self._worker.cancel(job))
        try:
            whole = await unless_gone(request.receive, self._gather(job, shape))
        finally:
            self._worker.cancel(job)
        # 499 is what others log for a client that left; nobody is there to read it.
        return JSONResponse(whole) if whole is not None else Response(status_code=499)

    async def _gather(self, job: Job, shape: Shape) -> dict[str, Any]:
        number = len(job.prompts) * job.count
        texts, ends, tokens = [""] * number, [""] * number, [0] * number
        async for index, delta in self._worker.answers(job):
            texts[index] += delta.text
            tokens[index] = delta.tokens
            ends[index] = _reason(delta.finish) or ""
        return shape.whole(list(zip(texts, ends, strict=True)), _count(job, sum(tokens)))

    async def _events(self, job: Job, shape: Shape, wants_usage: bool) -> AsyncIterator[str]:
        tokens: dict[int, int] = {}
        try:
            async for index, delta in self._worker.answers(job):
                if index not in tokens and (opening := shape.opening(index)):
                    yield event(opening)
                tokens[index] = delta.tokens
                for chunk in shape.piece(index, delta.text, _reason(delta.finish)):
                    yield event(chunk)
            if wants_usage:
                yield event(shape.counted(_count(job, sum(tokens.values()))))
            yield event("[DONE]")
        except Exception as error:
            # The status line is long gone; OpenAI's clients raise what they find under "error".
            if not isinstance(error, HanmoError):
                _log.error("an answer failed", exc_info=error)
            yield event(_to_api_error(error).body)

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self._engine.name:
            raise ApiError(
                404, f"the model '{name}' does not exist here; this server has '{self._engine.name}'", "model_not_found"
            )

    def _describe(self) -> dict[str, Any]:
        return {
            "id": self._engine.name,
            "object": "model",
            "created": self._started,
            "owned_by": "hanmo",
            "context_length": self._engine.context,
            "can_chat": self._engine.can_chat,
        }


def _count(job: Job, completion: int) -> dict[str, int]:
    return usage(sum(map(len, job.prompts)), completion)


def _reason(finish: str | None) -> str | None:
    if finish == "cancelled":  # and we are still here: it was the server that gave up
        raise Busy("the server is stopping")
    return finish


def _to_api_error(error: Exception) -> ApiError:
    """What a client is told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        return ApiError(503, str(error), "overloaded")
    if isinstance(error, EngineDown):
        return ApiError(503, str(error), "engine_down")
    if isinstance(error, EngineFailure):
        return ApiError(500, str(error))
    if isinstance(error, PromptTooLong):
        return ApiError(400, str(error), "context_length_exceeded")
    if isinstance(error, SamplingError):
        return ApiError(400, str(error), param=error.field)
    if isinstance(error, HanmoError):
        return ApiError(400, str(error))
    return ApiError(500, f"the server failed on this request ({type(error).__name__}); see its log")


def _add_errors(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> Response:
        return _to_api_error(error).response()

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        # Where a field may be one of several things, the deepest complaint is about the one that was meant.
        first = max(error.errors(), key=lambda item: len(item["loc"]))
        if first["type"] == "json_invalid":
            return ApiError(400, f"the body is not JSON: {first['ctx']['error']} at byte {first['loc'][-1]}").response()
        if first["loc"] == ("body",) and not isinstance(error.body, dict):
            return ApiError(400, "send a JSON object with the header 'content-type: application/json'").response()
        # Of a union, pydantic also names the branch it tried ("str", "list[...]"); clients know only fields and places.
        parts = [str(p) for p in first["loc"] if isinstance(p, int) or (p.isidentifier() and p not in _BRANCHES)]
        where = ".".join(parts[1:])
        message = str(first["msg"]).removeprefix("Value error, ")
        return ApiError(400, f"{where}: {message}" if where else message, param=where or None).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{request.method} {request.url.path}: " if error.status_code in (404, 405) else ""
        return ApiError(error.status_code, f"{where}{error.detail}").response()

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(HanmoError, known)
    app.add_exception_handler(Exception, known)


def _add_page(app: FastAPI) -> None:
    def serve(route: str, file: Path) -> None:
        content, kind = file.read_bytes(), _KINDS[file.suffix]

        async def page() -> Response:
            return Response(content, media_type=kind, headers=_PAGE_HEADERS)

        app.get(route, include_in_schema=False)(page)

    serve("/", _PAGE / "index.html")
    for file in sorted(_PAGE.iterdir()):
        if file.suffix in _KINDS:
            serve(f"/page/{file.name}", file)
