"""Tokenizers of `tokenizers` (a tokenizer.json) and WordPiece vocabularies."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.errors import HanmoError
from hanmo.tokenizer.opening.base import SPACE, Encoded, OpenTokenizer, Piece, roles_of, spaced_piece
from hanmo.tokenizer.train import byte_letters


class HuggingFace(OpenTokenizer):
    """A tokenizer.json, through `tokenizers`; roles from the files beside it."""

    def __init__(self, path: Path, backend: Any = None) -> None:
        from tokenizers import Tokenizer

        self.path = path
        self._backend = Tokenizer.from_file(str(path)) if backend is None else backend
        self._backend.encode_special_tokens = True
        self._config = self._backend.to_str()
        model = type(self._backend.model).__name__
        self._byte_level = '"type":"ByteLevel"' in self._config
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self._spaced = not self._byte_level and model in ("BPE", "Unigram") and SPACE in self._config
        if self._byte_level:
            self.form = "byte-level BPE"
        elif self._spaced:
            self.form = f"SentencePiece {model}"
        else:
            self.form = model
        self._of_letter = {letter: byte for byte, letter in enumerate(byte_letters())}
        added = self._backend.get_added_tokens_decoder()
        self._unknown = getattr(self._backend.model, "unk_token", None)
        self.pieces = [Piece("", b"", "unused")] * (max(vocabulary.values(), default=-1) + 1)
        for name, index in vocabulary.items():
            self.pieces[index] = self._piece(name, added.get(index))
        self.roles = roles_of(path.parent, vocabulary)
        if isinstance(self._unknown, str) and self._unknown in vocabulary:
            self.roles.setdefault("unk", vocabulary[self._unknown])

    def _piece(self, name: str, added: Any) -> Piece:
        if name == self._unknown and name:
            return Piece(name, b"", "unknown")
        if added is not None:
            return Piece(name, b"", "special") if added.special else Piece(name, name.encode())
        if self._byte_level:
            found = [self._of_letter.get(letter) for letter in name]
            # A name with a letter outside the alphabet cannot come out of bytes: it stands for itself.
            return Piece(name, name.encode() if None in found else bytes(b for b in found if b is not None))
        if self._spaced:
            return spaced_piece(name)
        if self.form == "WordPiece":
            prefix = self._backend.model.continuing_subword_prefix or "##"
            return Piece(name, name.removeprefix(prefix).encode() if name != prefix else name.encode())
        return Piece(name, name.encode())

    def encode(self, text: str) -> Encoded:
        found = self._backend.encode(text, add_special_tokens=False)
        spans = np.array(found.offsets, np.int64).reshape(-1, 2)
        words = np.array([-1 if word is None else word for word in found.word_ids], np.int64)
        return Encoded(np.array(found.ids, np.int64), spans[:, 0], spans[:, 1], words)

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def spell(self, text: bytes) -> list[int]:
        model = self._backend.model
        try:
            plain = text.decode()
        except UnicodeDecodeError:
            plain = None
        if self._byte_level:
            letters = byte_letters()
            words = ["".join(letters[byte] for byte in text)]
            if plain is not None and self._backend.pre_tokenizer is not None:
                words = [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(plain)]
                if len(words) > 1 and words[0] == letters[32]:
                    words = words[1:]  # a splitter that puts a space before every text
            found = [token.id for word in words for token in model.tokenize(word)]
        elif plain is None:
            names = (model.token_to_id(f"<0x{byte:02X}>") for byte in text)
            found = [index for index in names if index is not None]
        elif self._spaced:
            found = [token.id for token in model.tokenize(plain.replace(" ", SPACE))]
        else:
            found = self._backend.encode(plain, add_special_tokens=False).ids
        return [index for index in found if self.pieces[index].kind != "unknown"]


class WordPiece(HuggingFace):
    """A vocab.txt of BERT's form; cased if it holds the capital letters, as BERT's own Chinese one does not."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

        names = [line.rstrip("\r") for line in path.read_text(encoding="utf-8").split("\n")]
        if names and not names[-1]:
            names.pop()
        if "[UNK]" not in names:
            raise HanmoError(
                f"{path}: no [UNK] in it, so it is no WordPiece vocabulary; turn it into a folder with "
                "`hanmo tokenizer import` first"
            )
        cased = sum(letter in names for letter in string.ascii_uppercase) > 13
        backend = Tokenizer(models.WordPiece({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=not cased)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(cleanup=False)
        own = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if name in names]
        backend.add_special_tokens(own)
        super().__init__(path, backend)
        index = {name: number for number, name in enumerate(names)}
        self.roles |= {name[1:-1].lower(): index[name] for name in own}
