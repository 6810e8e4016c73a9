"""What is about to go up, and what stands behind it, as two tables for a person."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rich.table import Table

from hanmo.console import console, human_bytes
from hanmo.publish.hubs import Target
from hanmo.publish.licences import Source


def show(
    target: Target, folder: Path, left: Collection[str], found: Collection[Source], accepted: Collection[str], own: str
) -> None:
    """Print the files of a parcel and the sources of its model, on stderr."""
    files = Table("file", "size", title=f"{target} ({own or 'no licence yet'})")
    files.columns[1].justify = "right"
    for path in sorted(folder.iterdir()):
        files.add_row(path.name, human_bytes(path.stat().st_size))
    console.print(files)
    if left:
        console.print(f"not of the model, and left here: {', '.join(left)}")
    if not found:
        console.print("no stage of ours made this model, so that nothing is known of what it was trained on")
        return
    table = Table("made of", "", "licence", "")
    for one in found:
        state = "accepted" if one.objection and one.name in accepted else one.objection or "free"
        table.add_row(one.kind, one.name, one.licence or "not stated", state)
    console.print(table)
