"""How answers look on the wire: OpenAI's objects, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.responses import Response

from hanmo.serve.guard import Receive, Scope, Send

T = TypeVar("T")
#: A comment goes out when nothing else did for so many seconds, so that no proxy thinks the line dead.
_HEARTBEAT = 15.0


class Shape:
    """Builds the objects of one answer.

    Args:
        model: the model's name.
        chat: `/v1/chat/completions` or `/v1/completions`.
        extra: our own fields, put into every object.
    """

    def __init__(self, model: str, chat: bool, extra: dict[str, Any] | None = None) -> None:
        self._chat = chat
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._kind = kind
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._extra = extra or {}

    def whole(self, answers: list[tuple[str, str]], usage: dict[str, int]) -> dict[str, Any]:
        """The answer in one object; `answers` holds (text, finish reason) of each choice."""
        choices = []
        for index, (text, finish) in enumerate(answers):
            body = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
            choices.append({"index": index, **body, "logprobs": None, "finish_reason": finish})
        return {**self._head, "object": self._kind, "choices": choices, "usage": usage, **self._extra}

    def opening(self, index: int) -> dict[str, Any] | None:
        """The chunk that opens a choice, where the format has one."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None) if self._chat else None

    def piece(self, index: int, text: str, finish: str | None) -> list[dict[str, Any]]:
        """The chunks for some text and maybe the end of a choice."""
        if not self._chat:
            return [self._chunk(index, text, finish)]
        chunks = [self._chunk(index, {"content": text}, None)] if text else []
        return chunks + ([self._chunk(index, {}, finish)] if finish else [])

    def counted(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk of a stream whose client wants to know the tokens."""
        return {**self._frame(), "choices": [], "usage": usage, **self._extra}

    def _frame(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk" if self._chat else "text_completion"}

    def _chunk(self, index: int, delta: dict[str, str] | str, finish: str | None) -> dict[str, Any]:
        body = {"delta": delta} if self._chat else {"text": delta}
        choice = {"index": index, **body, "logprobs": None, "finish_reason": finish}
        return {**self._frame(), "choices": [choice], **self._extra}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """OpenAI's count of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event(value: Any) -> str:
    """One server-sent event."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n"


async def gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T | None:
    """Await `work`, or cancel it and return None when the client leaves first."""
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _cancel(task)
        await _cancel(leaving)


async def _cancel(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


class EventStream(Response):
    """Sends server-sent events as they come; closes their source and calls `on_close` at once when the client leaves.

    Starlette's own streaming response notices a client's leaving only when it next sends something under some servers;
    a request that waits in line must free its place sooner.
    """

    media_type = "text/event-stream"

    def __init__(self, source: AsyncIterator[str], on_close: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(gone(receive))
        step: asyncio.Future[str | None] | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while True:
                step = step or asyncio.ensure_future(anext(self._source, None))
                await asyncio.wait({step, leaving}, timeout=_HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    return
                if not step.done():
                    await _body(send, ":\n\n")
                    continue
                text, step = step.result(), None
                if text is None:
                    break
                await _body(send, text)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if step is not None:
                await _cancel(step)
            await _cancel(leaving)
            await self._source.aclose()  # type: ignore[attr-defined]
            self._on_close()


async def _body(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
