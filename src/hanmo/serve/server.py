"""`hanmo serve`: a model's application on a socket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanmo.console import console
from hanmo.serve.api import create_app
from hanmo.serve.engines import Kind, open_engine
from hanmo.serve.engines.base import Engine, TokenEngine
from hanmo.serve.guard import is_loopback
from hanmo.serve.journal import write_to
from hanmo.serve.listen import bind, key_for, listen
from hanmo.serve.models import Entry, Models, kind_of, named
from hanmo.serve.sampling import Sampling
from hanmo.serve.worker import Served


def run(
    models: Sequence[Path | str],
    *,
    host: str,
    port: int,
    api_key: str | None,
    engine: Kind,
    parallel: int,
    loaded: int,
    context: int | None,
    device: str,
    threads: int | None,
    waiting: int,
    patience: float,
    log: str,
    log_text: bool,
    defaults: Sampling,
) -> None:
    """See `hanmo.serve.serve`."""
    api_key = key_for(host, api_key)
    # Before the model is loaded: a taken port should be said at once.
    listener = bind(host, port)
    try:
        options = {"context": context, "device": device, "threads": threads, "parallel": parallel, "kind": engine}
        shelf = Models([_entry(str(model), options) for model in models], most=loaded, waiting=waiting)
        first = shelf.load_first()
        app = create_app(
            shelf,
            api_key=api_key,
            defaults=defaults,
            patience=patience,
            only_loopback=is_loopback(host) and not api_key,
            log_text=log_text,
        )
        write_to(log)
        if isinstance(first, TokenEngine) and str(models[0]).lower().endswith(".gguf") and parallel > 1:
            console.print("answers are computed one at a time; for several at once: hanmo serve --engine llama-server")
        room = f" (context {first.context})" if isinstance(first, Engine) else ""
        others = f" and {len(models) - 1} more by need" if len(models) > 1 else ""
        listen(
            app,
            host,
            listener,
            f"{first.name}{room}{others}: listens on",
            "the chat page is there in a browser; OpenAI clients use it with /v1; Ctrl-C stops",
        )
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        listener.close()


def _entry(given: str, options: dict[str, Any]) -> Entry:
    """What is served under a name.

    Raises:
        HanmoError: there is no model.
    """
    name, path = named(given)
    kind = kind_of(path)

    def load() -> Served:
        if kind == "writer":
            opened: Served = open_engine(path, **options)
        else:
            from hanmo.serve.readers import EncoderReader, TunedReader

            opened = (EncoderReader if kind == "encoder" else TunedReader)(path, device=options["device"])
        opened.name = name
        return opened

    return Entry(name, kind, load)
