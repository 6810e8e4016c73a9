"""`hanmo studio`: the application on a socket."""

from __future__ import annotations

from pathlib import Path

from hanmo.console import console
from hanmo.serve.guard import is_loopback
from hanmo.serve.listen import bind, key_for, listen
from hanmo.studio.app import create_app


def run(
    runs: Path,
    *,
    host: str,
    port: int,
    api_key: str | None,
    device: str,
    threads: int | None,
    context: int | None,
) -> None:
    """See `hanmo.studio.studio`."""
    api_key = key_for(host, api_key)
    app = create_app(
        runs,
        api_key=api_key,
        only_loopback=is_loopback(host) and not api_key,
        device=device,
        threads=threads,
        context=context,
    )
    listener = bind(host, port)
    try:
        listen(app, host, listener, f"the studio of {runs} is at", "open it in a browser; Ctrl-C stops")
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        listener.close()
