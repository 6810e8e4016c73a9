"""What a person types in the chat: messages of one line or of many, with line editing and a history on disk."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from hanmo.errors import HanmoError
from hanmo.files import atomic_write

#: Messages that are kept; when there are half as many again, the oldest go.
_KEPT = 1000
FENCE = '"""'


def default_history() -> Path:
    """The user's own history."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "hanmo" / "chat.jsonl"


def messages(history: Path | None, interrupted: Callable[[], None]) -> Iterator[str]:
    r"""Messages from the terminal (with a prompt and line editing) or from a pipe, without their ends.

    A line is a message; one that ends in a backslash goes on in the next line, and what stands between two lines of
    `\"\"\"` is one message. What is pasted into a terminal stays together, too.

    Args:
        history: a file for what is typed in a terminal; None keeps none.
        interrupted: called when Ctrl-C takes back what was being typed.

    Raises:
        HanmoError: the history is not one, or cannot be read.
    """
    if not sys.stdin.isatty():
        yield from _joined(lambda _: sys.stdin.readline())
        return
    past = _History(history)
    while True:
        try:
            for message in _joined(_typed):
                past.add(message)
                yield message
            print()
            return
        except KeyboardInterrupt:
            print()
            interrupted()


def _typed(prompt: str) -> str:
    try:
        return input(prompt) + "\n"
    except EOFError:
        return ""


def _joined(read: Callable[[str], str]) -> Iterator[str]:
    """Messages of the lines that `read` gives for a prompt; "" is the end, a line's end is its last character."""
    while line := read("> "):
        line = line.rstrip("\r\n")
        if line.strip() == FENCE:
            held = []
            while (line := read("… ")) and line.strip() != FENCE:
                held.append(line.rstrip("\r\n"))
            yield "\n".join(held)
            continue
        held = []
        while line.endswith("\\"):
            held.append(line[:-1])
            line = read("… ").rstrip("\r\n")
        yield "\n".join([*held, line])


class _History:
    """What was typed, for the arrow keys, where the terminal library can; each line of the file is a JSON string.

    Attributes:
        past: what was there, the newest last.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._readline: Any = None
        with contextlib.suppress(ImportError):  # Windows has none; its console keeps what was typed until it ends
            import readline

            self._readline = readline
            readline.set_auto_history(False)  # a message of several lines is one entry
            readline.clear_history()
            readline.parse_and_bind("set enable-bracketed-paste on")
        past = self._read()
        self.past = past[-_KEPT:]
        for message in self.past if self._readline else ():
            self._readline.add_history(message)
        if path is not None and len(past) > _KEPT * 3 // 2:
            with atomic_write(path, "wb") as file:
                file.writelines(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in self.past)
            path.chmod(0o600)

    def _read(self) -> list[str]:
        if self._path is None:
            return []
        found = []
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        one = orjson.loads(line)
                    except orjson.JSONDecodeError:
                        one = None
                    if not isinstance(one, str):
                        raise HanmoError(f"{self._path}:{number}: no history of a chat; name another --history, or off")
                    found.append(one)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # What people ask is theirs alone.
            self._path.touch(0o600)
        except OSError as error:
            raise HanmoError(f"{self._path}: cannot be read ({error.strerror}); --history off goes without") from None
        return found

    def add(self, message: str) -> None:
        """Keep a message."""
        if not message.strip():
            return
        if self._readline:
            self._readline.add_history(message)
        if self._path is not None:
            text = message.encode("utf-8", "replace").decode()
            with self._path.open("ab") as file:
                file.write(orjson.dumps(text, option=orjson.OPT_APPEND_NEWLINE))
