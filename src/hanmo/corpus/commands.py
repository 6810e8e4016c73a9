"""Commands of this room beside its stage: `hanmo corpus …`. Each imports what it needs when it is called."""

from __future__ import annotations

import click

COMMANDS: list[click.Command] = []
