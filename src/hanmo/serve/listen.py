"""An application on a socket: who may listen where, a taken port, a gentle end. Our servers share it."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from typing import Any

import uvicorn

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.serve.guard import is_loopback

#: Answers in progress get so many seconds when the server is asked to stop.
_GRACE = 10


def key_for(host: str, api_key: str | None) -> str | None:
    """The key that clients must send: the given one, else that of the environment.

    Raises:
        HanmoError: none, and others than this machine could reach the server.
    """
    api_key = api_key or os.environ.get("HANMO_API_KEY") or None
    if not is_loopback(host) and api_key is None:
        raise HanmoError(
            f"host {host}: others could reach it, so an API key is needed: set HANMO_API_KEY or --api-key "
            f"(for example {secrets.token_urlsafe(24)}), or keep to 127.0.0.1"
        )
    return api_key


def listen(app: Any, host: str, listener: socket.socket, greeting: str, hint: str) -> None:
    """Run an ASGI application on a bound socket until Ctrl-C or SIGTERM.

    Args:
        greeting: is printed with the URL behind it once the server answers; `hint` is a second line.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE, limit_concurrency=1000
    )
    _Server(config, f"{greeting} {_url(host, listener)}", hint).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, greeting: str, hint: str) -> None:
        super().__init__(config)
        self._lines = (greeting, hint)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for line in self._lines:
            console.print(line, soft_wrap=True)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port` (0: any free one).

    Raises:
        HanmoError: the port is taken or not allowed, or the host is not one of this machine.
    """
    if not 0 <= port < 65536:
        raise HanmoError(f"port {port}: must be from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise HanmoError(f"host {host}: no such address; use 127.0.0.1 or one of this machine's addresses") from None
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Bound sockets that do not listen yet do not stop another process from taking the port.
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise HanmoError(
            f"port {port} on {host} cannot be used ({error.strerror or error}); choose another with --port"
        ) from None
    return listener


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
