"""`hanmo serve`: the application on a socket, with a gentle end."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path

import uvicorn

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.serve.api import create_app
from hanmo.serve.engines import Kind, open_engine
from hanmo.serve.engines.base import TokenEngine
from hanmo.serve.guard import is_loopback
from hanmo.serve.sampling import Sampling

#: Answers in progress get so many seconds when the server is asked to stop.
_GRACE = 10


def run(
    model: Path | str,
    *,
    host: str,
    port: int,
    api_key: str | None,
    engine: Kind,
    parallel: int,
    context: int | None,
    device: str,
    threads: int | None,
    waiting: int,
    defaults: Sampling,
) -> None:
    """See `hanmo.serve.serve`."""
    api_key = api_key or os.environ.get("HANMO_API_KEY") or None
    if not is_loopback(host) and api_key is None:
        raise HanmoError(
            f"host {host}: others could reach it, so an API key is needed: set HANMO_API_KEY or --api-key "
            f"(for example {secrets.token_urlsafe(24)}), or keep to 127.0.0.1"
        )
    # Before the model is loaded: a taken port should be said at once.
    listener = bind(host, port)
    try:
        opened = open_engine(model, context=context, device=device, threads=threads, parallel=parallel, kind=engine)
        app = create_app(
            opened, api_key=api_key, defaults=defaults, waiting=waiting, only_loopback=is_loopback(host) and not api_key
        )
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE, limit_concurrency=1000
        )
        url = _url(host, listener)
        if isinstance(opened, TokenEngine) and str(model).lower().endswith(".gguf") and parallel > 1:
            console.print("answers are computed one at a time; for several at once: hanmo serve --engine llama-server")
        _Server(config, f"{opened.name} (context {opened.context}) listens on {url}").run(sockets=[listener])
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        listener.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        console.print(self._greeting, soft_wrap=True)
        console.print(
            "the chat page is there in a browser; OpenAI clients use it with /v1; Ctrl-C stops", soft_wrap=True
        )


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
