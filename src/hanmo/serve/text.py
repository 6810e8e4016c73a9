"""From a stream of bytes to text that may be shown: whole characters only, and never a stop string.

A byte-level token may end in the middle of a Chinese character, and a stop string may be spread over several tokens.
Both classes here hold back what could still turn out otherwise, and give out the rest at once.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

REPLACEMENT = "\ufffd"


class Utf8Stream:
    """Joins bytes to characters.

    Bytes that can no longer become a character are dropped, not shown as U+FFFD; nor is a U+FFFD that a model learnt
    from damaged text let through.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def push(self, data: bytes) -> str:
        """Take some bytes and return the characters that are complete."""
        return self._decoder.decode(data).replace(REPLACEMENT, "")


class StopStrings:
    """Lets text through up to the first stop string, and holds back any tail that may become one.

    The first one is the one that is complete first; of two complete at the same character, the longer. So the result
    does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Take some text and return what is safe to show; nothing more once a stop string was found."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        buffer = self._held + text
        hits = [(at + len(stop), at, stop) for stop in self._stops if (at := buffer.find(stop)) >= 0]
        if hits:
            _, at, self.found = min(hits)
            self._held = ""
            return buffer[:at]
        keep = self._tail(buffer)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep]

    def flush(self) -> str:
        """The answer has ended: what was held back is text after all."""
        held, self._held = self._held, ""
        return held

    def _tail(self, buffer: str) -> int:
        """Length of the longest end of `buffer` that begins a stop string."""
        longest = min(len(buffer), max(map(len, self._stops)) - 1)
        for size in range(longest, 0, -1):
            if any(stop.startswith(buffer[-size:]) for stop in self._stops):
                return size
        return 0


def for_terminal(text: str) -> str:
    """`text` without control characters (but newline and tab): a model must not be able to steer a terminal."""
    return "".join(c for c in text if c in "\n\t" or not (c < " " or "\x7f" <= c <= "\x9f"))


def whole_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8 (half a surrogate pair, which JSON can spell, cannot)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
