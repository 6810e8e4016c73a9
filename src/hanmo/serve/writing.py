"""The endpoints of models that write: chat, completions, their tokens; and the list of all models."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from hanmo.errors import HanmoError
from hanmo.serve.engines.base import Delta, Engine, Unable
from hanmo.serve.faults import ApiError, to_api_error
from hanmo.serve.journal import note
from hanmo.serve.metrics import Metrics
from hanmo.serve.models import Entry, Models
from hanmo.serve.prompt import fit_history
from hanmo.serve.reader import Reader
from hanmo.serve.sampling import Sampling, SamplingError
from hanmo.serve.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationRequest,
    TokenizeRequest,
)
from hanmo.serve.wire import Choice, EventStream, Shape, event, unless_gone, usage
from hanmo.serve.worker import Busy, Job, Worker

_log = logging.getLogger("hanmo.serve")


class Writing:
    """Adds the endpoints to `app`; see `create_app`."""

    def __init__(
        self, app: FastAPI, models: Models, metrics: Metrics, defaults: Sampling, patience: float, log_text: bool
    ) -> None:
        self._models, self._metrics = models, metrics
        self._log_text = log_text
        self._defaults = defaults
        self._patience = patience
        app.get("/health")(self.health)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}")(self.model)
        app.post("/v1/chat/completions", response_model=None)(self.chat)
        app.post("/v1/completions", response_model=None)(self.complete)
        app.post("/v1/tokenize")(self.tokenize)
        app.post("/v1/detokenize")(self.detokenize)

    async def health(self) -> JSONResponse:
        """Whether answers can be had, and how long the lines are."""
        workers = self._models.workers
        alive = all(worker.alive for worker in workers.values())
        ready = all(worker.engine.ready for worker in workers.values())
        body = {
            "status": "stopping" if not alive else "ok" if ready else "starting",
            "active": sum(worker.active for worker in workers.values()),
            "waiting": sum(worker.waiting for worker in workers.values()),
            "models": {name: {"active": worker.active, "waiting": worker.waiting} for name, worker in workers.items()},
        }
        return JSONResponse(body, 200 if alive and ready else 503)

    async def models(self) -> dict[str, Any]:
        """The models that may be asked for."""
        return {"object": "list", "data": [self._describe(entry) for entry in self._models.entries.values()]}

    async def model(self, name: str) -> dict[str, Any]:
        """One model."""
        return self._describe(self._models.find(name))

    def _describe(self, entry: Entry) -> dict[str, Any]:
        known: dict[str, Any] = {}
        if entry.worker is not None:
            served = entry.worker.engine
            if isinstance(served, Engine):
                known = {"context_length": served.context, "can_chat": served.can_chat}
            elif isinstance(served, Reader):
                known = {"abilities": list(served.abilities)}
        loaded = entry.worker is not None
        head = {"id": entry.name, "object": "model", "created": self._models.started, "owned_by": "hanmo"}
        return {**head, "kind": entry.kind, "loaded": loaded, **known}

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """The next turn of a conversation."""
        sampling = body.sampling(self._defaults)
        messages = [message.plain() for message in body.messages]
        tools = body.callable_tools

        def encode(engine: Engine) -> tuple[list[list[int]], dict[str, Any]]:
            if body.truncation != "auto":
                return [engine.encode_chat(messages, tools)], {}
            room = engine.context // 4
            reserve = min(room, sampling.max_tokens or room)
            fitted = fit_history(messages, lambda kept: engine.encode_chat(kept, tools), engine.context, reserve)
            return [fitted[1]], {"dropped_messages": fitted[2]}

        return await self._answer(body, request, encode, sampling, bool(tools))

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        """Text that goes on from the prompt."""

        def encode(engine: Engine) -> tuple[list[list[int]], dict[str, Any]]:
            return [_encode(engine, prompt) for prompt in body.prompts()], {}

        return await self._answer(body, request, encode, body.sampling(self._defaults), False)

    async def tokenize(self, body: TokenizeRequest) -> dict[str, Any]:
        """Ids and pieces of a text or a conversation."""
        entry = self._models.find(body.model)
        worker = await self._models.take(entry)
        try:
            engine = _writer(worker)

            def work() -> list[int]:
                if body.messages is not None:
                    return engine.encode_chat([message.plain() for message in body.messages])
                return engine.encode(cast(str, body.prompt))

            ids = await asyncio.to_thread(work)
            pieces = [engine.piece(token).decode("utf-8", "replace") for token in ids]
            return {"tokens": ids, "pieces": pieces, "count": len(ids), "context_length": engine.context}
        finally:
            self._models.give(entry)

    async def detokenize(self, body: DetokenizeRequest) -> dict[str, Any]:
        """The text of ids; special tokens are none."""
        entry = self._models.find(body.model)
        worker = await self._models.take(entry)
        try:
            engine = _writer(worker)
            _check_ids(engine, body.tokens, "tokens")
            return {"text": await asyncio.to_thread(engine.decode, body.tokens)}
        finally:
            self._models.give(entry)

    async def _answer(
        self, body: GenerationRequest, request: Request, encode: Any, sampling: Sampling, tools: bool
    ) -> Response:
        entry = self._models.find(body.model)
        until = time.monotonic() + self._patience
        worker = await self._models.take(entry)
        streams = False
        try:
            engine = _writer(worker)
            _check_sampling(engine, sampling)
            prompts, extra = await asyncio.to_thread(encode, engine)
            for prompt in prompts:
                engine.check_room(prompt)
            chat, scores = isinstance(body, ChatRequest), sampling.logprobs is not None
            shape = Shape(entry.name, chat, scores=scores, extra=extra)
            job = Job(prompts, sampling, body.n or 1)
            record = _Record(entry.name, job, note(request), self._metrics)
            if self._log_text:
                record.note["asked"] = body.model_dump(include={"messages", "prompt"}, exclude_none=True)
            worker.submit(job)
            if body.stream:
                streams = True

                def leave() -> None:
                    worker.cancel(job)
                    self._models.give(entry)
                    record.close(self._log_text)

                return EventStream(self._events(worker, job, shape, tools, until, body.wants_usage, record), leave)
            try:
                whole = await unless_gone(request.receive, self._gather(worker, job, shape, tools, until, record))
            finally:
                worker.cancel(job)
                record.close(self._log_text)
            # 499 is what others log for a client that left; nobody is there to read it.
            return JSONResponse(whole) if whole is not None else Response(status_code=499)
        finally:
            if not streams:
                self._models.give(entry)

    async def _gather(
        self, worker: Worker, job: Job, shape: Shape, tools: bool, until: float, record: _Record
    ) -> dict[str, Any]:
        record.answers = answers = {index: Choice(tools) for index in range(job.parts)}
        async for index, delta in _in_time(worker.answers(job), until):
            record.begin()
            answers[index].take(_unstopped(delta))
        return shape.whole(list(answers.values()), record.usage())

    async def _events(
        self, worker: Worker, job: Job, shape: Shape, tools: bool, until: float, wants_usage: bool, record: _Record
    ) -> AsyncIterator[str]:
        answers = record.answers
        try:
            async for index, delta in _in_time(worker.answers(job), until):
                record.begin()
                if index not in answers:
                    answers[index] = Choice(tools)
                    if opening := shape.opening(index):
                        yield event(opening)
                text, calls = answers[index].take(_unstopped(delta))
                for chunk in shape.piece(index, answers[index], text, calls, delta.scored):
                    yield event(chunk)
            if wants_usage:
                yield event(shape.counted(record.usage()))
            yield event("[DONE]")
        except Exception as error:
            # The status line is long gone; OpenAI's clients raise what they find under "error".
            if not isinstance(error, (HanmoError, TimeoutError)):
                _log.error("an answer failed", exc_info=error)
            told = to_api_error(error)
            record.note["error"] = told.body["error"]["code"] or told.status
            yield event(told.body)


class _Record:
    """What is put down about an answer when it has ended, however it did.

    Args:
        model: its name.
        job: what was asked.
        note: see `journal`.
    """

    def __init__(self, model: str, job: Job, note: dict[str, Any], metrics: Metrics) -> None:
        self._model, self._job, self._metrics = model, job, metrics
        self.note = note
        note["model"] = model
        self.answers: dict[int, Choice] = {}
        self._asked = time.monotonic()
        self._first: float | None = None

    def begin(self) -> None:
        """Something of an answer has come."""
        self._first = self._first or time.monotonic() - self._asked

    def usage(self) -> dict[str, int]:
        """OpenAI's count of tokens."""
        written = sum(answer.tokens for answer in self.answers.values())
        return usage(sum(map(len, self._job.prompts)), written)

    def close(self, text: bool) -> None:
        """Put it down; `text`: with what was answered."""
        used = self.usage()
        waited = None if self._job.began is None else self._job.began - self._asked
        self.note |= {name: used[name] for name in ("prompt_tokens", "completion_tokens")}
        for name, value in (("waited", waited), ("first_token", self._first)):
            if value is not None:
                self.note[name] = round(value, 4)
        self.note["finish"] = [answer.finish for answer in self.answers.values()]
        if text:
            self.note["answered"] = [answer.text for answer in self.answers.values()]
        self._metrics.answered(
            self._model, read=used["prompt_tokens"], written=used["completion_tokens"], waited=waited, first=self._first
        )


