"""Continuous batching for models of transformers: answers join and leave between two steps of the others.

One thread computes. Each turn of it reads a part of the newest prompt, if there is one, and then draws one token for
every answer that is under way, in one forward pass (Yu et al. 2022, Orca: iteration-level scheduling). Keys and values
of all rows lie in one cache, padded on the left to the longest.
"""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from hanmo.errors import HanmoError
from hanmo.serve.sampler import Sampler


class _Row:
    """An answer under way; `out` gets its tokens, then None, or what went wrong."""

    def __init__(self, prompt: Sequence[int], sampler: Sampler, cancel: threading.Event) -> None:
        self.prompt, self.sampler, self.cancel = prompt, sampler, cancel
        self.out: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self.left = False
        self.read = 0
        self.length = 0
        self.last = 0

    @property
    def over(self) -> bool:
        """Whether nobody wants the rest."""
        return self.left or self.cancel.is_set()


class Batcher:
    """Computes answers together.

    Args:
        model: a causal model whose cache keeps every position.
        context: tokens of prompt and answer together.
        part: a prompt is read in parts of so many tokens, between which the others get their token.
    """

    def __init__(self, model: Any, context: int, part: int) -> None:
        self._model, self._context, self._part = model, context, part
        #: Held while the model computes; whoever else computes with it (and hooks into it) takes it, too.
        self.computing = threading.Lock()
        self._new: collections.deque[_Row] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._rows: list[_Row] = []
        self._cache: Any = None
        self._filling: tuple[_Row, Any] | None = None
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def tokens(self, prompt: Sequence[int], sampler: Sampler, cancel: threading.Event) -> Iterator[int]:
        """Yield drawn ids until the context is full, `cancel` is set or the caller leaves.

        Raises:
            HanmoError: out of memory.
            Exception: what the model raised.
        """
        row = _Row(prompt, sampler, cancel)
        with self._changed:
            self._new.append(row)
            self._changed.notify()
        try:
            while (item := row.out.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            row.left = True

    def close(self) -> None:
        """End all answers and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._new or self._rows or self._filling or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
            try:
                with self.computing, torch.inference_mode():
                    self._fill()
                    self._leave()
                    if self._rows:
                        self._step()
            except (torch.OutOfMemoryError, MemoryError):
                self._fail(HanmoError("out of memory; serve with a smaller --context or --parallel"))
            except BaseException as error:
                self._fail(error)
        self._fail(None)

    def _fail(self, error: BaseException | None) -> None:
        """End every answer that has begun, and at the end (None) those that have not."""
        begun = [*self._rows, *([self._filling[0]] if self._filling else []), *(self._new if error is None else ())]
        self._rows, self._cache, self._filling = [], None, None
        for row in begun:
            row.out.put(error)

    def _forward(self, ids: torch.Tensor, cache: Any, **more: Any) -> Any:
        output = self._model(
            input_ids=ids.to(self._model.device), past_key_values=cache, use_cache=True, logits_to_keep=1, **more
        )
        return output.logits[:, -1].float().cpu().numpy()

    def _fill(self) -> None:
        """Read a part of the newest prompt; behind its last part the answer joins the others."""
        while self._filling is None and self._new:
            row = self._new.popleft()
            if row.over:
                row.out.put(None)
            else:
                self._filling = row, DynamicCache(config=self._model.config)
        if self._filling is None:
            return
        row, cache = self._filling
        if row.over:
            self._filling = None
            row.out.put(None)
            return
        part = row.prompt[row.read : row.read + self._part]
        logits = self._forward(torch.tensor([part]), cache)
        row.read += len(part)
        if row.read == len(row.prompt):
            self._filling = None
            row.length = row.read
            self._join(row, cache)
            self._draw(row, logits[0])

    def _join(self, row: _Row, cache: Any) -> None:
        if self._cache is None:
            self._cache = cache
        else:
            longest = max(self._cache.get_seq_length(), cache.get_seq_length())
            for ours, new in zip(self._cache.layers, cache.layers, strict=True):
                ours.keys = torch.cat([_padded(ours.keys, longest), _padded(new.keys, longest)])
                ours.values = torch.cat([_padded(ours.values, longest), _padded(new.values, longest)])
        self._rows.append(row)

    def _leave(self) -> None:
        """Take out rows that have ended."""
        stay = [place for place, row in enumerate(self._rows) if not row.over and row.length < self._context]
        if len(stay) == len(self._rows):
            return
        for place, row in enumerate(self._rows):
            if place not in stay:
                row.out.put(None)
        self._rows = [self._rows[place] for place in stay]
        if not stay:
            self._cache = None
            return
        # What only the longest of those that left had is padding now.
        empty = self._cache.get_seq_length() - max(row.length for row in self._rows)
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[stay, :, empty:], layer.values[stay, :, empty:]

    def _step(self) -> None:
        """One token for every row."""
        device, width = self._model.device, self._cache.get_seq_length()
        lengths = torch.tensor([row.length for row in self._rows], device=device)
        mask = (torch.arange(width + 1, device=device)[None] >= (width - lengths)[:, None]).long()
        ids = torch.tensor([[row.last] for row in self._rows])
        logits = self._forward(ids, self._cache, attention_mask=mask, position_ids=lengths[:, None])
        for row, scores in zip(self._rows, logits, strict=True):
            row.length += 1
            self._draw(row, scores)

    def _draw(self, row: _Row, logits: Any) -> None:
        if row.length >= self._context:
            return
        token = row.sampler(logits)
        row.last = int(token)
        row.out.put(token)


def _padded(states: torch.Tensor, length: int) -> torch.Tensor:
    """States [rows, heads, positions, width] with zeros before them, up to `length` positions."""
    return F.pad(states, (0, 0, length - states.shape[2], 0))
