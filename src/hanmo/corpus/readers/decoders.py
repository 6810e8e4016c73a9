"""From token ids to text, by the files that other projects' tokenizers come in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import orjson

from hanmo.errors import HanmoError
from hanmo.extras import need

#: Control tokens that a project adds behind its SentencePiece model's pieces (ChatGLM3: [gMASK], sop, <|user|>, ...).
_ADDED = 64


@dataclass(frozen=True)
class Decoder:
    """`text(ids)` is the text of ids [n] below `size`; `end_id` is what ends a document, where the files say it."""

    size: int
    end_id: int | None
    decode: Callable[[list[int]], str]

    def text(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of some ids; control tokens give none, unknown ones U+FFFD."""
        return self.decode(np.asarray(ids).tolist())


@lru_cache(maxsize=4)
def decoder_of(path: str) -> Decoder:
    """The decoder of a tokenizer: a file, or a folder that holds one of tokenizer.json, *.model or vocab.txt.

    Raises:
        HanmoError: there is none, or it cannot be read.
    """
    file = _file(Path(path).expanduser())
    try:
        match file.suffix.lower():
            case ".json":
                return _from_json(file)
            case ".model":
                return _from_sentencepiece(file)
            case _:
                return _from_vocabulary(file)
    except HanmoError:
        raise
    except Exception as error:  # the libraries raise whatever their C++ and Rust raise
        cause = " ".join(str(error).split())[:200]
        raise HanmoError(f"{file}: no tokenizer that can be read ({cause})") from None


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    for pattern in ("tokenizer.json", "tokenizer.model", "*.model", "vocab.txt", "*.txt"):
        found = sorted(path.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise HanmoError(f"{path}: several tokenizers ({names}); name one of the files in `tokenizer`")
    raise HanmoError(f"{path}: no tokenizer there (tokenizer.json, a SentencePiece .model, or a vocab.txt)")


def _from_json(file: Path) -> Decoder:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    end = None
    config = file.with_name("tokenizer_config.json")
    if config.is_file():
        token = orjson.loads(config.read_bytes()).get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        end = tokenizer.token_to_id(token) if isinstance(token, str) else None
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return Decoder(size, end, tokenizer.decode)


def _from_sentencepiece(file: Path) -> Decoder:
    processor = need("sentencepiece", "corpus").SentencePieceProcessor(model_file=str(file))
    size, unknown, end = processor.get_piece_size(), processor.unk_id(), processor.eos_id()

    def decode(ids: list[int]) -> str:
        parts = []
        known: list[int] = []
        for id_ in [*ids, -1]:
            if 0 <= id_ < size and id_ != unknown:
                known.append(id_)
            elif id_ in (unknown, -1):
                parts.append(processor.decode(known))
                known = []
        return "\ufffd".join(parts)

    return Decoder(size + _ADDED, end if end >= 0 else None, decode)


def _from_vocabulary(file: Path) -> Decoder:
    """A vocabulary with a token a line: WordPiece where some begin with ##, else words as CPM-2 has them."""
    # \n alone ends a line: a token may be another line separator of Unicode.
    tokens = [line.removesuffix("\r") for line in file.read_bytes().decode().removesuffix("\n").split("\n")]
    pieces = any(token.startswith("##") for token in tokens)
    shown = [_shown(token, pieces) for token in tokens]
    ends = [token for token in ("<eod>", "</s>", "<eos>", "[EOS]") if token in tokens]
    end = tokens.index(ends[0]) if ends else None
    if pieces:
        return Decoder(len(tokens), end, lambda ids: _joined(tokens[id_] for id_ in ids))
    return Decoder(len(tokens), end, lambda ids: "".join(shown[id_] for id_ in ids))


_SPECIAL = re.compile(r"\[[^\[\]]+\]|<[^<>]+>")
_MARKS = {"▂": " ", "▁": " ", "▃": "\n"}  # how CPM-2's vocabulary writes white space


def _shown(token: str, pieces: bool) -> str:
    if token.lower() in ("[unk]", "<unk>"):
        return "\ufffd"
    if token.lower() in ("[sep]", "<sep>"):
        return "\n"  # what LingLong and BERT's users put between lines
    if _SPECIAL.fullmatch(token):
        return ""
    return token if pieces else _MARKS.get(token, token)


def _joined(tokens: Iterable[str]) -> str:
    """WordPiece put together: a space only between two words of letters; where others stood cannot be known."""
    parts: list[str] = []
    word = False
    for token in tokens:
        part = _shown(token, True)
        if token.startswith("##") and len(token) > 2:
            part = token[2:]
        elif word and _is_letter(part[:1]):
            parts.append(" ")
        parts.append(part)
        word = _is_letter(part[-1:])
    return "".join(parts)


def _is_letter(char: str) -> bool:
    return char.isalpha() and char < "\u0250"
