"""`hanmo chat`: a conversation in the terminal.

Answers go to stdout and all else to stderr, so that a conversation can be piped. Ctrl-C ends an answer, Ctrl-D the
program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from hanmo.console import console
from hanmo.errors import HanmoError, nearest
from hanmo.serve.engines.base import Engine
from hanmo.serve.prompt import fit_history
from hanmo.serve.sampling import Sampling
from hanmo.serve.text import for_terminal, whole_text
from hanmo.serve.typed import messages
from hanmo.tokenizer.chat import Message

_COMMANDS = {
    "/reset": "forget the conversation",
    "/set": "show the settings; /set temperature 0.7 changes one, /set seed off clears it",
    '"""': "begins and ends a message of several lines; so does a \\ at the end of a line",
    "/help": "this list",
    "/exit": "leave (so does Ctrl-D); Ctrl-C ends an answer",
}


def chat_loop(
    engine: Engine,
    *,
    system: str | None,
    sampling: Sampling,
    frame: Callable[[str], str] = str,
    history: Path | None = None,
) -> None:
    """Read messages and answer them until /exit or the end of the input. See `hanmo.serve.chat`.

    Args:
        frame: what the model is asked, of what was typed.
        history: a file for what is typed in a terminal.

    Raises:
        HanmoError: the model has no chat template, the system message does not fit, or the history cannot be read.
    """
    _use_utf8()
    chat = _Chat(engine, system, sampling, frame)
    chat.check()
    if sys.stdin.isatty():
        console.print(f"{engine.name}, context {engine.context} tokens. /help lists what can be done.", soft_wrap=True)
    for message in messages(history, lambda: _note("/exit or Ctrl-D leaves")):
        if not message.strip():
            continue
        try:
            if message.startswith("/") and "\n" not in message:
                if not chat.command(message):
                    return
            else:
                chat.answer(message)
        except HanmoError as error:
            _note(str(error))


class _Chat:
    def __init__(self, engine: Engine, system: str | None, sampling: Sampling, frame: Callable[[str], str]) -> None:
        self._frame = frame
        self._engine = engine
        self._head: list[Message] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._head)
        self._sampling = sampling

    def check(self) -> None:
        """Raise what would make every answer fail."""
        self._engine.check(self._sampling)
        if not all(whole_text(str(message["content"])) for message in self._head):
            raise HanmoError("the system message is not valid text (is the terminal's encoding UTF-8?)")
        self._engine.check_room(self._engine.encode_chat([*self._head, {"role": "user", "content": "?"}]))

    def command(self, line: str) -> bool:
        """Obey a line that begins with a slash; False means to leave."""
        name, _, rest = line.strip().partition(" ")
        match name:
            case "/exit" | "/quit":
                return False
            case "/reset":
                self._messages = list(self._head)
                _note("the conversation is forgotten")
            case "/help":
                for command, doc in _COMMANDS.items():
                    _note(f"{command:<8}{doc}")
            case "/set":
                self._set(rest)
            case _:
                raise HanmoError(f"no command {name}{nearest(name, _COMMANDS)} (/help lists them)")
        return True

    def _set(self, rest: str) -> None:
        name, _, value = rest.strip().partition(" ")
        if value:
            changed = self._sampling.changed(name, value.strip())
            self._engine.check(changed)
            self._sampling = changed
        elif name:
            getattr(self._sampling.changed(name, "off"), name)  # an unknown name is said to be so
        for field in dataclasses.fields(Sampling):
            if name in ("", field.name):
                shown = getattr(self._sampling, field.name)
                _note(f"{field.name} = {'off' if shown is None or shown == () else shown}")

    def answer(self, text: str) -> None:
        """Answer a message; it and the answer become part of the conversation."""
        room = self._engine.context // 4
        reserve = min(room, self._sampling.max_tokens or room)
        asked = [*self._messages, {"role": "user", "content": self._frame(text)}]
        kept, ids, dropped = fit_history(asked, self._engine.encode_chat, self._engine.context, reserve)
        if dropped:
            _note(f"the context is full: the oldest {dropped} messages are forgotten")
        parts: list[str] = []
        finish = None
        with _interruptible() as cancel:
            for delta in self._engine.stream(ids, self._sampling, cancel=cancel):
                parts.append(delta.text)
                sys.stdout.write(for_terminal(delta.text))
                sys.stdout.flush()
                finish = delta.finish
        sys.stdout.write("\n")
        sys.stdout.flush()
        if finish == "cancelled":
            _note("stopped")
        elif finish == "length" and self._sampling.max_tokens is None:
            _note("the answer was cut: the context is full")
        self._messages = [*kept, {"role": "assistant", "content": "".join(parts)}]


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """While the block runs, Ctrl-C sets the event instead of raising inside an engine; a second one raises."""
    cancel = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return

    def stop(*_: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)


def _use_utf8() -> None:
    """Chinese has to come through whatever the platform's encoding is (Windows pipes, LANG=C)."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _note(text: str) -> None:
    console.print(text, style="dim", markup=False, soft_wrap=True)
