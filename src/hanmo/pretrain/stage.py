"""The pretraining stage: token shards in, a Hugging Face model folder with its curves and samples out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from hanmo.console import console, human_count
from hanmo.models.allocator import keep_freed_memory
from hanmo.models.folder import resolve
from hanmo.models.save import save_model
from hanmo.plan.fit import settle
from hanmo.pretrain.checkpoint import CheckpointStore
from hanmo.pretrain.data import Data, amounts, bytes_per_token, opened, tell_mix
from hanmo.pretrain.distributed import World, joined
from hanmo.pretrain.freezing import freeze
from hanmo.pretrain.keeping import keeper
from hanmo.pretrain.loading import WORK, clear_work, load_model, tokenizer_of
from hanmo.pretrain.meter import in_words
from hanmo.pretrain.objectives import RowSource, StepBuilder
from hanmo.pretrain.objectives.looking import masked_look
from hanmo.pretrain.objectives.masked import EncoderStep, MaskedRows
from hanmo.pretrain.precision import choose
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.start import begin_with_bigrams
from hanmo.pretrain.step import PackedStep
from hanmo.pretrain.trainer import Trainer
from hanmo.remote import brought
from hanmo.tokenizer import encode_text, load
from hanmo.tokens.order import Rows
from hanmo.tokens.shards import Split


def run(settings: PretrainSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Pretrain a decoder, or continue a model.

    Inputs: `data` (folders of token shards with their tokenizer, or task files), optionally `model` (a folder to
    continue from, whose shape then replaces the preset). Output: `model/`, `log.jsonl`, `samples.jsonl`,
    `checkpoints/`, and `model-…/` where models are kept on the way.

    A killed run goes on from its newest checkpoint and ends bit-identical; a larger `tokens` budget goes on from the
    checkpoint at the start of the decay.
    """
    keep_freed_memory()
    with joined(settings) as world:
        # What is fetched is every process's own: which shards are at hand changes while it reads.
        fetched = out if world.first else out / f"shards-{world.rank}"
        given = world.agreed(lambda: [resolve(brought(path)) for path in inputs.get("model", [])])
        model = given[0] if given else None
        beside = tokenizer_of(model, out) if model else None
        with opened(settings, inputs["data"], fetched, beside) as data:
            counts = _train(settings, model, data, out, world)
            if data.remote:
                data.remote.remove()
                if not world.first:
                    fetched.rmdir()
        if world.first:
            clear_work(out)
    return counts


def _train(settings: PretrainSettings, given: Path | None, data: Data, out: Path, world: World) -> dict[str, Any]:
    facts, order = data.facts, data.order
    tokenizer = load(data.tokenizer)
    dtype = _dtype(out, settings, world)
    masked = settings.objective == "masked"
    model = load_model(settings, given, facts["vocab_size"], data.tokenizer, out, masked)
    started = 0.0
    if settings.start == "bigram":
        started = begin_with_bigrams(model, order, world, out / WORK / "start.safetensors")
    frozen = freeze(model, settings.freeze)
    model = model.to(world.device)

    def save(trainer: Trainer, name: str) -> None:
        whole = trainer.spread.whole()  # all processes must ask for it
        if world.first:
            save_model(whole, tokenizer, out / name, stops=[facts["eos_id"]])

    if not masked:  # the planner knows decoders alone
        settings = settle(settings, model, world, dtype)
    source, step, look = _objective(settings, data, tokenizer)
    keep = keeper(settings, save)
    size = bytes_per_token(facts, order)
    trainer = Trainer(model, settings, source, out, dtype, look, world, bytes_per_token=size, step=step, keep=keep)
    parameters = sum(p.numel() for p in model.parameters())
    console.print(
        f"{human_count(parameters)} parameters, {human_count(settings.tokens)} tokens "
        f"({settings.tokens / order.total:.2f} passes over {human_count(order.total)}{', mixed' * bool(order.mix)}), "
        f"{trainer.schedule.steps} steps, {str(dtype).removeprefix('torch.')} on {world.device}{_told(settings, world)}"
    )
    rows = trainer.sizes.first(trainer.schedule.steps)
    if order.mix:
        tell_mix(order, rows, settings)
    if not trainer.resume():
        trainer.log.clear()
    last = trainer.run()
    speed, tokens = trainer.meter.summary(), rows * settings.context
    if world.first:
        told = in_words(trainer.seconds, tokens, speed, trainer.meter.yardstick, trainer.guard.in_words())
        console.print(told, markup=False)
    whole = trainer.spread.whole()
    if world.first:
        save_model(whole.to("cpu"), tokenizer, out / "model", stops=[facts["eos_id"]])
    counts = {
        "parameters": parameters,
        **({"frozen": frozen} if frozen else {}),
        "steps": trainer.schedule.steps,
        "tokens": tokens,
        "passes": round(tokens / order.total, 3),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(world.device),
        "processes": world.size,
        "training_seconds": round(trainer.seconds, 1),
        **({"start_seconds": round(started, 2)} if started else {}),
        **speed,
        **trainer.guard.counts(),
    }
    if order.mix:
        counts["sources"] = amounts(order, rows)
    return counts | {key: value for key, value in last.items() if key == "loss" or key.startswith("heldout_")}


