"""SentencePiece models, by the library itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.files import read_json
from hanmo.tokenizer.opening.base import Encoded, OpenTokenizer, Piece, PieceKind, roles_of, spaced_piece


class SentencePiece(OpenTokenizer):
    """A SentencePiece model, through `sentencepiece`; added tokens from the files beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.proto = read_proto(path)
        library = need("sentencepiece", "tokenizers")
        self._processor = library.SentencePieceProcessor(model_proto=self.proto.SerializeToString())
        bare = type(self.proto)()
        bare.CopyFrom(self.proto)
        bare.normalizer_spec.add_dummy_prefix = False
        bare.normalizer_spec.remove_extra_whitespaces = False
        self._bare = library.SentencePieceProcessor(model_proto=bare.SerializeToString())
        kind = {1: "Unigram", 2: "BPE", 3: "word", 4: "char"}.get(self.proto.trainer_spec.model_type, "Unigram")
        self.form = f"SentencePiece {kind}"
        kinds: dict[int, PieceKind] = {2: "unknown", 3: "special", 5: "unused", 6: "byte"}
        self.pieces = []
        for entry in self.proto.pieces:
            found = spaced_piece(entry.piece)
            name = kinds.get(entry.type, "normal")
            self.pieces.append(Piece(entry.piece, found.bytes if name in ("normal", "byte") else b"", name))
        added = read_added(path.parent, len(self.pieces)) if path.name == "tokenizer.model" else {}
        for index, (name, special) in sorted(added.items()):
            self.pieces += [Piece("", b"", "unused")] * (index + 1 - len(self.pieces))
            if self.pieces[index].kind in ("normal", "unused"):
                self.pieces[index] = Piece(name, b"" if special else name.encode(), "special" if special else "normal")
        own = {role: getattr(self._processor, f"{role}_id")() for role in ("bos", "eos", "pad", "unk")}
        self.roles = {role: index for role, index in own.items() if index >= 0}
        self.roles |= roles_of(path.parent, {piece.name: index for index, piece in enumerate(self.pieces)})

    def encode(self, text: str) -> Encoded:
        found = self._processor.encode(text, return_type="offset_mapping")
        spans = np.array(found["offsets"], np.int64).reshape(-1, 2)
        ids = np.array(found["ids"], np.int64)
        return Encoded(ids, spans[:, 0], spans[:, 1], np.zeros(len(ids), np.int64))

    def decode(self, ids: Sequence[int]) -> str:
        # The library knows nothing of added tokens; they stand for their names.
        parts: list[str] = []
        held: list[int] = []
        for index in [*map(int, ids), -1]:
            if 0 <= index < len(self.proto.pieces):
                held.append(index)
                continue
            parts.append(self._processor.decode(held))
            held = []
            if index >= 0:
                parts.append(self.pieces[index].name)
        return "".join(parts)

    def spell(self, text: bytes) -> list[int]:
        try:
            found = self._bare.encode(text.decode())
        except UnicodeDecodeError:
            names = [self._bare.piece_to_id(f"<0x{byte:02X}>") for byte in text]
            found = [index for index in names if self.pieces[index].kind == "byte"]
        return [index for index in found if self.pieces[index].kind != "unknown"]


def read_proto(path: Path) -> Any:
    """A SentencePiece model file as its protobuf message.

    Raises:
        HanmoError: it is not one.
    """
    # Without protobuf the message classes of sentencepiece cannot be made.
    need("google.protobuf", "tokenizers")
    message = need("sentencepiece.sentencepiece_model_pb2", "tokenizers").ModelProto()
    try:
        message.ParseFromString(path.read_bytes())
    except Exception:
        message.Clear()
    if not message.pieces:
        raise HanmoError(f"{path}: not a SentencePiece model")
    return message


def class_of(folder: Path) -> str | None:
    config = folder / "tokenizer_config.json"
    return read_json(config).get("tokenizer_class") if config.is_file() else None


def read_added(folder: Path, size: int) -> dict[int, tuple[str, bool]]:
    """Added tokens of a Hugging Face folder without tokenizer.json: id -> (text, whether special).

    Args:
        size: of the vocabulary, behind which a folder of our own class lists them.
    """
    found: dict[int, tuple[str, bool]] = {}
    if (folder / "added_tokens.json").is_file():
        found |= {index: (name, True) for name, index in read_json(folder / "added_tokens.json").items()}
    if (folder / "tokenizer_config.json").is_file():
        listed = read_json(folder / "tokenizer_config.json").get("added") or []
        found |= {index: (name, True) for index, name in enumerate(listed, size)}
        decoder = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        found |= {int(index): (item["content"], bool(item.get("special"))) for index, item in decoder.items()}
    return found
