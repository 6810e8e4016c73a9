"""A word tokenizer of ours behind the interface of `hanmo.tokenizer.opening`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hanmo.tokenizer import load
from hanmo.tokenizer.chat import encode_text
from hanmo.tokenizer.forms.word import BYTES, NEWLINE, SPACE
from hanmo.tokenizer.opening.base import ROLES, Encoded, OpenTokenizer, Piece


class Words(OpenTokenizer):
    """The folder of a `HanmoWordTokenizer`, of which `path` is the vocab.txt."""

    def __init__(self, path: Path) -> None:
        self.path, self.form = path, "words"
        self._tokenizer = load(path.parent)
        self._backend = self._tokenizer.backend_tokenizer
        self._backend.encode_special_tokens = True
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        added = self._backend.get_added_tokens_decoder()
        values = {name: bytes([byte]) for byte, name in enumerate(BYTES)}
        self.pieces = [Piece("", b"", "unused")] * (max(vocabulary.values()) + 1)
        for name, index in vocabulary.items():
            if name == self._tokenizer.unk_token:
                self.pieces[index] = Piece(name, b"", "unknown")
            elif index in added:
                self.pieces[index] = Piece(name, b"", "special")
            elif name in values:
                self.pieces[index] = Piece(name, values[name], "byte")
            else:
                self.pieces[index] = Piece(name, name.replace(SPACE, " ").replace(NEWLINE, "\n").encode())
        named = {role: getattr(self._tokenizer, f"{role}_token") for role in ROLES}
        self.roles = {role: vocabulary[str(name)] for role, name in named.items() if name and str(name) in vocabulary}

    def encode(self, text: str) -> Encoded:
        found = self._backend.encode(text, add_special_tokens=False)
        spans = np.array(found.offsets, np.int64).reshape(-1, 2)
        return Encoded(np.array(found.ids, np.int64), spans[:, 0], spans[:, 1], np.zeros(len(found.ids), np.int64))

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def spell(self, text: bytes) -> list[int]:
        try:
            found = encode_text(self._tokenizer, text.decode())
        except UnicodeDecodeError:
            names = (self._backend.token_to_id(BYTES[byte]) for byte in text)
            found = [index for index in names if index is not None]
        return [index for index in found if self.pieces[index].kind != "unknown"]
