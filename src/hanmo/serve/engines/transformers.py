"""The engine for Hugging Face model folders: transformers' classes under our own decoding loop.

The loop is ours and not `generate()`, because an answer must stream, stop between two tokens and draw by the same rule
as every other engine. What a conversation has in common with the previous one stays in the cache and is not computed
again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedTokenizerFast
from transformers.cache_utils import DynamicLayer

import hanmo.tokenizer
from hanmo.errors import HanmoError
from hanmo.models.families import must_write
from hanmo.models.folder import resolve
from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.models.linglong.generation import Readings, reader_of
from hanmo.serve.engines import model_name
from hanmo.serve.engines.base import DEFAULT_CONTEXT, Completion, Detokenizer, TokenEngine
from hanmo.serve.engines.batching import Batcher
from hanmo.serve.pooling import pooled
from hanmo.serve.prompt import ForeignTemplate, in_house, is_ours
from hanmo.serve.sampler import Sampler
from hanmo.serve.sampling import Sampling
from hanmo.serve.text import REPLACEMENT, Utf8Stream
from hanmo.tokenizer.chat import ChatFormat, Message

#: A long prompt is read in parts of so many tokens, so that it can be cancelled and its activations stay small.
_PREFILL = 512


class TransformersEngine(TokenEngine):
    """A causal model of transformers with a fast tokenizer. See `open_engine` for the arguments."""

    def __init__(
        self,
        folder: Path,
        *,
        context: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        parallel: int = 1,
    ) -> None:
        super().__init__()
        folder = resolve(folder)
        if threads:
            torch.set_num_threads(threads)
        self._device = device_of(device)
        self._model = _load(folder, self._device)
        config = self._model.config.get_text_config()
        self.name = model_name(folder)
        own = getattr(config, "max_position_embeddings", None) or DEFAULT_CONTEXT
        self.context = min(own, context or DEFAULT_CONTEXT)

        tokenizer = hanmo.tokenizer.load(folder)
        # For good, not call by call: what users write never holds special tokens, and no thread may see it otherwise.
        tokenizer.backend_tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._encode_lock = threading.Lock()
        self.vocab_size = min(len(tokenizer), config.vocab_size)
        self._pieces = _byte_pieces(tokenizer)
        # Documents of a unified model begin so, whatever its tokenizer is used for elsewhere.
        self._opening = cast(int, tokenizer.cls_token_id) if config.model_type == "hanmo_unified" else None
        self._linglong = config.model_type == LingLongConfig.model_type
        self.backward = self._linglong and config.backward
        self._chat = _chat_encoder(tokenizer, self.backward)
        self.can_chat = self._chat is not None
        self._reader = reader_of(folder) if self._linglong and config.use_pinyin else None
        self._readings = Readings(self._reader) if self._reader else None
        self.stop_ids = self._find_stops()
        self._reset()
        self._batcher: Batcher | None = None
        # Readings depend on the whole row, and a window's cache does not keep every position.
        if parallel > 1 and self._readings is None and all(type(one) is DynamicLayer for one in self._cache.layers):
            self.parallel = parallel
            self.lock = threading.BoundedSemaphore(parallel)
            self._batcher = Batcher(self._model, self.context, _PREFILL)

    def _find_stops(self) -> frozenset[int]:
        found: set[int] = set()
        for source in (self._model.generation_config, self._model.config, self._tokenizer):
            ids = getattr(source, "eos_token_id", None)
            found.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
        if isinstance(self._chat, ChatFormat):
            found.update(self._chat.stop_ids)
        return frozenset(found)

    def encode(self, text: str) -> list[int]:
        # A LingLong model saw nothing around its documents but what opens and ends them.
        with self._encode_lock:
            plain = self._opening is not None or self._linglong
            ids = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=not plain).ids
        if self._opening is not None:
            return [self._opening, *ids]
        if self.backward:
            ids.reverse()
        if isinstance(self._chat, ChatFormat):
            return [self._chat.end_of_text, *ids]  # as every document stood in training
        if self._linglong and self._model.config.bos_token_id is not None:
            return [self._model.config.bos_token_id, *ids]
        if ids:
            return ids
        start = self._tokenizer.bos_token_id
        start = self._tokenizer.eos_token_id if start is None else start
        if start is None:
            raise HanmoError("the prompt is empty and the model has no token that begins a document")
        return [cast(int, start)]

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        if self._chat is None:
            raise HanmoError(f"{self.name}: has no chat template (a base model?); it can only continue text")
        with self._encode_lock:
            if isinstance(self._chat, ChatFormat):
                return self._chat.encode(in_house(messages, tools), add_generation_prompt=True)[0]
            return self._chat.encode(messages, tools)

    def piece(self, token: int) -> bytes:
        if self._pieces is not None and self._pieces[token]:
            return self._pieces[token]
        return self._tokenizer.backend_tokenizer.decode([token], skip_special_tokens=False).encode()

    def embed(self, texts: Sequence[str], pooling: str) -> tuple[list[list[float]], int]:
        with self._batcher.computing if self._batcher is not None else self.lock:
            return pooled(self._model, self._tokenizer, texts, pooling)

    def detokenizer(self) -> Detokenizer:
        return _PieceStream(self._pieces) if self._pieces is not None else _AnyStream(self._tokenizer)

    def _reset(self) -> None:
        self._cache = DynamicCache(config=self._model.config)
        self._cached: list[int] = []

    def _reuse(self, prompt: Sequence[int]) -> int:
        """Shorten the cache to what it shares with `prompt` and return that length (less than the prompt's)."""
        shared = 0
        for left, right in zip(self._cached, prompt[:-1], strict=False):
            if left != right:
                break
            shared += 1
        croppable = not any(getattr(self._cache, "is_sliding", []))
        if shared == 0 or (shared < len(self._cached) and not croppable):
            self._reset()
            return 0
        if shared < len(self._cached):
            self._cache.crop(shared - len(self._cached))
        self._cached = self._cached[:shared]
        return shared

    @torch.inference_mode()
    def _forward(self, ids: Sequence[int]) -> np.ndarray:
        """Append `ids` to the cache and return the logits behind the last one, float32 [rows of the embedding]."""
        batch = torch.tensor([ids], device=self._device)
        more = {}
        if self._readings:
            pinyin = self._readings([*self._cached, *ids])[-len(ids) :]
            more["pinyin_ids"] = torch.tensor([pinyin], device=self._device)
        output = self._model(input_ids=batch, past_key_values=self._cache, use_cache=True, logits_to_keep=1, **more)
        self._cached += ids
        return output.logits[0, -1].float().cpu().numpy()

    def tokens(
        self, prompt: Sequence[int], sampling: Sampling, cancel: threading.Event, index: int = 0
    ) -> Iterator[int]:
        if self._batcher is not None:
            yield from self._batcher.tokens(prompt, Sampler(sampling, prompt, self.vocab_size, index), cancel)
            return
        # Reading a prompt in other portions rounds differently; who asks for repeatable answers gets a clean start.
        if sampling.repeatable:
            self._reset()
        done = self._reuse(prompt)
        sampler = Sampler(sampling, prompt, self.vocab_size, index)
        try:
            logits = None
            while done < len(prompt):
                if cancel.is_set():
                    return
                part = list(prompt[done : done + _PREFILL])
                logits = self._forward(part)
                done += len(part)
            assert logits is not None
            for _ in range(self.context - len(prompt)):
                token = sampler(logits)
                yield token
                if cancel.is_set():
                    return
                logits = self._forward([token])
        except (torch.OutOfMemoryError, MemoryError):
            self._reset()
            raise HanmoError(
                f"out of memory at {len(self._cached)} tokens of context; serve with a smaller --context"
            ) from None
        except GeneratorExit:
            raise
        except BaseException:
            # A forward pass that broke off half-way leaves a cache that nobody can trust.
            self._reset()
            raise

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        cancel: threading.Event | None = None,
        first: int = 0,
    ) -> list[Completion]:
        """Answer several prompts in one batch, padded on the left."""
        for prompt in prompts:
            self.check_room(prompt)
        if len(prompts) < 2:
            return super().complete(prompts, sampling, cancel=cancel, first=first)
        cancel = cancel or threading.Event()
        with self.lock:
            return self._batch(prompts, sampling, cancel, first)

    @torch.inference_mode()
    def _batch(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, cancel: threading.Event, first: int
    ) -> list[Completion]:
        width, rows = max(map(len, prompts)), len(prompts)
        ids = torch.zeros(rows, width, dtype=torch.long)
        mask = torch.zeros(rows, width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        mask = mask.to(self._device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        ids = ids.to(self._device)
        cache = DynamicCache(config=self._model.config)
        samplers = [Sampler(sampling, prompt, self.vocab_size, number) for number, prompt in enumerate(prompts, first)]
        answers = [self.answer(sampling, len(prompt)) for prompt in prompts]
        readings = [Readings(self._reader) for _ in prompts] if self._reader else []
        written = [list(prompt) for prompt in prompts]
        texts: list[list[str]] = [[] for _ in prompts]
        while True:
            more: dict[str, torch.Tensor] = {}
            if readings:
                pinyin = [read(row)[-ids.shape[1] :] for read, row in zip(readings, written, strict=True)]
                padded = [[0] * (ids.shape[1] - len(row)) + row for row in pinyin]
                more["pinyin_ids"] = torch.tensor(padded, device=self._device)
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **more,
            )
            logits = output.logits[:, -1].float().cpu().numpy()
            drawn = [0] * rows
            for row, answer in enumerate(answers):
                if answer.finish is None:
                    drawn[row] = samplers[row](logits[row])
                    texts[row].append(answer.push(drawn[row]))
            if cancel.is_set():
                for row, answer in enumerate(answers):
                    if answer.finish is None:
                        texts[row].append(answer.end("cancelled"))
            if all(answer.finish is not None for answer in answers):
                break
            for row, token in zip(written, drawn, strict=True):
                row.append(token)
            ids = torch.tensor(drawn, device=self._device)[:, None]
            mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
            positions = positions[:, -1:] + 1
        return [
            Completion("".join(text), len(prompt), answer.tokens, answer.finish or "length")
            for text, prompt, answer in zip(texts, prompts, answers, strict=True)
        ]

    def close(self) -> None:
        if self._batcher is not None:
            self._batcher.close()
        self._reset()
        del self._model


def device_of(name: str) -> torch.device:
    """The torch device of that name; "auto" is the accelerator, if there is one.

    Raises:
        HanmoError: it cannot be used.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise HanmoError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def _load(folder: Path, device: torch.device) -> Any:
    must_write(folder)
    # Half precision is slow on CPUs and its rounding would part our greedy answers from llama.cpp's.
    dtype = torch.float32 if device.type == "cpu" else "auto"
    transformers.utils.logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except HanmoError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise HanmoError(f"{folder}: the model cannot be loaded ({type(error).__name__}: {reason})") from error
    if not isinstance(model, GenerationMixin):
        raise HanmoError(f"{folder}: {type(model).__name__} does not write text")
    return model.to(device).eval()  # type: ignore[arg-type]


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
