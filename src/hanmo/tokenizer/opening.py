"""Opening any tokenizer: one small interface over the reference library of each form.

`open_tokenizer` takes a Hugging Face folder or its tokenizer.json, a SentencePiece model, a WordPiece vocab.txt or a
.tiktoken file. Text is encoded by the library that the form comes from (tokenizers, sentencepiece, tiktoken), with
special tokens that stand in a text as characters taken for those characters, and without tokens added around it.
"""

from __future__ import annotations

import base64
import binascii
import string
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.files import read_json
from hanmo.tokenizer import QWEN2_SPLIT
from hanmo.tokenizer.train import byte_letters

PieceKind = Literal["normal", "byte", "special", "unknown", "unused"]
ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
#: What SentencePiece writes for a space.
SPACE = "▁"
#: How cl100k_base cuts text before the merges; what a .tiktoken file was trained with does not stand in it.
_CL100K_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_FORMS = "a folder with tokenizer.json, tokenizer.model or vocab.txt, or one such file, or a .model or .tiktoken file"


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


def open_tokenizer(path: Path | str) -> OpenTokenizer:
    """Open a tokenizer of any form.

    Raises:
        HanmoError: there is none, it is of a form not known here, or its library is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise HanmoError(f"{path}: no such file or folder; give {_FORMS}")
    if path.is_dir():
        path = _in_folder(path)
    try:
        if path.name == "tokenizer.json":
            return _HuggingFace(path)
        match path.suffix:
            case ".model":
                return _SentencePiece(path)
            case ".tiktoken":
                return _Tiktoken(path)
            case ".txt":
                if _class_of(path.parent) == "HanmoWordTokenizer":
                    from hanmo.tokenizer.opening_words import Words

                    return Words(path)
                return _WordPiece(path)
            case ".json":
                return _HuggingFace(path)
    except (OSError, HanmoError):
        raise
    except Exception as error:  # each library has errors of its own for a file that is not what its name says
        raise HanmoError(f"{path}: not a tokenizer of the form that its name says ({error})") from None
    raise HanmoError(f"{path}: not a tokenizer that is known here; give {_FORMS}")


def _in_folder(folder: Path) -> Path:
    for pattern in ("tokenizer.json", "model/tokenizer.json", "tokenizer.model", "*.model", "*.tiktoken", "vocab.txt"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise HanmoError(f"{folder}: {len(found)} tokenizers there ({found[0].name}, ...); name one of the files")
        if found:
            return found[0]
    raise HanmoError(f"{folder}: no tokenizer there; give {_FORMS}")


class _HuggingFace(OpenTokenizer):
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
        self.roles = _roles(path.parent, vocabulary)
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
            return _spaced_piece(name)
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


def _spaced_piece(name: str) -> Piece:
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return Piece(name, bytes([int(name[3:5], 16)]), "byte")
    return Piece(name, name.replace(SPACE, " ").encode())


def _roles(folder: Path, vocabulary: dict[str, int]) -> dict[str, int]:
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


class _WordPiece(_HuggingFace):
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


class _SentencePiece(OpenTokenizer):
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
            found = _spaced_piece(entry.piece)
            name = kinds.get(entry.type, "normal")
            self.pieces.append(Piece(entry.piece, found.bytes if name in ("normal", "byte") else b"", name))
        added = read_added(path.parent, len(self.pieces)) if path.name == "tokenizer.model" else {}
        for index, (name, special) in sorted(added.items()):
            self.pieces += [Piece("", b"", "unused")] * (index + 1 - len(self.pieces))
            if self.pieces[index].kind in ("normal", "unused"):
                self.pieces[index] = Piece(name, b"" if special else name.encode(), "special" if special else "normal")
        own = {role: getattr(self._processor, f"{role}_id")() for role in ("bos", "eos", "pad", "unk")}
        self.roles = {role: index for role, index in own.items() if index >= 0}
        self.roles |= _roles(path.parent, {piece.name: index for index, piece in enumerate(self.pieces)})

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


def _class_of(folder: Path) -> str | None:
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


class _Tiktoken(OpenTokenizer):
    """A .tiktoken file of ranks, through `tiktoken`; special tokens do not stand in such a file."""

    def __init__(self, path: Path) -> None:
        library = need("tiktoken", "tokenizers")
        self.path, self.form = path, "tiktoken BPE"
        ranks: dict[bytes, int] = {}
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            try:
                if line.strip():
                    token, rank = line.split()
                    ranks[base64.b64decode(token, validate=True)] = int(rank)
            except (ValueError, binascii.Error):
                raise HanmoError(f"{path}:{number}: not a line of a .tiktoken file (base64 token, rank)") from None
        split = QWEN2_SPLIT if "qwen" in path.name.lower() else _CL100K_SPLIT
        self._encoding = library.Encoding(path.stem, pat_str=split, mergeable_ranks=ranks, special_tokens={})
        self.pieces = [Piece("", b"", "unused")] * (max(ranks.values()) + 1)
        for token, index in ranks.items():
            self.pieces[index] = Piece(token.decode("utf-8", "backslashreplace"), token)
        self.roles = {}

    def encode(self, text: str) -> Encoded:
        ids = np.array(self._encoding.encode(text, disallowed_special=()), np.int64)
        ends = np.cumsum([len(self.pieces[index].bytes) for index in ids.tolist()], dtype=np.int64)
        # Which character each byte belongs to.
        sizes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        widths = 1 + (sizes > 0x7F).astype(np.int64) + (sizes > 0x7FF) + (sizes > 0xFFFF)
        of_byte = np.repeat(np.arange(len(text)), widths)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ids)]
        return Encoded(ids, of_byte[starts], of_byte[ends - 1] + 1, np.zeros(len(ids), np.int64))

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode(list(ids))

    def spell(self, text: bytes) -> list[int]:
        try:
            return self._encoding.encode(text.decode(), disallowed_special=())
        except UnicodeDecodeError:
            return [self._encoding.encode_single_token(bytes([byte])) for byte in text]


def is_han(character: str) -> bool:
    """Whether a character is Han (an ideograph, its compatibility forms and 〇 among them)."""
    if character == "〇":
        return True
    return character > "\u2e7f" and unicodedata.name(character, "").startswith(
        ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH")
    )
