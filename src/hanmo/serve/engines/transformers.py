"""The engine for Hugging Face model folders: transformers' classes under our own decoding loop.

The loop is ours and not `generate()`, because an answer must stream, stop between two tokens and draw by the same rule
as every other engine. What a conversation has in common with the previous one stays in the cache and is not computed
again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer

from hanmo.errors import HanmoError
from hanmo.models.families import must_write
from hanmo.models.folder import resolve, title
from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.models.linglong.generation import Readings, reader_of
from hanmo.serve.engines.base import DEFAULT_CONTEXT, Completion
from hanmo.serve.engines.batching import Batcher
from hanmo.serve.engines.beams import likeliest
from hanmo.serve.engines.words import WordedEngine, Words
from hanmo.serve.pooling import pooled
from hanmo.serve.sampler import Sampler
from hanmo.serve.sampling import Sampling

#: A long prompt is read in parts of so many tokens, so that it can be cancelled and its activations stay small.
_PREFILL = 512


class TransformersEngine(WordedEngine):
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
        self.name = title(folder)
        own = getattr(config, "max_position_embeddings", None) or DEFAULT_CONTEXT
        self.context = min(own, context or DEFAULT_CONTEXT)

        self._words = words = Words(folder, self._model.config)
        self.vocab_size, self.stop_ids = words.vocab_size, words.stop_ids
        self.can_chat, self.backward = words.can_chat, words.backward
        self._reader = (
            reader_of(folder) if config.model_type == LingLongConfig.model_type and config.use_pinyin else None
        )
        self._readings = Readings(self._reader) if self._reader else None
        self.can_beam = self._readings is None
        self._reset()
        self._batcher: Batcher | None = None
        # Readings depend on the whole row, and a window's cache does not keep every position.
        if parallel > 1 and self._readings is None and all(type(one) is DynamicLayer for one in self._cache.layers):
            self.parallel = parallel
            self.lock = threading.BoundedSemaphore(parallel)
            self._batcher = Batcher(self._model, self.context, _PREFILL)

    def embed(self, texts: Sequence[str], pooling: str) -> tuple[list[list[float]], int]:
        with self._batcher.computing if self._batcher is not None else self.lock:
            return pooled(self._model, self._words.tokenizer, texts, pooling)

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
        if sampling.beams > 1:
            most = min(self.context - len(prompt), sampling.max_tokens or self.context)
            yield from likeliest(self._model, prompt, sampling, most, self.vocab_size, self.stop_ids, cancel)
            return
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
        if len(prompts) < 2 or sampling.beams > 1:
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
