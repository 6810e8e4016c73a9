"""The engine for .gguf files in this process: llama.cpp through the C interface that llama-cpp-python ships.

The C interface rather than the `Llama` class, because the draw is ours (`Sampler`, the same for every engine that gives
logits) and the context can be sized after the model is known.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.errors import HanmoError
from hanmo.serve.engines.base import Detokenizer, TokenEngine
from hanmo.serve.engines.gguf import C, Gguf, PieceStream, last_errors, reason, threads_of
from hanmo.serve.sampler import Sampler
from hanmo.serve.sampling import Sampling
from hanmo.tokenizer.chat import Message

_PREFILL = 512


class LlamaCppEngine(TokenEngine):
    """A .gguf file. See `open_engine` for the arguments."""

    def __init__(
        self, path: Path, *, context: int | None = None, device: str = "auto", threads: int | None = None
    ) -> None:
        super().__init__()
        self._file = file = Gguf(path, context, layers=0 if device == "cpu" else 999)
        self.name, self.context, self.vocab_size = file.name, file.context, file.vocab_size
        self.stop_ids, self.can_chat = file.stop_ids, file.can_chat
        self._open_context(path, threads)
        self._cached: list[int] = []

    def _open_context(self, path: Path, threads: int | None) -> None:
        parameters = C.llama_context_default_params()
        parameters.n_ctx = self.context
        parameters.n_batch = parameters.n_ubatch = min(_PREFILL, self.context)
        parameters.n_threads = parameters.n_threads_batch = threads_of(threads)
        parameters.no_perf = True
        if self._file.exact:
            parameters.type_k = parameters.type_v = C.GGML_TYPE_F32
            parameters.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = C.llama_init_from_model(self._file.handle, parameters)
        if not self._context:
            raise HanmoError(
                f"{path}: llama.cpp cannot hold a context of {self.context} tokens ({reason()}); "
                "try a smaller --context"
            )
        self._free_context = weakref.finalize(self, C.llama_free, self._context)
        self._free_context.atexit = False
        self._memory = C.llama_get_memory(self._context)

    def encode(self, text: str) -> list[int]:
        return self._file.encode(text)

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        return self._file.encode_chat(messages, tools)

    def piece(self, token: int) -> bytes:
        return self._file.vocabulary.spelling(token)

    def detokenizer(self) -> Detokenizer:
        return PieceStream(self._file.vocabulary)

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
        last_errors.clear()
        array = (C.llama_token * len(ids))(*ids)
        status = C.llama_decode(self._context, C.llama_batch_get_one(array, len(ids)))
        if status != 0:
            self._forget(0)
            raise HanmoError(f"llama.cpp could not compute the next token (status {status}: {reason()})")
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
        self._file.close()
