"""The texts in our source that a person reads, as templates.

    python -m hanmo.messages.templates      print those that have no Chinese yet, a JSON object a room

What counts: the words of faults, of printed lines, of tables' heads, of commands, their options and settings.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

from hanmo.messages import catalogue

SOURCE = Path(__file__).resolve().parents[1]
#: Calls whose texts are shown, and how many of their first arguments may be one (the others are options).
_CALLS = dict.fromkeys(["HanmoError", "Interrupted", "fail", "print", "add_task", "add_column", "translated"], 1)
_CALLS |= dict.fromkeys(["ClickException", "UsageError", "BadParameter"], 1)
_CALLS |= {"setting": 2, "factory": 2, "Input": 2, "StageKind": 2, "Finding": 5, "Table": 20}
#: Functions that return words which others put into a line.
_RETURN = {"_difference", "_fault", "_few", "_names", "_note", "_nothing", "_nothing_usable", "_reasons", "_refusal"}
_RETURN |= {"_said", "_told", "_unknown", "_unreachable", "advice", "advise", "describe", "describe_os_error"}
_RETURN |= {"explain", "how_to_enter", "in_words", "killed_advice", "line", "nearest", "nothing", "unknown_format"}
#: Tables of words that are shown.
_TABLES = {"EXTRAS"}
#: Rooms that print what they gather in `lines`.
_LINES = {"posttrain"}
_NAMED = {"help", "doc", "summary", "title", "short_help"}
_COMMANDS = {"command", "group"}


def templates() -> dict[str, list[str]]:
    """The templates of the source by room: the first folder below `hanmo`, or "house" for the files beside it."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).parts
        room = parts[0] if len(parts) > 1 else "house"
        for text in _texts(ast.parse(path.read_text(encoding="utf-8")), room in _LINES):
            if text not in seen and _worded(text):
                seen.add(text)
                found.setdefault(room, []).append(text)
    return found


def _worded(text: str) -> bool:
    """Whether there is a word to translate."""
    return bool(re.search(r"[A-Za-z]{2,}", re.sub(r"\[/?[a-z ]*\]|\{\}|--[\w.-]+|`[^`]*`", "", text)))


def _texts(tree: ast.Module, told: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _of_call(node, told)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in _TABLES:
            yield from (text for value in ast.walk(node.value) for text in _template(value) if " " in text)
        elif isinstance(node, ast.FunctionDef) and node.name in _RETURN:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    yield from (text for text in _template(inner.value) if " " in text)
        elif isinstance(node, ast.FunctionDef) and any(_name(item) in _COMMANDS for item in node.decorator_list):
            yield inspect.cleandoc(ast.get_docstring(node) or "")


def _of_call(node: ast.Call, told: bool) -> Iterator[str]:
    name = _name(node)
    given = node.args[: _CALLS.get(name, 0)]
    if name == "append" and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "lines" and told:
        given = node.args
    given += [word.value for word in node.keywords if word.arg in _NAMED]
    for argument in given:
        for text in _template(argument):
            # The names of options and stages are arguments too.
            if " " in text or name in ("Table", "add_column"):
                yield text


def _name(node: ast.AST) -> str:
    target = node.func if isinstance(node, ast.Call) else node
    return target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""


def _template(node: ast.AST) -> list[str]:
    """The templates of an expression: its text with {} for values; both where it chooses between two."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            own = [str(part.value)] if isinstance(part, ast.Constant) else ["{}"]
            found = [before + piece for before in found for piece in own]
        # Texts that are chosen inside a text are translated by themselves.
        inner = [value.value for value in node.values if isinstance(value, ast.FormattedValue)]
        return found + [text for value in inner if isinstance(value, ast.IfExp) for text in _template(value)]
    if isinstance(node, ast.IfExp):
        return _template(node.body) + _template(node.orelse)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [one + other for one in _template(node.left) or ["{}"] for other in _template(node.right) or ["{}"]]
    return []


def main() -> None:
    known = catalogue()
    missing = {room: {text: "" for text in texts if text not in known} for room, texts in templates().items()}
    print(json.dumps({room: texts for room, texts in missing.items() if texts}, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
