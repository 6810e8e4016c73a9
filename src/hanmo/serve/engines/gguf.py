"""What both engines for .gguf files share: opening the file, its vocabulary, and conversations as ids.

Through llama.cpp's C interface, so that a conversation is encoded piece by piece, as in training: llama.cpp's own chat
code renders text first, and what people write could then form special tokens.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hanmo.convert.llamacpp import require_llama_cpp
from hanmo.errors import HanmoError
from hanmo.models.folder import title
from hanmo.pool import cores
from hanmo.serve.engines.base import DEFAULT_CONTEXT
from hanmo.serve.prompt import ForeignTemplate, in_house, is_ours
from hanmo.serve.text import Utf8Stream
from hanmo.tokenizer.chat import ChatFormat, Message

C = require_llama_cpp()

#: Architectures of files that make vectors of texts.
ENCODERS = ("bert", "modern-bert")

last_errors: list[str] = []


@C.llama_log_callback
def _on_log(level: int, text: bytes, _: Any) -> None:
    """Keep llama.cpp quiet, but remember what it said went wrong."""
    if level == 4:  # GGML_LOG_LEVEL_ERROR
        last_errors.append(text.decode("utf-8", "replace").strip())
        del last_errors[5:]


class Gguf:
    """A .gguf file, opened.

    Args:
        path: the file.
        context: tokens of prompt and answer together, None: the file's own, at most `DEFAULT_CONTEXT`.
        layers: so many go to the accelerator that llama.cpp was built for.
        only_words: open the vocabulary and not the weights.

    Attributes:
        handle: llama.cpp's model; vocabulary: its words.
        name, context, vocab_size, stop_ids, can_chat: see `Engine`.
        exact: its weights are F32: whoever keeps those wants exact answers, and llama.cpp would round keys and values
            to F16.
    """

    def __init__(self, path: Path, context: int | None, *, layers: int = 0, only_words: bool = False) -> None:
        C.llama_log_set(_on_log, ctypes.c_void_p(0))
        C.llama_backend_init()
        last_errors.clear()
        parameters = C.llama_model_default_params()
        parameters.n_gpu_layers = layers
        parameters.vocab_only = only_words
        self.handle = C.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.handle:
            raise HanmoError(f"{path}: llama.cpp cannot load it ({reason()})")
        # Once, at `close` or with the object. Not at the interpreter's end: a server killed in a hurry may still
        # be computing with it in another thread.
        self.close = weakref.finalize(self, C.llama_model_free, self.handle)
        self.close.atexit = False
        self.name = title(path)
        if self.meta("general.architecture") in ENCODERS:
            self.close()
            raise HanmoError(f"{path}: an encoder, which writes nothing; `llama-server --embedding` has use for it")
        trained = self.meta(f"{self.meta('general.architecture')}.context_length")
        self.context = min(int(trained) if trained.isdigit() else DEFAULT_CONTEXT, context or DEFAULT_CONTEXT)
        self.exact = self.meta("general.file_type") == "0"
        self.vocabulary = Vocabulary(C.llama_model_get_vocab(self.handle))
        self.vocab_size = self.vocabulary.used
        self.stop_ids = frozenset(
            i for i in range(self.vocabulary.size) if C.llama_vocab_is_eog(self.vocabulary.handle, i)
        )
        self._chat = self._chat_encoder()
        self.can_chat = self._chat is not None

    def meta(self, key: str) -> str:
        """A value of the file's metadata as text, empty where there is none."""
        buffer = ctypes.create_string_buffer(256)
        C.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def _chat_encoder(self) -> ChatFormat | ForeignTemplate | None:
        raw = C.llama_model_chat_template(self.handle, None)
        if not raw:
            return None
        template = raw.decode("utf-8", "replace")
        if is_ours(template):
            return ChatFormat(self.vocabulary)  # type: ignore[arg-type]  (all that ChatFormat asks of a tokenizer)
        vocabulary = self.vocabulary
        variables = {"bos_token": vocabulary.text(vocabulary.bos), "eos_token": vocabulary.text(vocabulary.eos)}
        return ForeignTemplate(template, variables, vocabulary.specials(), vocabulary.tokenize)

    def encode(self, text: str) -> list[int]:
        """See `Engine.encode`."""
        vocabulary = self.vocabulary
        ids = vocabulary.tokenize(text, False, add_special=True)
        if isinstance(self._chat, ChatFormat):
            return [self._chat.end_of_text, *ids]  # as every document stood in training
        if ids:
            return ids
        start = vocabulary.eos if vocabulary.bos is None else vocabulary.bos
        if start is None:
            raise HanmoError("the prompt is empty and the model has no token that begins a document")
        return [start]

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        """See `Engine.encode_chat`."""
        if self._chat is None:
            raise HanmoError(f"{self.name}: has no chat template (a base model?); it can only continue text")
        if isinstance(self._chat, ChatFormat):
            return self._chat.encode(in_house(messages, tools), add_generation_prompt=True)[0]
        return self._chat.encode(messages, tools)


