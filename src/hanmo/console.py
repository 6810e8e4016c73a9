"""What a person sees while a stage works: one rich console on stderr, so that stdout stays free for results.

All consoles of ours speak the reader's language (see `hanmo.messages`).
"""

from __future__ import annotations

import logging
from typing import Any

import rich.console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from hanmo.messages import language, translated


class Console(rich.console.Console):
    """A console that translates the texts that it prints, and the heads, titles and words of tables."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's `Console.print`."""
        super().print(*(_spoken(item) for item in objects), **options)


def _spoken(item: Any) -> Any:
    if isinstance(item, str):
        return translated(item)
    if isinstance(item, Table) and language() != "en":
        item.title, item.caption = _spoken(item.title), _spoken(item.caption)
        for column in item.columns:
            column.header, column.footer = _spoken(column.header), _spoken(column.footer)
            column._cells = [_spoken(cell) for cell in column._cells]
    return item


class _Description(TextColumn):
    def render(self, task: Task) -> Text:
        return Text.from_markup(translated(task.description))


# Lines are not wrapped: a log keeps them whole, and a terminal wraps by itself.
console = Console(stderr=True, highlight=False, soft_wrap=True)


class _OnStderr(logging.Filter):
    """Prints records here and lets none through to handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            console.print(f"{record.name}: {record.getMessage()}", markup=False)
        return False


# Where DeepSpeed is installed, accelerate and TRL import it, and it hands its logger a handler for stdout.
logging.getLogger("DeepSpeed").addFilter(_OnStderr())


def progress() -> Progress:
    """A progress display; tasks may set the field `info` (free text, such as a rate) that stands behind the bar."""
    return Progress(
        SpinnerColumn(),
        _Description(""),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[info]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        # A bar that redraws is only for a person's terminal; a log file gets the stages' own lines.
        disable=not console.is_terminal,
        transient=True,
    )


def human_bytes(count: float) -> str:
    """1536 -> '1.5 KB' (decimal units, as disks are sold)."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_count(count: float) -> str:
    """1234567 -> '1.23M'."""
    for unit in ("", "k", "M", "B"):
        if abs(count) < 1000:
            return f"{count:.0f}" if unit == "" else f"{count:.2f}{unit}"
        count /= 1000
    return f"{count:.2f}T"


def human_seconds(seconds: float) -> str:
    """75 -> '1 m 15 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m"
