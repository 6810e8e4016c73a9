"""Kinds of tokenizers beside the byte-level BPE: SentencePiece, character WordPiece, words, pinyin."""

from __future__ import annotations

from hanmo.errors import HanmoError


class TooLarge(HanmoError):
    """A text does not hold so many tokens.

    Attributes:
        supported: how many it holds.
    """

    def __init__(self, supported: int, asked: int, what: str = "tokens", why: str = "") -> None:
        super().__init__(
            f"the corpus supports only {supported} {what}, not {asked}{f' ({why})' if why else ''}: set vocab_size to "
            "that or less, or give more text"
        )
        self.supported = supported
