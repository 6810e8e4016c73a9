"""Who may come in, and with how much: the outermost layer of the server (plain ASGI).

* Requests larger than a bound, or sent too slowly, are cut off before anything reads them.
* With a key set, everything under /v1 and /metrics needs it (compared in constant time).
* Without one the server sits on loopback, and a web page elsewhere must not reach it through the visitor's browser:
  foreign `Origin` headers are refused, and so are `Host` names that are not loopback's (DNS rebinding). There are no
  CORS headers.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Wraps an ASGI application.

    Args:
        app: what to protect.
        api_key: needed under /v1 and /metrics when set.
        max_body: bytes a request may have.
        patience: seconds a client may take to send its request.
        only_loopback: answer only to loopback's names; for servers without a key.
    """

    def __init__(
        self, app: App, *, api_key: str | None, max_body: int, patience: float = 30.0, only_loopback: bool = False
    ) -> None:
        self._app = app
        self._key = api_key.encode() if api_key else None
        self._max_body = max_body
        self._patience = patience
        self._only_loopback = only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse in OpenAI's form."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refuse(scope["path"], headers)
        if refusal is None:
            try:
                messages = await asyncio.wait_for(self._read(headers, receive), self._patience)
            except TimeoutError:
                refusal = 408, "the request was not sent in time", "request_timeout"
            except OverflowError:
                refusal = 413, f"the request is larger than {self._max_body} bytes", "request_too_large"
            else:
                await self._app(scope, _replay(messages, receive), send)
                return
        status, message, code = refusal
        kind = "authentication_error" if status == 401 else "invalid_request_error"
        # The rest of a refused body is not read, so the connection cannot be used again.
        response = JSONResponse(error_body(message, kind, code), status, headers={"connection": "close"})
        await response(scope, receive, send)

    def _refuse(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._only_loopback and not is_loopback(_split(f"//{host}")[0]):
            return 403, f"this server answers only to localhost, not to {host!r}", "forbidden_host"
        origin = headers.get(b"origin")
        if origin is not None and _split(origin.decode("latin-1"))[1] != host:
            return 403, "requests from other web pages are not allowed", "forbidden_origin"
        if self._key is not None and path.startswith(("/v1", "/metrics")):
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            # Compared even when the scheme is wrong, so that time tells nothing.
            right = hmac.compare_digest(given.strip(), self._key)
            if scheme.lower() != b"bearer" or not right:
                return 401, "a valid API key is needed: send it as 'Authorization: Bearer KEY'", "invalid_api_key"
        return None

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> list[Message]:
        """The request's messages up to the end of its body; OverflowError when they are too much."""
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body:
            raise OverflowError
        messages, size = [], 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self._max_body:
                raise OverflowError
            if message["type"] != "http.request" or not message.get("more_body"):
                return messages


def _split(url: str) -> tuple[str, str]:
    """(host name, host with port) of a URL; empty where it is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """Give out the messages that were read already, then go on with the real ones."""
    queue = iter(messages)

    async def next_message() -> Message:
        for message in queue:
            return message
        return await receive()

    return next_message
