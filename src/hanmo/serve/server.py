"""`hanmo serve`: a model's application on a socket."""

from __future__ import annotations

from pathlib import Path

from hanmo.console import console
from hanmo.serve.api import create_app
from hanmo.serve.engines import Kind, open_engine
from hanmo.serve.engines.base import TokenEngine
from hanmo.serve.guard import is_loopback
from hanmo.serve.listen import bind, key_for, listen
from hanmo.serve.sampling import Sampling


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
    api_key = key_for(host, api_key)
    # Before the model is loaded: a taken port should be said at once.
    listener = bind(host, port)
    try:
        opened = open_engine(model, context=context, device=device, threads=threads, parallel=parallel, kind=engine)
        app = create_app(
            opened, api_key=api_key, defaults=defaults, waiting=waiting, only_loopback=is_loopback(host) and not api_key
        )
        if isinstance(opened, TokenEngine) and str(model).lower().endswith(".gguf") and parallel > 1:
            console.print("answers are computed one at a time; for several at once: hanmo serve --engine llama-server")
        greeting = f"{opened.name} (context {opened.context}) listens on"
        listen(
            app,
            host,
            listener,
            greeting,
            "the chat page is there in a browser; OpenAI clients use it with /v1; Ctrl-C stops",
        )
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        listener.close()
