"""The words of a Hugging Face model folder: its tokenizer, its chat template, and the ids that end an answer.

What engines that serve folders share, whoever computes: the same text gives the same ids.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from transformers import GenerationConfig, PreTrainedTokenizerFast

import hanmo.tokenizer
from hanmo.errors import HanmoError
from hanmo.models.folder import title
from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.serve.engines.base import Detokenizer, TokenEngine
from hanmo.serve.prompt import ForeignTemplate, in_house, is_ours
from hanmo.serve.text import REPLACEMENT, Utf8Stream
from hanmo.tokenizer.chat import ChatFormat, Message


class Words:
    """Text to ids and back, by a folder.

    Args:
        folder: of the model.
        config: the model's.

    Attributes:
        tokenizer: its tokenizer, which takes special tokens in texts literally.
        vocab_size, stop_ids, can_chat, backward: see `Engine`.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        self._name = title(folder)
        tokenizer = hanmo.tokenizer.load(folder)
        # For good, not call by call: what users write never holds special tokens, and no thread may see it otherwise.
        tokenizer.backend_tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        text_config = config.get_text_config()
        self.vocab_size = min(len(tokenizer), text_config.vocab_size)
        self._pieces = _byte_pieces(tokenizer)
        # Documents of a unified model begin so, whatever its tokenizer is used for elsewhere.
        self._opening = cast(int, tokenizer.cls_token_id) if text_config.model_type == "hanmo_unified" else None
        self._linglong = text_config.model_type == LingLongConfig.model_type
        self._bos = text_config.bos_token_id if self._linglong else None
        self.backward = self._linglong and text_config.backward
        self._chat = _chat_encoder(tokenizer, self.backward)
        self.can_chat = self._chat is not None
        self.stop_ids = self._stops(folder, config)

    def _stops(self, folder: Path, config: Any) -> frozenset[int]:
        sources = [config, config.get_text_config(), self.tokenizer]
        if (folder / "generation_config.json").is_file():
            sources.append(GenerationConfig.from_pretrained(folder))
        found: set[int] = set()
        for source in sources:
            ids = getattr(source, "eos_token_id", None)
            found.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
        if isinstance(self._chat, ChatFormat):
            found.update(self._chat.stop_ids)
        return frozenset(found)

    def encode(self, text: str) -> list[int]:
        """See `Engine.encode`."""
        # A LingLong model saw nothing around its documents but what opens and ends them.
        with self._lock:
            plain = self._opening is not None or self._linglong
            ids = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=not plain).ids
        if self._opening is not None:
            return [self._opening, *ids]
        if self.backward:
            ids.reverse()
        if isinstance(self._chat, ChatFormat):
            return [self._chat.end_of_text, *ids]  # as every document stood in training
        if self._bos is not None:
            return [self._bos, *ids]
        if ids:
            return ids
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        if start is None:
            raise HanmoError("the prompt is empty and the model has no token that begins a document")
        return [cast(int, start)]

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        """See `Engine.encode_chat`."""
        if self._chat is None:
            raise HanmoError(f"{self._name}: has no chat template (a base model?); it can only continue text")
        with self._lock:
            if isinstance(self._chat, ChatFormat):
                return self._chat.encode(in_house(messages, tools), add_generation_prompt=True)[0]
            return self._chat.encode(messages, tools)

    def piece(self, token: int) -> bytes:
        """See `Engine.piece`."""
        if self._pieces is not None and self._pieces[token]:
            return self._pieces[token]
        return self.tokenizer.backend_tokenizer.decode([token], skip_special_tokens=False).encode()

    def detokenizer(self) -> Detokenizer:
        """See `TokenEngine.detokenizer`."""
        return _PieceStream(self._pieces) if self._pieces is not None else _AnyStream(self.tokenizer)


def _chat_encoder(tokenizer: PreTrainedTokenizerFast, leftward: bool) -> ChatFormat | ForeignTemplate | None:
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return None
    if is_ours(template):
        return ChatFormat(tokenizer, leftward)
    if leftward:
        return None  # whose text would have to stand in which order, a template does not say
    added = tokenizer.added_tokens_decoder.values()

    def encode(text: str, special: bool) -> list[int]:
        backend = tokenizer.backend_tokenizer
        backend.encode_special_tokens = not special
        try:
            return backend.encode(text, add_special_tokens=False).ids
        finally:
            backend.encode_special_tokens = True

    variables = {"bos_token": str(tokenizer.bos_token or ""), "eos_token": str(tokenizer.eos_token or "")}
    return ForeignTemplate(template, variables, [token.content for token in added], encode)


def _byte_pieces(tokenizer: PreTrainedTokenizerFast) -> list[bytes] | None:
    """The bytes of every id of a byte-level tokenizer (special tokens: none), or None for another kind."""
    decoder = tokenizer.backend_tokenizer.decoder
    if decoder is None or "ByteLevel" not in type(decoder).__name__:
        return None
    to_byte = {character: byte for byte, character in _byte_characters().items()}
    pieces = []
    added = tokenizer.added_tokens_decoder
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
        if index in added:
            pieces.append(b"" if added[index].special else added[index].content.encode())
        elif token is None:
            pieces.append(b"")
        else:
            pieces.append(b"".join(bytes([to_byte[c]]) if c in to_byte else c.encode() for c in token))
    return pieces


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, which byte-level vocabularies are written in."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + place) for place, byte in enumerate(others)}


class WordedEngine(TokenEngine):
    """An engine whose prompts and answers are cut into the tokens of a model folder's `Words`."""

    _words: Words

    def encode(self, text: str) -> list[int]:
        return self._words.encode(text)

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        return self._words.encode_chat(messages, tools)

    def piece(self, token: int) -> bytes:
        return self._words.piece(token)

    def detokenizer(self) -> Detokenizer:
        return self._words.detokenizer()


class _PieceStream:
    """Bytes by table: exact for byte-level vocabularies."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._characters = Utf8Stream()

    def push(self, token: int) -> str:
        return self._characters.push(self._pieces[token])


class _AnyStream:
    """The tokenizer's own decoder over a short window, for vocabularies that are not byte-level.

    Not the library's `DecodeStream`: that one raises when bytes come that never become a character.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._decode = tokenizer.backend_tokenizer.decode
        #: The latest ids; the first `_shown` of them are in the text already and only give context (spaces, joins).
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token: int) -> str:
        self._ids.append(token)
        before, now = self._decode(self._ids[: self._shown]), self._decode(self._ids)
        if now.endswith(REPLACEMENT) and len(self._ids) - self._shown < 4:
            return ""  # a character has at most four bytes, so it may still come
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return now[len(before) :].replace(REPLACEMENT, "")
