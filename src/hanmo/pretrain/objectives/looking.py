"""Looks at a model in training: what it does on held-out text, and samples of what it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from hanmo.console import console
from hanmo.models.gaps import fill
from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.models.linglong.generation import PinyinOf, complete, pinyin_reader
from hanmo.models.loss import IGNORE
from hanmo.pretrain.objectives import RowSource
from hanmo.pretrain.objectives.gaps import GapRows
from hanmo.pretrain.objectives.masked import MaskedRows
from hanmo.pretrain.objectives.pairs import PairRows
from hanmo.pretrain.objectives.reading import FORWARD, Reading
from hanmo.pretrain.objectives.unified import causal_rows
from hanmo.pretrain.rows import filled_up, taken
from hanmo.pretrain.settings import PretrainSettings
from hanmo.tokenizer import encode_text
from hanmo.tokenizer.forms.pinyin import SPECIAL
from hanmo.tokens.order import Order, Rows
from hanmo.tokens.shards import Split, Tokens

#: Bytes of Chinese text behind a token of an encoder's vocabulary, about.
_BYTES = 3


def look(
    settings: PretrainSettings,
    heldout: dict[str, Split],
    tokenizer: PreTrainedTokenizerFast,
    eos: int,
    reading: Reading = FORWARD,
) -> Callable[[Any], dict[str, Any]]:
    """A function that measures held-out text and writes samples, for the trainer to call now and then.

    Of several tokens folders, `heldout_bpb` is that of the first, and `heldout_bpb_by_data` has all of them.
    """
    measured = {}
    for name, split in heldout.items():
        if count := _enough(split, settings.eval_bytes):
            ends = np.asarray(split.doc_ends[:count], dtype=np.int64)
            size = int(np.asarray(split.doc_bytes[:count], dtype=np.int64).sum())
            measured[name] = (split.tokens, ends, size, reading.readings(split, "held-out text"))
    prompts = [[eos, *encode_text(tokenizer, text)] for text in settings.sample_prompts]
    pinyin_of = pinyin_reader(tokenizer.name_or_path) if reading.pinyin and prompts else None

    def measure(trainer: Any) -> dict[str, Any]:
        by_data = {
            name: round(_packed_bits(trainer, tokens, ends, eos, pinyin) / size, 5)
            for name, (tokens, ends, size, pinyin) in measured.items()
        }
        found = _told(trainer, "heldout_bpb", by_data, len(heldout), "held-out {} bits per byte")
        _samples(trainer, tokenizer, prompts, eos, pinyin_of)
        return found

    return measure


def masked_look(
    settings: PretrainSettings, heldout: dict[str, Split], tokenizer: PreTrainedTokenizerFast
) -> Callable[[Any], dict[str, Any]]:
    """A function that measures `heldout_loss`, in nats a masked token, on about `eval_bytes` of held-out text.

    With sentence order, `heldout_order_loss` is the nats that the order of a pair costs (by guessing ln 2 = 0.693), the
    mean over masked tokens. Of several tokens folders both are those of the first, and `heldout_loss_by_data` has all.
    """
    sources = {
        name: MaskedRows.of(settings.masks, Order(split, settings.context, settings.seed), tokenizer, settings.seed)
        for name, split in heldout.items()
        if len(split)
    }

    def measure(trainer: Any) -> dict[str, Any]:
        losses = {name: _mean_losses(trainer, source, settings) for name, source in sources.items()}
        masks = {name: found[0] for name, found in losses.items()}
        found = _told(trainer, "heldout_loss", masks, len(heldout), "held-out loss {} nats a masked token")
        if settings.masks.sentence_order:
            orders = {name: found[1] for name, found in losses.items()}
            words = "held-out order {} nats a pair (0.693: guessed)"
            found |= _told(trainer, "heldout_order_loss", orders, len(heldout), words)
        return found

    return measure


def unified_look(
    settings: PretrainSettings, heldout: dict[str, Split], tokenizer: PreTrainedTokenizerFast, eos: int
) -> Callable[[Any], dict[str, Any]]:
    """A function that looks at about `eval_bytes` of held-out text in both ways, and writes samples.

    `heldout_loss` is in nats a masked token, `heldout_bpb` what writing the documents takes, a token from those before
    it, in bits per byte of their text. Each is measured where the run's shares have such a task at all. A tokenizer
    that lower-cases or leaves characters out makes the text shorter than it is: only the lossless kind gives bits per
    byte that compare with others'.
    """
    shares = settings.unified
    masks = masked_look(settings, heldout, tokenizer) if shares.masked else None
    texts = {}
    for name, split in heldout.items():
        if (count := _enough(split, settings.eval_bytes)) and shares.causal + shares.prefix:
            size = int(np.asarray(split.doc_bytes[:count], dtype=np.int64).sum())
            texts[name] = causal_rows(split, count, settings.context), size
    prompts = [[tokenizer.cls_token_id, *encode_text(tokenizer, text)] for text in settings.sample_prompts]

    def measure(trainer: Any) -> dict[str, Any]:
        found = masks(trainer) if masks else {}
        bits = {name: round(nats(trainer, rows) / size / float(np.log(2)), 5) for name, (rows, size) in texts.items()}
        found |= _told(trainer, "heldout_bpb", bits, len(heldout), "held-out {} bits per byte")
        if texts:
            _samples(trainer, tokenizer, prompts, eos)
        return found

    return measure


def gap_look(
    settings: PretrainSettings, heldout: dict[str, Split], tokenizer: PreTrainedTokenizerFast, opening: int, eos: int
) -> Callable[[Any], dict[str, Any]]:
    """A function that measures `heldout_loss`, in nats a token that the decoder is to write, and writes samples.

    A prompt's gaps are filled; one without a gap is gone on with at its end.
    """
    sources = {
        name: GapRows(
            Order(split, settings.context, settings.seed, eos), tokenizer, settings.spans, settings.seed, opening, eos
        )
        for name, split in heldout.items()
        if len(split)
    }

    def measure(trainer: Any) -> dict[str, Any]:
        losses = {name: _mean_losses(trainer, source, settings)[0] for name, source in sources.items()}
        found = _told(trainer, "heldout_loss", losses, len(heldout), "held-out loss {} nats a token of the answers")
        prompts = settings.sample_prompts
        if prompts and (model := trainer.spread.whole()) is not None:
            model.eval()
            filled = fill(model, tokenizer, prompts, eos, longest=settings.context)
            model.train()
            for text, answer in zip(prompts, filled, strict=True):
                line = {"step": trainer.step, "prompt": text, "text": answer.text}
                trainer.append("samples.jsonl", line)
        return found

    return measure


def _enough(split: Split, size: int) -> int:
    """How many of a split's first documents have about so many bytes of text; one at least, where there is any."""
    sizes = np.asarray(split.doc_bytes, dtype=np.int64)
    return int(np.searchsorted(np.cumsum(sizes), size, side="right")) or min(1, len(sizes))


