"""The command of this room: studio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--host", default="127.0.0.1", show_default=True, help="Anything but loopback needs a key.")
@click.option("--port", default=8100, show_default=True, help="0 takes any free one.")
@click.option("--api-key", help="What the page must be given; or set HANMO_API_KEY.")
@click.option("--device", default="auto", show_default=True, help="Of the models one talks to: cpu, cuda, mps, ...")
@click.option("--threads", type=int, help="Their CPU threads.")
@click.option("--context", type=int, help="Their tokens of conversation and answer together.")
def studio(runs: Path, **given: Any) -> None:
    """Watch the RUNS of a folder in the browser, look into what they made, and try their models."""
    from hanmo.studio import studio as function

    function(runs, **given)
