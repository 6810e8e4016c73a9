"""The pretraining stage: token shards in, a Hugging Face model folder with its curves and samples out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from hanmo.console import console, human_count
from hanmo.models.allocator import keep_freed_memory
from hanmo.models.experts import Routing, inactive_parameters
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
from hanmo.pretrain.objectives.gaps import GapRows
from hanmo.pretrain.objectives.looking import gap_look, look, masked_look, unified_look
from hanmo.pretrain.objectives.masked import MaskedRows
from hanmo.pretrain.objectives.unified import UnifiedRows
from hanmo.pretrain.precision import choose
from hanmo.pretrain.rules import Rates, batch_tokens, warmup_tokens
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.start import begin_with_bigrams
from hanmo.pretrain.steps import step_of
from hanmo.pretrain.steps.seq2seq import seq2seq_flops
from hanmo.pretrain.trainer import Trainer
from hanmo.remote import brought
from hanmo.tokenizer import load


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
        begun = world.agreed(CheckpointStore(out / "checkpoints", world).begun)
        if begun and not settings.batch_tokens:  # a larger budget would have another batch by rule
            settings = settings.model_copy(update={"batch_tokens": begun.get("batch_tokens", 0)})
        # What is fetched is every process's own: which shards are at hand changes while it reads.
        fetched = out if world.first else out / f"shards-{world.rank}"
        given = world.agreed(lambda: [resolve(brought(path)) for path in inputs.get("model", [])])
        model = given[0] if given else None
        settings = settings.resolved(model)
        beside = tokenizer_of(model, out) if model else None
        with opened(settings, inputs["data"], fetched, model, beside) as data:
            counts = _train(settings, model, data, out, world, begun)
            if data.remote:
                data.remote.remove()
                if not world.first:
                    fetched.rmdir()
        if world.first:
            clear_work(out)
    return counts


def _train(
    settings: PretrainSettings, given: Path | None, data: Data, out: Path, world: World, begun: dict[str, Any] | None
) -> dict[str, Any]:
    facts, order = data.facts, data.order
    tokenizer = load(data.tokenizer)
    dtype = _dtype(settings, world, begun)
    model = load_model(settings, given, facts["vocab_size"], data.tokenizer, out)
    started = 0.0
    if settings.start == "bigram":
        started = begin_with_bigrams(model, order, settings.tokens, world, out / WORK / "start.safetensors")
    frozen = freeze(model, settings.freeze)
    model = model.to(world.device)

    def save(trainer: Trainer, name: str) -> None:
        whole = trainer.spread.whole()  # all processes must ask for it
        if world.first:
            save_model(whole, tokenizer, out / name, stops=[facts["eos_id"]])

    settings = settle(settings, model, world, dtype)
    source, step, seen = learned(settings, data, tokenizer, model)
    keep = keeper(settings, save)
    # Only a model that predicts every token says how many bits a text has.
    size = bytes_per_token(facts, order) if settings.objective == "causal" else None
    rates = Rates.of(settings, model.get_input_embeddings().weight.shape[1], continued=given is not None)
    flops = seq2seq_flops(model, source.context, source.written) if isinstance(source, GapRows) else 0
    more: dict[str, Any] = {"bytes_per_token": size, "step": step, "keep": keep, "rates": rates, "flops": flops}
    # Where weights are cut, the model does not know them any more once the trainer has it.
    parameters, idle = sum(p.numel() for p in model.parameters()), inactive_parameters(model)
    trainer = Trainer(model, settings, source, out, dtype, seen, world, **more)
    active = f", {human_count(parameters - idle)} active" if idle else ""
    console.print(
        f"{human_count(parameters)} parameters{active}, {human_count(settings.tokens)} tokens "
        f"({settings.tokens / order.total:.2f} passes over {human_count(order.total)}{', mixed' * bool(order.mix)}), "
        f"{trainer.schedule.steps} steps, {str(dtype).removeprefix('torch.')} on {world.device}{_told(settings, world)}"
    )
    rows = trainer.sizes.first(trainer.schedule.steps)
    batch, rising = batch_tokens(settings), warmup_tokens(settings)
    console.print(f"batches of {batch} tokens, {human_count(rising)} to warm up, {rates.in_words()}", markup=False)
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
        **({"active_parameters": parameters - idle} if idle else {}),
        **({"frozen": frozen} if frozen else {}),
        "steps": trainer.schedule.steps,
        "tokens": tokens,
        "batch_tokens": batch,
        "rates": asdict(rates),
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


def learned(
    settings: PretrainSettings, data: Data, tokenizer: PreTrainedTokenizerFast, model: Any
) -> tuple[RowSource, StepBuilder, Callable[[Trainer], dict[str, Any]]]:
    """The rows, the step and the look of what the run learns."""
    step = step_of(model, settings.objective)
    if settings.objective == "masked":
        rows = MaskedRows.of(settings.masks, data.order, tokenizer, settings.seed)
        step = partial(step, separator=data.facts["eos_id"])
        return rows, step, masked_look(settings, data.heldout, tokenizer)
    if settings.objective == "spans":
        config = model.config
        ids = config.decoder_start_token_id, data.facts["eos_id"]
        rows = GapRows(data.order, tokenizer, settings.spans, settings.seed, *ids)
        return rows, step, gap_look(settings, data.heldout, tokenizer, *ids)
    if settings.objective == "unified":
        rows = UnifiedRows(data.order, tokenizer, settings.unified, settings.masks, settings.seed)
        return rows, step, unified_look(settings, data.heldout, tokenizer, data.facts["eos_id"])
    if Routing.of(model.config):
        step = partial(step, experts=settings.experts)
    return data.order, step, look(settings, data.heldout, tokenizer, data.facts["eos_id"], data.reading)


def _told(settings: PretrainSettings, world: World) -> str:
    return f", {world.size} processes ({settings.parallel})" if world.size > 1 else ""


def _dtype(settings: PretrainSettings, world: World, begun: dict[str, Any] | None) -> torch.dtype:
    """The dtype that the run began with, else what a probe finds: a resumed run must not change its arithmetic."""
    if begun and settings.precision == "auto":
        return getattr(torch, begun["dtype"])
    return world.agreed(lambda: choose(world.device, settings.precision, fp16=True))
