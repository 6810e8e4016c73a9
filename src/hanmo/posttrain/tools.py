"""Tools in dialogues: what may be called, and the calls, as the words that the chat template makes of them.

| where | what |
|---|---|
| `tools` of a record | a list of objects (a JSON schema each), or that list as JSON text |
| `tool_calls` of a message | `[{"function": {"name": ..., "arguments": object or JSON text}}, ...]`, or as JSON text |
| a ShareGPT turn from `function_call` | `{"name": ..., "arguments": ...}` as JSON text, or a list of such |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from hanmo.posttrain.faults import Fault, kind_of
from hanmo.tokenizer.chat import calls_text, tools_text


def _parsed(value: Any, field: str) -> Any:
    """A value that may be given as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Fault(field, "is not JSON", str(error)) from None


def tools_of(value: Any, field: str = "tools") -> str:
    """The text about a record's tools; "" where there are none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    tools = _parsed(value, field)
    if not isinstance(tools, list):
        raise Fault(field, f"is {kind_of(tools)} instead of a list of tools")
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise Fault(f"{field}[{index}]", f"is {kind_of(tool)} instead of an object that describes a tool")
    return tools_text(tools) if tools else ""


def with_calls(content: Any, value: Any, field: str) -> str:
    """An assistant's words and calls as one text.

    Args:
        content: the words, or None.
        value: a call or a list of calls, or either as JSON text.
    """
    if content is not None and not isinstance(content, str):
        raise Fault(field.rpartition(".")[0] + ".content", f"is {kind_of(content)} instead of text")
    calls = _parsed(value, field)
    if isinstance(calls, Mapping):
        calls = [calls]
    if not isinstance(calls, list) or not calls:
        raise Fault(field, f"is {kind_of(calls)} instead of a list of calls" if calls != [] else "is an empty list")
    found = []
    for index, call in enumerate(calls):
        where = f"{field}[{index}]"
        if not isinstance(call, Mapping):
            raise Fault(where, f"is {kind_of(call)} instead of a call of a tool")
        said = call.get("function", call)
        name = said.get("name") if isinstance(said, Mapping) else None
        if not isinstance(name, str) or not name:
            raise Fault(f"{where}.name", "is missing", "a call needs the tool's name and arguments")
        arguments = said.get("arguments", {})
        if not isinstance(_parsed(arguments, f"{where}.arguments"), Mapping):
            raise Fault(f"{where}.arguments", "is not an object", "arguments are given by their names")
        found.append((name, arguments))
    return calls_text(content or "", found)
