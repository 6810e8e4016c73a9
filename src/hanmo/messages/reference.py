"""All commands with their options as a page of Markdown, in the reader's language: what their `--help` says."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from hanmo.cli import cli
from hanmo.messages import language
from hanmo.messages.help import command_text, option_text

_HEADS = {"en": ("option", "what it does"), "zh": ("选项", "作用")}


def reference() -> str:
    """A section a command; those of a group stand behind it, one level below."""
    return "\n\n".join(part for name, command in cli.commands.items() for part in _parts(f"hanmo {name}", command, 2))


def _parts(words: str, command: click.Command, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=words)
    yield f"{'#' * level} {words}"
    yield _plain(command_text(inspect.cleandoc(command.help or "")))
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```"
    records = [found for option in command.params if (found := option.get_help_record(context)) and found[1]]
    if records:
        first, second = _HEADS[language()]
        rows = [f"| `{name}` | {_cell(option_text(text))} |" for name, text in records]
        yield "\n".join([f"| {first} | {second} |", "|---|---|", *rows])
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _parts(f"{words} {name}", inner, min(level + 1, 4))


def _plain(text: str) -> str:
    """Text whose signs are no markup."""
    for sign in ("\\", "*", "_", "<"):
        text = text.replace(sign, "\\" + sign)
    return text


def _cell(text: str) -> str:
    return _plain(" ".join(text.split())).replace("|", "\\|")
