"""Commands of this room beside its stage: `hanmo tokenizer …`. Each imports what it needs when it is called."""

from __future__ import annotations

import click

COMMANDS: list[click.Command] = []
