"""The help of commands in Chinese: click's, with our texts translated and lines broken by their width on a screen."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

import click
from rich.cells import cell_len

from hanmo.messages import catalogue, language, translated

#: What may not be parted: a Chinese character or a word, with the marks that open before and close behind it.
_UNIT = re.compile(r"\s+|[（《“「]*(?:[⺀-鿿豈-﫿]|[^\s⺀-鿿豈-￯]+|[！-￯])[，。；：、）》！？”」…]*")
#: An option's text and what stands behind it: its default, its range, that it is required.
_EXTRA = re.compile(
    r"(?P<text>.*?)(?P<several> \(may be given several times\))?"
    r"(?P<extra>\s*\[(?:default: .*|required|[^\[\]]*x[<>][^\[\]]*)\])?",
    re.DOTALL,
)


def wrap(text: str, width: int) -> list[str]:
    """A text in lines of so many columns; a Chinese character takes two."""
    lines, line = [], ""
    for unit in _UNIT.findall(text):
        if line and cell_len(line + unit.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += " " if unit.isspace() and line else unit.lstrip()
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


class ChineseFormatter(click.HelpFormatter):
    """Writes a help page in Chinese."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix or "用法：")

    def write_heading(self, heading: str) -> None:
        super().write_heading(translated(heading))

    def write_text(self, text: str) -> None:
        room = max(self.width - self.current_indent, 20)
        paragraphs = (wrap(" ".join(part.split()), room) for part in text.split("\n\n"))
        indented = ("\n".join(" " * self.current_indent + line for line in lines) for lines in paragraphs)
        self.write("\n\n".join(indented) + "\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        first = min(max((cell_len(name) for name, _ in rows), default=0), col_max) + col_spacing
        room = max(self.width - self.current_indent - first, 20)
        for name, text in rows:
            self.write(" " * self.current_indent + name)
            lines = wrap(option_text(text), room)
            if cell_len(name) <= first - col_spacing:
                self.write(" " * (first - cell_len(name)) + lines.pop(0))
            self.write("\n")
            for line in lines:
                self.write(" " * (self.current_indent + first) + line + "\n")


def option_text(text: str) -> str:
    """What a help page says of an option, with its default, in the reader's language."""
    if language() == "en":
        return text
    parts = _EXTRA.fullmatch(text)
    if parts is None or text in catalogue():
        return translated(text)
    several = translated(parts["several"].strip()) if parts["several"] else ""
    extra = (parts["extra"] or "").replace("[default: ", "[默认：").replace("required]", "必填]")
    return translated(parts["text"]) + several + extra


def command_text(english: str) -> str:
    """A command's text in the reader's language; a stage's is its summary as a sentence."""
    if language() == "zh" and english and english not in catalogue():
        return translated(english[0].lower() + english[1:].removesuffix("."))
    return translated(english)


def in_chinese(command: click.Command) -> None:
    """Translate the texts of a command and of all below it."""
    click.Context.formatter_class = ChineseFormatter
    command.help = command_text(inspect.cleandoc(command.help or ""))
    command.short_help = re.split(r"(?<=[。；])|\n", command.help)[0].rstrip("。；")
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            in_chinese(inner)
