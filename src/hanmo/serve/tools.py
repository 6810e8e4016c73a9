"""Calls of tools in an answer: the form that the house's template teaches (and Qwen's), taken out of the text."""

from __future__ import annotations

import uuid
from typing import Any

import orjson

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class CallSplitter:
    """Parts an answer, as it comes in, into words and calls.

    What looks like a call but is none (no JSON, no name, never closed) stays text.
    """

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self.calls = 0

    def push(self, text: str) -> list[str | dict[str, Any]]:
        """Take some text; returns what is now known: words, and calls in OpenAI's form."""
        self._held += text
        found: list[str | dict[str, Any]] = []
        while True:
            sign = CLOSE if self._inside else OPEN
            before, there, behind = self._held.partition(sign)
            if not there:
                break
            if self._inside:
                found.append(self._call(before))
            elif before:
                found.append(before)
            self._held, self._inside = behind, not self._inside
        if not self._inside:
            keep = next((n for n in range(len(OPEN) - 1, 0, -1) if self._held.endswith(OPEN[:n])), 0)
            if self._held[: len(self._held) - keep]:
                found.append(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
        return found

    def flush(self) -> str:
        """The answer has ended: what was held back is text after all."""
        held = (OPEN if self._inside else "") + self._held
        self._held, self._inside = "", False
        return held

    def _call(self, text: str) -> str | dict[str, Any]:
        try:
            said = orjson.loads(text)
            name, arguments = said["name"], said.get("arguments", {})
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            name = arguments = None
        if not isinstance(name, str) or not isinstance(arguments, (dict, str)):
            return f"{OPEN}{text}{CLOSE}"
        self.calls += 1
        told = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        return {
            "index": self.calls - 1,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": name, "arguments": told},
        }
