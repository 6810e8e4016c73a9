"""One line of JSON for each request: what was asked for, how it ended and how long it took, and none of its text.

The outermost layer of the server (plain ASGI), so that what the guard refuses is there, too. Endpoints put what they
know into `note(request)`. Addresses of clients and paths that are no endpoint's stay out: both can tell of people.
"""

from __future__ import annotations

import datetime
import logging
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
from fastapi import Request

from hanmo.errors import HanmoError
from hanmo.serve.guard import App, Message, Receive, Scope, Send
from hanmo.serve.metrics import Metrics

_NOTE = "hanmo.note"
_log = logging.getLogger("hanmo.serve.requests")


class Journal:
    """Wraps an ASGI application; lines go to the logger `hanmo.serve.requests`, counts to `metrics`."""

    def __init__(self, app: App, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and put it down."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        note: dict[str, Any] = {"id": uuid.uuid4().hex}
        scope[_NOTE] = note

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", note["id"].encode())]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            seconds = time.perf_counter() - began
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.ended(path, status, seconds)
            if _log.isEnabledFor(logging.INFO):
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
                head = {"time": now, "method": scope["method"], "path": path, "status": status}
                line = {**head, "seconds": round(seconds, 4), **note}
                _log.info("%s", orjson.dumps(line).decode())


def note(request: Request) -> dict[str, Any]:
    """What shall be put down about a request beside what any has."""
    return request.scope[_NOTE]


def write_to(place: str) -> None:
    """Let the lines go to a file, which grows, to stderr ("-") or nowhere ("off").

    Raises:
        HanmoError: the file cannot be written.
    """
    _log.handlers.clear()
    _log.propagate = False
    if place == "off":
        _log.setLevel(logging.CRITICAL)
        return
    try:
        handler = (
            logging.StreamHandler(sys.stderr) if place == "-" else logging.FileHandler(Path(place), encoding="utf-8")
        )
    except OSError as error:
        raise HanmoError(f"--log {place}: cannot be written ({error.strerror or error})") from None
    handler.setFormatter(logging.Formatter("%(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
