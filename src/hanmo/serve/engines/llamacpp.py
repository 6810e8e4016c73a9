"""The engine for .gguf files: llama.cpp through the C interface that llama-cpp-python ships.

The C interface rather than the `Llama` class, for three reasons: ids are ours (a conversation is encoded piece by
piece, as in training), the draw is ours (`Sampler`, the same for every engine), and the context can be sized after the
model is known.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hanmo.convert.llamacpp import require_llama_cpp
from hanmo.errors import HanmoError
from hanmo.serve.engines import model_name
from hanmo.serve.engines.base import DEFAULT_CONTEXT, Detokenizer, Engine
from hanmo.serve.prompt import ForeignTemplate, is_ours
from hanmo.serve.sampler import Sampler
from hanmo.serve.sampling import Sampling
from hanmo.serve.text import Utf8Stream
from hanmo.tokenizer.chat import ChatFormat, Message

C = require_llama_cpp()

_PREFILL = 512
_last_errors: list[str] = []


@C.llama_log_callback
def _on_log(level: int, text: bytes, _: Any) -> None:
    """Keep llama.cpp quiet, but remember what it said went wrong."""
    if level == 4:  # GGML_LOG_LEVEL_ERROR
        _last_errors.append(text.decode("utf-8", "replace").strip())
        del _last_errors[5:]


class LlamaCppEngine(Engine):
    """A .gguf file. See `open_engine` for the arguments."""

    def __init__(
        self, path: Path, *, context: int | None = None, device: str = "auto", threads: int | None = None
    ) -> None:
        super().__init__()
        self.name = model_name(path)
        C.llama_log_set(_on_log, ctypes.c_void_p(0))
        C.llama_backend_init()
        _last_errors.clear()
        parameters = C.llama_model_default_params()
        parameters.n_gpu_layers = 0 if device == "cpu" else 999
        self._model = C.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise HanmoError(f"{path}: llama.cpp cannot load it ({_reason()})")
        # Once, at `close` or with the object. Not at the interpreter's end: a server killed in a hurry may still
        # be computing with it in another thread.
        self._free_model = weakref.finalize(self, C.llama_model_free, self._model)
        self._free_model.atexit = False
        self.context = min(C.llama_model_n_ctx_train(self._model), context or DEFAULT_CONTEXT)
        self._open_context(path, threads)

        self._vocabulary = _Vocabulary(C.llama_model_get_vocab(self._model))
        self.vocab_size = self._vocabulary.used
        self.stop_ids = frozenset(
            i for i in range(self._vocabulary.size) if C.llama_vocab_is_eog(self._vocabulary.handle, i)
        )
        self._chat = self._chat_encoder()
        self.can_chat = self._chat is not None
        self._cached: list[int] = []

    def _open_context(self, path: Path, threads: int | None) -> None:
        parameters = C.llama_context_default_params()
        parameters.n_ctx = self.context
        parameters.n_batch = parameters.n_ubatch = min(_PREFILL, self.context)
        parameters.n_threads = parameters.n_threads_batch = threads or _threads()
        parameters.no_perf = True
        if _meta(self._model, "general.file_type") == "0":
            # Somebody who keeps F32 weights wants exact answers: llama.cpp would round keys and values to F16.
            parameters.type_k = parameters.type_v = C.GGML_TYPE_F32
            parameters.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = C.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise HanmoError(
                f"{path}: llama.cpp cannot hold a context of {self.context} tokens ({_reason()}); "
                "try a smaller --context"
            )
        self._free_context = weakref.finalize(self, C.llama_free, self._context)
        self._free_context.atexit = False
        self._memory = C.llama_get_memory(self._context)

    def _chat_encoder(self) -> ChatFormat | ForeignTemplate | None:
        raw = C.llama_model_chat_template(self._model, None)
        if not raw:
            return None
        template = raw.decode("utf-8", "replace")
        if is_ours(template):
            return ChatFormat(self._vocabulary)  # type: ignore[arg-type]  (all that ChatFormat asks of a tokenizer)
        vocabulary = self._vocabulary
        variables = {"bos_token": vocabulary.text(vocabulary.bos), "eos_token": vocabulary.text(vocabulary.eos)}
        return ForeignTemplate(template, variables, vocabulary.specials(), vocabulary.tokenize)

    def encode(self, text: str) -> list[int]:
        vocabulary = self._vocabulary
        ids = vocabulary.tokenize(text, False, add_special=True)
        if isinstance(self._chat, ChatFormat):
            return [self._chat.end_of_text, *ids]  # as every document stood in training
        if ids:
            return ids
        start = vocabulary.eos if vocabulary.bos is None else vocabulary.bos
        if start is None:
            raise HanmoError("the prompt is empty and the model has no token that begins a document")
        return [start]

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        if self._chat is None:
            raise HanmoError(f"{self.name}: has no chat template (a base model?); it can only continue text")
        if isinstance(self._chat, ChatFormat):
            return self._chat.encode(messages, add_generation_prompt=True)[0]
        return self._chat.encode(messages)

    def detokenizer(self) -> Detokenizer:
        return _PieceStream(self._vocabulary)

    def _forget(self, length: int) -> None:
        """Keep only the first `length` tokens in llama.cpp's cache; models that cannot do so forget everything."""
        if not C.llama_memory_seq_rm(self._memory, 0, length, -1):
            C.llama_memory_clear(self._memory, True)
            length = 0
        self._cached = self._cached[:length]

    def _forward(self, ids: Sequence[int]) -> np.ndarray:
        """Append at most `_PREFILL` ids to the cache; returns the logits behind the last one, float32 [vocab_size].

        The array is llama.cpp's own memory and is valid until the next call.
        """
        _last_errors.clear()
        array = (C.llama_token * len(ids))(*ids)
        status = C.llama_decode(self._context, C.llama_batch_get_one(array, len(ids)))
        if status != 0:
            self._forget(0)
            raise HanmoError(f"llama.cpp could not compute the next token (status {status}: {_reason()})")
        self._cached += ids
        return np.ctypeslib.as_array(C.llama_get_logits_ith(self._context, -1), shape=(self.vocab_size,))

    def tokens(
        self, prompt: Sequence[int], sampling: Sampling, cancel: threading.Event, index: int = 0
    ) -> Iterator[int]:
        shared = 0
        # Reading a prompt in other portions rounds differently; who asks for repeatable answers gets a clean start.
        if not sampling.repeatable:
            for left, right in zip(self._cached, prompt[:-1], strict=False):
                if left != right:
                    break
                shared += 1
        self._forget(shared)
        done = len(self._cached)
        sampler = Sampler(sampling, prompt, self.vocab_size, index)
        logits = None
        while done < len(prompt):
            if cancel.is_set():
                return
            part = prompt[done : done + min(_PREFILL, self.context)]
            logits = self._forward(part)
            done += len(part)
        assert logits is not None
        for _ in range(self.context - len(prompt)):
            token = sampler(logits)
            yield token
            if cancel.is_set():
                return
            logits = self._forward([token])

    def close(self) -> None:
        self._free_context()
        self._free_model()


class _Vocabulary:
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
    def backend_tokenizer(self) -> _Vocabulary:
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


class _PieceStream:
    def __init__(self, vocabulary: _Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._characters = Utf8Stream()

    def push(self, token: int) -> str:
        return self._characters.push(self._vocabulary.piece(token))


def _id(token: int) -> int | None:
    return None if token < 0 else token


def _meta(model: Any, key: str) -> str:
    """A value of the file's metadata as text, empty where there is none."""
    buffer = ctypes.create_string_buffer(256)
    C.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def _reason() -> str:
    # The first complaint is the cause; the later ones say that the caller failed, too.
    return _last_errors[0] if _last_errors else "no reason given"


def _threads() -> int:
    import psutil

    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