def _objective(
    settings: PretrainSettings, data: Data, tokenizer: PreTrainedTokenizerFast
) -> tuple[RowSource, StepBuilder, Callable[[Trainer], dict[str, Any]]]:
    """The rows, the step and the look of what the run learns."""
    if settings.objective == "masked":
        masks = settings.masks
        rows = MaskedRows(data.order, tokenizer, masks.share, masks.whole_words, settings.seed)
        step = partial(EncoderStep, separator=data.facts["eos_id"])
        return rows, step, masked_look(settings, data.heldout, tokenizer)
    return data.order, PackedStep, _look(settings, data.heldout, tokenizer, data.facts["eos_id"])


def _told(settings: PretrainSettings, world: World) -> str:
    return f", {world.size} processes ({settings.parallel})" if world.size > 1 else ""


def _dtype(out: Path, settings: PretrainSettings, world: World) -> torch.dtype:
    """The dtype that the run began with, else what a probe finds: a resumed run must not change its arithmetic."""
    begun = CheckpointStore(out / "checkpoints", world).newest() if settings.precision == "auto" else None
    if begun is not None:
        return getattr(torch, begun.state["dtype"])
    return world.agreed(lambda: choose(world.device, settings.precision, fp16=True))


def _look(
    settings: PretrainSettings, heldout: dict[str, Split], tokenizer: PreTrainedTokenizerFast, eos: int
) -> Callable[[Trainer], dict[str, Any]]:
    """A function that measures held-out text and writes samples, for the trainer to call now and then.

    Of several tokens folders, `heldout_bpb` is that of the first, and `heldout_bpb_by_data` has all of them.
    """
    measured = {}
    for name, split in heldout.items():
        sizes = np.asarray(split.doc_bytes, dtype=np.int64)
        count = int(np.searchsorted(np.cumsum(sizes), settings.eval_bytes, side="right")) or min(1, len(sizes))
        if count:
            ends = np.asarray(split.doc_ends[:count], dtype=np.int64)
            measured[name] = (split.tokens, ends, int(sizes[:count].sum()))
    prompts = [[eos, *encode_text(tokenizer, text)] for text in settings.sample_prompts]

    def look(trainer: Trainer) -> dict[str, Any]:
        found: dict[str, Any] = {}
        by_data = {
            name: round(_packed_bits(trainer, tokens, ends, eos) / size, 5)
            for name, (tokens, ends, size) in measured.items()
        }
        if by_data:
            found["heldout_bpb"] = next(iter(by_data.values()))
            if len(heldout) > 1:
                found["heldout_bpb_by_data"] = by_data
            trainer.append("log.jsonl", {"step": trainer.step, **found})
            shown = ", ".join(f"{name} {value:.3f}".strip() for name, value in by_data.items())
            console.print(f"step {trainer.step}: held-out {shown} bits per byte", markup=False)
        if not prompts or (model := trainer.spread.whole()) is None:
            return found
        for text, prompt in zip(settings.sample_prompts, prompts, strict=True):
            sample = _sample(model, prompt, eos, settings.context)
            line = {"step": trainer.step, "prompt": text, "text": tokenizer.decode(sample, skip_special_tokens=True)}
            trainer.append("samples.jsonl", line)
        return found

    return look


def _packed_bits(trainer: Trainer, tokens: Any, ends: np.ndarray, eos: int) -> float:
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
    row = place // context
    begin = np.maximum(starts[document], row * context)
    shape = (-1, context)
    arrays = [inputs, targets, (place - begin).astype(np.int32), document.astype(np.int32)]
    arrays = [array.reshape(shape) for array in arrays]
    nats = 0.0
    for first in range(world.rank * micro, len(arrays[0]), micro * world.size):
        nats += trainer.spread.measure(Rows(*(array[first : first + micro] for array in arrays)))
    return world.sum(nats)[0] / float(np.log(2))


@torch.no_grad()
def _sample(model: Any, prompt: list[int], pad: int, context: int, length: int = 64) -> list[int]:
    """Continue `prompt` by sampling at temperature 0.8 with a fixed seed; the run's own state is not touched."""
    device = next(model.parameters()).device
    room = min(length, context - len(prompt))
    if room < 1:
        return prompt
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ids = model.generate(
            torch.tensor([prompt], device=device),
            max_new_tokens=room,
            do_sample=True,
            temperature=0.8,
            top_p=0.95,
            pad_token_id=pad,
        )
    model.train()
    return ids[0].tolist()
