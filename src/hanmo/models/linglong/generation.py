"""Completing batches of texts: padding and clipping, prefix and suffix, pinyin, and models that write to the left.

A backward model was trained on texts whose tokens stand in reverse order, and so continues a text to its left: what it
is given is reversed, token by token, and what it writes is turned back. `reverse` is the one rule for both: training
reads `reverse(document)`, generation feeds `reverse(text)`.

The pinyin of a token follows from the tokens before it alone (`PinyinOf`), in training as in generation, so that no
cached state ever has another pinyin than training would have given it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hanmo.errors import HanmoError

if TYPE_CHECKING:
    from hanmo.tokenizer.forms.pinyin import Reader

#: Pinyin ids of a whole text, one for each of its tokens. It must be a rule of left context: the ids of a text begin
#: with those of every text that it begins with.
PinyinOf = Callable[[list[int]], list[int]]


class Readings:
    """Pinyin ids of a text that grows: what was read before is not read again.

    Args:
        reader: of the tokenizer; this object has a state of its own.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = copy.copy(reader)
        self._text: list[int] = []
        self._ids: list[int] = []
        self._reader.reset()

    def __call__(self, ids: list[int]) -> list[int]:
        """The pinyin ids of a text (a `PinyinOf`)."""
        known = len(self._text)
        if ids[:known] != self._text:
            self._text, self._ids, known = [], [], 0
            self._reader.reset()
        self._ids += [self._reader.push(token) for token in ids[known:]]
        self._text = list(ids)
        return list(self._ids)


def reader_of(tokenizer: Path | str) -> Reader:
    """What reads the pinyin of a tokenizer folder's tokens, by the rule that training data has.

    Raises:
        HanmoError: the folder has no pinyin.
    """
    from hanmo.tokenizer.forms.pinyin import Reader, has_pinyin

    if not has_pinyin(tokenizer):
        raise HanmoError(f"{tokenizer}: no pinyin.txt there; give the folder of a tokenizer with pinyin")
    return Reader(tokenizer)


def pinyin_reader(tokenizer: Path | str) -> PinyinOf:
    """`Readings` of a tokenizer folder with pinyin.txt.

    Raises:
        HanmoError: the folder has no pinyin.
    """
    return Readings(reader_of(tokenizer))


def pinyin_of_rows(pinyin_of: PinyinOf, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """The pinyin ids of rows, int64 of the shape of `input_ids`; padding, which the mask has zeros for, gets 0.

    Raises:
        ValueError: the rule gives more or fewer ids than there are tokens.
    """
    found = torch.zeros_like(input_ids)
    for number, row in enumerate(input_ids.tolist()):
        real = list(range(len(row)))
        if attention_mask is not None:
            real = [place for place, there in enumerate(attention_mask[number].tolist()) if there]
        ids = pinyin_of([row[place] for place in real])
        if len(ids) != len(real):
            raise ValueError(f"pinyin_of: {len(ids)} ids for {len(real)} tokens; it must give one for each")
        found[number, real] = torch.tensor(ids, dtype=found.dtype, device=found.device)
    return found


def reverse(ids: Sequence[int], bos: int | None = None, eos: int | None = None) -> list[int]:
    """A text's tokens in reverse order; an opening `bos` and a closing `eos` stay where they are.

    Done twice it gives what it was given, unless eos opens the text or bos closes it.
    """
    start = 1 if len(ids) and bos is not None and ids[0] == bos else 0
    stop = len(ids) - 1 if len(ids) > start and eos is not None and ids[-1] == eos else len(ids)
    return [*ids[:start], *reversed(ids[start:stop]), *ids[stop:]]


def complete(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    pinyin_of: PinyinOf | None = None,
    opening: Sequence[int] | None = None,
    **options: Any,
) -> list[list[int]]:
    """What the model writes to each text `prefix + prompt + suffix`: behind it, or before it if it is a backward model.

    Every text is opened by the model's bos, if its configuration has one, or by `opening`. One that does not fit into
    the context beside the new tokens loses what is farthest from where the model writes.

    Args:
        model: a `LingLongForCausalLM`, in the mode and on the device that it is to run in.
        prompts: token ids in reading order, of any lengths, without bos and eos.
        max_new_tokens: at most so many are written; a text that ends earlier ends with its eos, which is left out.
        prefix, suffix: token ids that stand before and behind each prompt, in reading order also for a backward model.
        pinyin_of: needed by models with pinyin.
        opening: what stood before every document in training, where that is not the configuration's bos.
        options: of `model.generate`.

    Returns:
        The new tokens of each, in reading order: the whole text is `prefix + prompt + suffix + new`, of a backward
        model `new + prefix + prompt + suffix`.

    Raises:
        HanmoError: no room for the new tokens, no text at all, or pinyin that is missing.
    """
    config = model.config
    if config.use_pinyin and pinyin_of is None:
        raise HanmoError("this model has pinyin: give pinyin_of, for instance pinyin_reader(TOKENIZER_FOLDER)")
    if opening is None:
        opening = [] if config.bos_token_id is None else [config.bos_token_id]
    room = config.n_position - max_new_tokens
    if room < 1:
        raise HanmoError(f"max_new_tokens: {max_new_tokens} leaves no room in a context of {config.n_position} tokens")
    streams = []
    for number, prompt in enumerate(prompts):
        text = [*prefix, *prompt, *suffix]
        stream = [*opening, *(reverse(text) if config.backward else text)][-room:]
        if not stream:
            raise HanmoError(f"prompt {number}: it is empty, and this model has no token that opens a text")
        streams.append(stream)
    if not streams:
        return []
    longest = max(map(len, streams))
    filling = config.pad_token_id if config.pad_token_id is not None else 0
    ids = torch.tensor([[filling] * (longest - len(stream)) + stream for stream in streams], device=model.device)
    mask = torch.tensor([[0] * (longest - len(stream)) + [1] * len(stream) for stream in streams], device=model.device)
    options.setdefault("pad_token_id", filling)
    if pinyin_of is not None:
        options["pinyin_of"] = pinyin_of
    written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, **options)
    ends = options.get("eos_token_id", model.generation_config.eos_token_id)
    stops = set(ends if isinstance(ends, list) else [ends])
    found = []
    for row in written[:, longest:].tolist():
        new = row[: next((place for place, token in enumerate(row) if token in stops), len(row))]
        found.append(reverse(new) if config.backward else new)
    return found
