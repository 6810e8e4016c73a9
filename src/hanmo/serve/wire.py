"""How answers look on the wire: OpenAI's objects, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from starlette.responses import Response

from hanmo.serve.engines.base import Delta, Scored
from hanmo.serve.guard import Receive, Scope, Send
from hanmo.serve.text import Utf8Stream
from hanmo.serve.tools import CallSplitter

T = TypeVar("T")
#: A comment goes out when nothing else did for so many seconds, so that no proxy thinks the line dead.
_HEARTBEAT = 15.0


class Choice:
    """One answer as it comes in: its words, its calls of tools, its tokens with their probabilities.

    Args:
        calls: look for calls of tools.
    """

    def __init__(self, calls: bool) -> None:
        self._splitter = CallSplitter() if calls else None
        self.text = ""
        self.calls: list[dict[str, Any]] = []
        self.scored: list[Scored] = []
        self.tokens = 0
        self.finish: str | None = None

    def take(self, delta: Delta) -> tuple[str, list[dict[str, Any]]]:
        """Take a step of the answer; returns the words and calls that are new."""
        new: list[str | dict[str, Any]] = [delta.text]
        if self._splitter is not None:
            new = self._splitter.push(delta.text)
            if delta.finish is not None:
                new.append(self._splitter.flush())
        text = "".join(part for part in new if isinstance(part, str))
        calls = [part for part in new if isinstance(part, dict)]
        self.text += text
        self.calls += calls
        self.scored += delta.scored
        self.tokens, self.finish = delta.tokens, delta.finish
        if self.finish == "stop" and self.calls:
            self.finish = "tool_calls"
        return text, calls


class Shape:
    """Builds the objects of one answer.

    Args:
        model: the model's name.
        chat: `/v1/chat/completions` or `/v1/completions`.
        scores: tell log probabilities.
        extra: our own fields, put into every object.
    """

    def __init__(self, model: str, chat: bool, *, scores: bool = False, extra: dict[str, Any] | None = None) -> None:
        self._chat, self._scores = chat, scores
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._kind = kind
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._extra = extra or {}

    def whole(self, answers: list[Choice], usage: dict[str, int]) -> dict[str, Any]:
        """The answer in one object."""
        choices = []
        for index, answer in enumerate(answers):
            body: dict[str, Any] = {"text": answer.text}
            if self._chat:
                message: dict[str, Any] = {"role": "assistant", "content": answer.text}
                if answer.calls:
                    calls = [{name: value for name, value in call.items() if name != "index"} for call in answer.calls]
                    message |= {"content": answer.text.strip() or None, "tool_calls": calls}
                body = {"message": message}
            scores = self._told(answer.scored, 0)
            choices.append({"index": index, **body, "logprobs": scores, "finish_reason": answer.finish})
        return {**self._head, "object": self._kind, "choices": choices, "usage": usage, **self._extra}

    def opening(self, index: int) -> dict[str, Any] | None:
        """The chunk that opens a choice, where the format has one."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None) if self._chat else None

    def piece(
        self, index: int, answer: Choice, text: str, calls: list[dict[str, Any]], scored: Sequence[Scored]
    ) -> list[dict[str, Any]]:
        """The chunks for what is new of an answer, and maybe its end."""
        scores = self._told(scored, len(answer.text) - len(text)) if scored else None
        if not self._chat:
            return [self._chunk(index, text, answer.finish, scores)]
        chunks = [self._chunk(index, {"content": text}, None, scores)] if text or scored else []
        chunks += [self._chunk(index, {"tool_calls": [call]}, None) for call in calls]
        return chunks + ([self._chunk(index, {}, answer.finish)] if answer.finish else [])

    def counted(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk of a stream whose client wants to know the tokens."""
        return {**self._frame(), "choices": [], "usage": usage, **self._extra}

    def _frame(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk" if self._chat else "text_completion"}

    def _chunk(
        self, index: int, delta: dict[str, Any] | str, finish: str | None, scores: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        body = {"delta": delta} if self._chat else {"text": delta}
        choice = {"index": index, **body, "logprobs": scores, "finish_reason": finish}
        return {**self._frame(), "choices": [choice], **self._extra}

    def _told(self, scored: Sequence[Scored], offset: int) -> dict[str, Any] | None:
        """Log probabilities in OpenAI's form; `offset` is where their text begins in the answer."""
        if not self._scores:
            return None
        if self._chat:
            content = [
                {**_spelt(one.piece, one.logprob), "top_logprobs": [_spelt(*other) for other in one.top]}
                for one in scored
            ]
            return {"content": content, "refusal": None}
        offsets, characters = [], Utf8Stream()
        for one in scored:
            offsets.append(offset)
            offset += len(characters.push(one.piece))
        return {
            "tokens": [_name(one.piece) for one in scored],
            "token_logprobs": [one.logprob for one in scored],
            "top_logprobs": [{_name(piece): logprob for piece, logprob in one.top} for one in scored],
            "text_offset": offsets,
        }


def _spelt(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _name(piece), "logprob": logprob, "bytes": list(piece)}


def _name(piece: bytes) -> str:
    """A token as text; of one that is no whole character its bytes, as OpenAI writes them."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


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