def _mean_losses(trainer: Any, source: RowSource, settings: PretrainSettings) -> tuple[float, float]:
    """Nats a target of about `eval_bytes` of held-out text, and nats that the order of a pair costs."""
    wanted = min(source.total, settings.eval_bytes // _BYTES)
    # Whole micro-batches, as many in every process: the compiled step then sees no other shape.
    micro, world = trainer.batches.micro, trainer.world
    together = micro * world.size
    count = max(1, wanted // (settings.context * together)) * together
    nats = asked = targets = paired = 0.0
    for first in range(world.rank * micro, count, together):
        rows: Rows = source.rows(first, micro)
        targets += int((rows.targets != IGNORE).sum())
        if isinstance(rows, PairRows):
            # The loss with the order and without it; the step weighs pairs by their targets.
            whole, rows, here = trainer.spread.measure(rows), replace(rows, order=None), rows.paired()
            asked, paired = asked + whole, paired + here
        found = trainer.spread.measure(rows)
        nats += found
        asked -= found if isinstance(rows, PairRows) else 0.0
    nats, targets, asked, paired = world.sum(nats, targets, asked, paired)
    return round(nats / max(1.0, targets), 5), round(asked / max(1.0, paired), 5)


def nats(trainer: Any, rows: Rows) -> float:
    """The loss of all rows, in whole micro-batches, as many in every process."""
    micro, world = trainer.batches.micro, trainer.world
    together = micro * world.size
    rows = filled_up(rows, -(-len(rows.inputs) // together) * together)
    found = 0.0
    for first in range(world.rank * micro, len(rows.inputs), together):
        found += trainer.spread.measure(taken(rows, slice(first, first + micro)))
    return world.sum(found)[0]


def _told(trainer: Any, key: str, by_data: dict[str, float], folders: int, words: str) -> dict[str, Any]:
    """Write what was measured to the log and say it: of several tokens folders `key` is that of the first."""
    if not by_data:
        return {}
    found: dict[str, Any] = {key: next(iter(by_data.values()))}
    if folders > 1:
        found[f"{key}_by_data"] = by_data
    trainer.append("log.jsonl", {"step": trainer.step, **found})
    shown = ", ".join(f"{name} {value:.3f}".strip() for name, value in by_data.items())
    console.print(f"step {trainer.step}: {words.format(shown)}", markup=False)
    return found


def _samples(
    trainer: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    eos: int,
    pinyin_of: PinyinOf | None = None,
) -> None:
    """Write what the model makes of its `sample_prompts`, as ids, to samples.jsonl."""
    settings = trainer.settings
    if not prompts or (model := trainer.spread.whole()) is None:
        return
    for text, prompt in zip(settings.sample_prompts, prompts, strict=True):
        sample = _sample(model, prompt, eos, settings.context, pinyin_of)
        line = {"step": trainer.step, "prompt": text, "text": tokenizer.decode(sample, skip_special_tokens=True)}
        trainer.append("samples.jsonl", line)


def _packed_bits(trainer: Any, tokens: Tokens, ends: np.ndarray, eos: int, pinyin: Tokens | None) -> float:
    """Bits that the model needs for the first documents of a split, packed like training rows.

    A document that a row cuts loses its earlier context there: this is the quick look of a training log, slightly above
    the exact figure of `hanmo eval`.
    """
    context, micro, world = trainer.settings.context, trainer.batches.micro, trainer.world
    total = int(ends[-1])
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    piece_tokens = context * micro * world.size
    place = np.arange(-(-total // piece_tokens) * piece_tokens)
    document = np.minimum(np.searchsorted(ends, place, side="right"), len(ends) - 1)
    targets = np.full(len(place), -100, np.int64)
    targets[:total] = tokens[:total]
    inputs = np.zeros(len(place), np.int64)
    inputs[1:total] = targets[: total - 1]
    inputs[starts] = eos
    arrays: dict[str, Any] = {"inputs": inputs, "targets": targets}
    if pinyin is not None:
        arrays["pinyin"] = np.full(len(place), SPECIAL, np.int64)
        arrays["pinyin"][1:total] = pinyin[: total - 1]
        arrays["pinyin"][starts] = SPECIAL
    row = place // context
    begin = np.maximum(starts[document], row * context)
    shape = (-1, context)
    arrays |= {"position": (place - begin).astype(np.int32), "segment": document.astype(np.int32)}
    rows = Rows(**{name: array.reshape(shape) for name, array in arrays.items()})
    found = 0.0
    for first in range(world.rank * micro, len(rows.inputs), micro * world.size):
        found += trainer.spread.measure(taken(rows, slice(first, first + micro)))
    return world.sum(found)[0] / float(np.log(2))


@torch.no_grad()
def _sample(
    model: Any, prompt: list[int], eos: int, context: int, pinyin_of: PinyinOf | None, length: int = 64
) -> list[int]:
    """`prompt` and what a model writes to it, in reading order, drawn at temperature 0.8 with a fixed seed.

    The prompt's first id opens a document. The run's own state is not touched.
    """
    room = min(length, context - len(prompt))
    if room < 1:
        return prompt
    drawn: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "pad_token_id": eos}
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if model.config.model_type == LingLongConfig.model_type:
            opening, text = prompt[:1], prompt[1:]
            given: dict[str, Any] = {"opening": opening, "eos_token_id": eos, **drawn}
            (new,) = complete(model, [text], max_new_tokens=room, pinyin_of=pinyin_of, **given)
            found = [*new, *text] if model.config.backward else [*prompt, *new]
        else:
            ids = torch.tensor([prompt], device=next(model.parameters()).device)
            found = model.generate(ids, max_new_tokens=room, **drawn)[0].tolist()
    model.train()
    return found
