"""What every opened tokenizer is, whatever its form."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanmo.files import read_json

PieceKind = Literal["normal", "byte", "special", "unknown", "unused"]
ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
#: What SentencePiece writes for a space.
SPACE = "▁"


@dataclass(frozen=True)
class Piece:
    """One token: what it is called, and the UTF-8 bytes it stands for (b"" for special ones; a space is a space).

    `kind` is "byte" only for the bytes that SentencePiece falls back on; a byte-level vocabulary has none of them.
    """

    name: str
    bytes: bytes
    kind: PieceKind = "normal"


class Encoded(NamedTuple):
    """The tokens of a text, each with the characters [start, end) it comes from; all arrays have shape [tokens].

    Tokens that share a character have it both. `words` numbers the stretches that the splitter made, none of which a
    merge can leave; all 0 where there is no splitter.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    words: NDArray[np.int64]


class OpenTokenizer(ABC):
    """A tokenizer of any form.

    Attributes:
        path: where it was read from.
        form: "byte-level BPE", "SentencePiece BPE", "SentencePiece Unigram", "WordPiece", "tiktoken BPE" or a model's
            name in `tokenizers`.
        pieces: what stands behind each id (ids that nothing has are of kind "unused").
        roles: bos, eos, pad, unk, sep, cls, mask -> id, those that there are.
    """

    path: Path
    form: str
    pieces: list[Piece]
    roles: dict[str, int]

    @abstractmethod
    def encode(self, text: str) -> Encoded:
        """Tokens of a text and where they come from."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; invalid UTF-8 becomes U+FFFD."""

    @abstractmethod
    def spell(self, text: bytes) -> list[int]:
        """The tokens that the bare bytes are in the midst of a text: no prefix is added. Unknown ones are left out."""


def spaced_piece(name: str) -> Piece:
    """A piece of SentencePiece by its name: a byte as <0xNN>, or text with ▁ for spaces."""
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return Piece(name, bytes([int(name[3:5], 16)]), "byte")
    return Piece(name, name.replace(SPACE, " ").encode())


def roles_of(folder: Path, vocabulary: dict[str, int]) -> dict[str, int]:
    """Roles as the files of a Hugging Face folder say them."""
    found: dict[str, int] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        config = read_json(folder / name)
        for role in ROLES:
            token = config.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token in vocabulary:
                found[role] = vocabulary[token]
    return found


def is_han(character: str) -> bool:
    """Whether a character is Han (an ideograph, its compatibility forms and 〇 among them)."""
    if character == "〇":
        return True
    return character > "\u2e7f" and unicodedata.name(character, "").startswith(
        ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH")
    )
