"""An engine that says what it is told to say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hanmo.serve.engines.base import TokenEngine
from hanmo.serve.text import Utf8Stream


class ScriptedEngine(TokenEngine):
    """Tokens are bytes; the answer to a prompt is what `script` makes of its text, then the stop id 256.

    Attributes:
        delay: seconds before each token.
        started: set when an answer begins; finished: counts answers whose generator was left or exhausted.
        served, samplings: what was asked for, in order.
    """

    def __init__(self, script: Callable[[str], bytes] | bytes = b"ok", *, delay: float = 0.0, context: int = 4096):
        super().__init__()
        self.name, self.context, self.vocab_size = "scripted", context, 257
        self.stop_ids, self.can_chat = frozenset({256}), True
        self._script = script if callable(script) else lambda _: script
        self.delay = delay
        self.started = threading.Event()
        self.finished = 0
        self.served: list[str] = []
        self.samplings: list[Any] = []

    def encode(self, text: str) -> list[int]:
        return list(text.encode()) or [10]

    def encode_chat(self, messages: Sequence[Any], tools: Sequence[Any] = ()) -> list[int]:
        return list("".join(f"{message['content']}\n" for message in messages).encode())

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b"<end>"

    def detokenizer(self) -> Any:
        characters = Utf8Stream()

        class Bytes:
            def push(self, token: int) -> str:
                return characters.push(bytes([token]))

        return Bytes()

    def tokens(self, prompt, sampling, cancel, index=0) -> Iterator[int]:
        text = bytes(prompt).decode()
        self.served.append(text)
        self.samplings.append(sampling)
        self.started.set()
        try:
            for token in [*self._script(text), 256]:
                if self.delay:
                    time.sleep(self.delay)
                yield token
        finally:
            self.finished += 1
