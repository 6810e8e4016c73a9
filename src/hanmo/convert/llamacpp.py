"""A GGUF file in real llama.cpp, reduced to what a comparison needs: token ids and logits.

The context keeps its keys and values in F32 and leaves flash attention off, so that what differs from transformers is
llama.cpp's arithmetic and not a rounding to half precision that the caller could have switched off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hanmo.errors import HanmoError


def require_llama_cpp() -> Any:
    """The module `llama_cpp`, or one line that says how to get it."""
    try:
        import llama_cpp
    except ImportError:
        raise HanmoError(
            "llama-cpp-python is not installed, which runs GGUF files: pip install 'hanmo[gguf]'"
        ) from None
    return llama_cpp


class LlamaCpp:
    """One GGUF file, loaded.

    Args:
        path: the file.
        context: tokens that one sequence may have.
        threads: CPU threads.
        half_cache: keep keys and values in F16, as llama.cpp does by default.
    """

    def __init__(self, path: Path | str, context: int = 256, *, threads: int = 1, half_cache: bool = False) -> None:
        self._api = require_llama_cpp()
        self._path = path
        cache = self._api.GGML_TYPE_F16 if half_cache else self._api.GGML_TYPE_F32
        try:
            self._llama = self._api.Llama(
                str(path),
                n_ctx=context,
                n_batch=context,
                n_ubatch=context,
                logits_all=True,
                n_threads=threads,
                n_threads_batch=threads,
                type_k=cache,
                type_v=cache,
                flash_attn=False,
                verbose=False,
            )
        except (ValueError, OSError) as error:
            raise HanmoError(f"{path}: llama.cpp cannot load it ({error})") from None

    @property
    def metadata(self) -> dict[str, str]:
        """The file's keys, every value as text."""
        return self._llama.metadata

    @property
    def vocab_size(self) -> int:
        """Rows of the vocabulary, unused ones included."""
        return self._llama.n_vocab()

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids of `text`; where `special`, the text of a special token becomes that token."""
        return self._llama.tokenize(text.encode(), add_bos=False, special=special)

    def ends_generation(self, token: int) -> bool:
        """Whether llama.cpp stops an answer at this id."""
        model = self._api.llama_model_get_vocab(self._llama.model)
        return bool(self._api.llama_vocab_is_eog(model, token))

    def render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """The conversation through the chat template that is in the file."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        formatter = Jinja2ChatFormatter(
            template=self.metadata["tokenizer.chat_template"],
            eos_token="",
            bos_token="",
            add_generation_prompt=add_generation_prompt,
        )
        return formatter(messages=messages).prompt  # type: ignore[arg-type]

    def start(self) -> None:
        """Forget what was fed."""
        self._llama.reset()

    def feed(self, ids: list[int]) -> np.ndarray:
        """Append `ids` to the sequence; logits behind each of them, float32 of shape [len(ids), vocabulary].

        Raises:
            HanmoError: an id beyond the file's vocabulary.
        """
        if max(ids, default=0) >= self.vocab_size:
            raise HanmoError(
                f"{self._path}: token {max(ids)} is beyond its vocabulary of {self.vocab_size}; "
                "this is not the file of that model"
            )
        before = self._llama.n_tokens
        self._llama.eval(ids)
        return self._llama.scores[before : before + len(ids)]
