"""The studio: a local web page on which a person watches runs, looks into what they made, and tries their models.

    hanmo.studio.studio("runs")           http://127.0.0.1:8100

`shelf` finds runs and stages, `logs` reads training logs, `app` is the server, `page/` what the browser runs.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["studio"]


def studio(
    runs: Path | str = "runs",
    *,
    host: str = "127.0.0.1",
    port: int = 8100,
    api_key: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    context: int | None = None,
) -> None:
    """Show a folder of runs until Ctrl-C or SIGTERM.

    Args:
        runs: the folder that holds the --out folders of `hanmo run`, or one of them.
        host: the address to listen on; anything but loopback needs a key.
        port: 0 takes any free one (it is printed).
        api_key: the page asks its visitor for it; None looks at the environment variable HANMO_API_KEY.
        device: of the models that are talked to: a torch device, or "auto".
        threads: their CPU threads; None lets the library choose.
        context: their tokens of conversation and answer together; None takes the model's own, at most 8192.

    Raises:
        HanmoError: there is no such folder, the port is taken, the key is missing.
    """
    from hanmo.studio.server import run

    run(Path(runs), host=host, port=port, api_key=api_key, device=device, threads=threads, context=context)