class Vocabulary:
    """The vocabulary inside a .gguf file, in the shape that `ChatFormat` asks of a tokenizer.

    Attributes:
        size: rows; used: ids below it are tokens (rows that only pad the matrix are marked unused at the end).
    """

    name_or_path = "the .gguf file's vocabulary"

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.size: int = C.llama_vocab_n_tokens(handle)
        self.used = self.size
        while self.used and C.llama_vocab_get_attr(handle, self.used - 1) & C.LLAMA_TOKEN_ATTR_UNUSED:
            self.used -= 1
        self.bos = _id(C.llama_vocab_bos(handle))
        self.eos = _id(C.llama_vocab_eos(handle))

    @property
    def backend_tokenizer(self) -> Vocabulary:
        return self

    #: `ChatFormat` sets it around every call; specials are never parsed in `encode`, so it changes nothing.
    encode_special_tokens = True

    def encode(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        """As a `tokenizers.Tokenizer` would, special tokens taken literally."""
        return SimpleNamespace(ids=self.tokenize(text, False, add_special=add_special_tokens))

    def token_to_id(self, token: str) -> int | None:
        """The id of a special token."""
        ids = self.tokenize(token, True)
        return ids[0] if len(ids) == 1 else None

    def tokenize(self, text: str, special: bool, add_special: bool = False) -> list[int]:
        """Ids of a text, with special tokens in it parsed or taken literally."""
        data = text.encode()
        room = len(data) + 8
        array = (C.llama_token * room)()
        count = C.llama_tokenize(self.handle, data, len(data), array, room, add_special, special)
        if count < 0:
            raise HanmoError(f"llama.cpp cannot tokenise a text of {len(data)} bytes (status {count})")
        return array[:count]

    def text(self, token: int | None) -> str:
        """How a token is written in the vocabulary."""
        return "" if token is None else C.llama_vocab_get_text(self.handle, token).decode("utf-8", "replace")

    def specials(self) -> list[str]:
        """Texts of the tokens that llama.cpp would parse out of a text."""
        kinds = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_USER_DEFINED
        return [self.text(i) for i in range(self.size) if C.llama_vocab_get_attr(self.handle, i) & kinds]

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; none for special tokens."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = C.llama_token_to_piece(self.handle, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def spelling(self, token: int) -> bytes:
        """The bytes a token stands for; of a special token, its name's."""
        return self.piece(token) or self.text(token).encode()


class PieceStream:
    """Turns one sequence's ids into text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._characters = Utf8Stream()

    def push(self, token: int) -> str:
        """Take an id and return the characters that are now complete."""
        return self._characters.push(self._vocabulary.piece(token))


def _id(token: int) -> int | None:
    return None if token < 0 else token


def reason() -> str:
    """What llama.cpp complained about first: that is the cause; later complaints say that the caller failed, too."""
    return last_errors[0] if last_errors else "no reason given"


def threads_of(wanted: int | None) -> int:
    """How many threads llama.cpp shall take: what is wanted, or OMP_NUM_THREADS, or the processor's cores."""
    if wanted:
        return wanted
    import psutil

    set_by_user = os.environ.get("OMP_NUM_THREADS", "")
    if set_by_user.isdigit() and int(set_by_user) > 0:
        return int(set_by_user)
    return min(cores(), psutil.cpu_count(logical=False) or cores())