async def _in_time(answers: AsyncIterator[tuple[int, Delta]], until: float) -> AsyncIterator[tuple[int, Delta]]:
    """`answers`, as long as they come before `until`; else TimeoutError."""
    try:
        while True:
            async with asyncio.timeout(until - time.monotonic()):
                try:
                    item = await anext(answers)
                except StopAsyncIteration:
                    return
            yield item
    finally:
        await answers.aclose()  # type: ignore[attr-defined]


def _writer(worker: Worker) -> Engine:
    if isinstance(worker.engine, Engine):
        return worker.engine
    able = ", ".join(cast(Reader, worker.engine).abilities)
    raise Unable(f"{worker.engine.name} reads and does not write; it answers {able}")


def _encode(engine: Engine, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        return engine.encode(prompt)
    if engine.backward:
        raise ApiError(400, "prompt: this model writes from right to left; give text and not ids", param="prompt")
    _check_ids(engine, prompt, "prompt")
    return prompt


def _check_ids(engine: Engine, ids: Sequence[int], field: str) -> None:
    if max(ids) >= engine.vocab_size:
        raise ApiError(400, f"{field}: token ids must be below {engine.vocab_size}", param=field)


def _check_sampling(engine: Engine, sampling: Sampling) -> None:
    if sampling.bound and not engine.can_bind:
        field = "grammar" if sampling.grammar is not None else "response_format"
        raise SamplingError(
            field, f"{engine.name}'s engine cannot hold an answer to it; llama-server (.gguf files) and vLLM can"
        )
    if sampling.logprobs is not None and engine.backward:
        raise SamplingError("logprobs", f"{engine.name} writes from right to left, and tells none")
    if any(token >= engine.vocab_size for token, _ in sampling.logit_bias):
        raise SamplingError("logit_bias", f"token ids must be below {engine.vocab_size}")


def _unstopped(delta: Delta) -> Delta:
    if delta.finish == "cancelled":  # and we are still here: it was the server that gave up
        raise Busy("the server is stopping")
    return delta
