"""Supervised fine-tuning of the classes that TRL does not know, by the trainer of `hanmo.pretrain`.

Records are packed into rows (`labelled`), documents apart, with the loss where the assistant speaks. A killed run goes
on from its last checkpoint and ends with the same bits.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from hanmo.errors import HanmoError
from hanmo.files import read_json, write_json
from hanmo.models import families
from hanmo.models.allocator import keep_freed_memory
from hanmo.models.folder import resolve
from hanmo.models.linglong.generation import pinyin_reader
from hanmo.models.loss import IGNORE
from hanmo.models.save import save_model
from hanmo.posttrain.labelled import LabelledRows, Piece, encoder_of, piece_of
from hanmo.posttrain.prepare import prepare
from hanmo.posttrain.settings import SftSettings
from hanmo.pretrain.distributed import World
from hanmo.pretrain.loading import open_model, without_dropout
from hanmo.pretrain.objectives.looking import nats
from hanmo.pretrain.objectives.reading import Reading
from hanmo.pretrain.precision import choose, pick_device
from hanmo.pretrain.rules import Rates
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.steps import step_of
from hanmo.pretrain.trainer import Trainer
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import TURN_END

#: What models learn that are tuned here, by `model_type`; those that learn "spans" are, too.
_OWN = {"linglong": "causal", "hanmo_unified": "unified"}


#: Tokens of the longest record where neither the settings nor the model say it.
_LONGEST = 512


def objective_of(folder: Path) -> str | None:
    """What the model in a folder is tuned on here; None for what TRL tunes.

    Raises:
        HanmoError: it is an encoder, which has no answers to give.
    """
    found = families.objective_of(folder)
    if found == "masked":
        raise HanmoError(f"{folder}: an encoder writes no answers; give a decoder or an encoder-decoder")
    return "spans" if found == "spans" else _OWN.get(str(read_json(folder / "config.json").get("model_type")))


def objective_of_type(model_type: str) -> str | None:
    """The same of a `model_type` of transformers."""
    family = families.FAMILIES.get(model_type)
    return "spans" if family and family.learns[0] == "spans" else _OWN.get(model_type)


def check(settings: SftSettings, objective: str) -> None:
    """Refuse what only TRL's models take.

    Raises:
        HanmoError: the settings ask for an adapter or for NEFTune.
    """
    for name, asked in (("adapter", settings.adapter != "none"), ("neftune", settings.neftune > 0)):
        if asked:
            raise HanmoError(f"{name}: for decoders of stock classes; this model learns {objective}; leave it out")


def limit_of(settings: SftSettings, config: Any) -> int:
    """Tokens of a row; a stock T5 has no longest one."""
    return min(filter(None, (settings.max_length, getattr(config, "max_position_embeddings", None))), default=_LONGEST)


def run(
    settings: SftSettings, objective: str, inputs: dict[str, list[Path]], out: Path, rate: Callable[[int], float]
) -> dict[str, Any]:
    """Tune a model of a class of ours, or an encoder-decoder; see `hanmo.posttrain.sft.run`.

    Args:
        objective: what such models learn (`hanmo.models.families`).
        rate: function of the parameters -> the peak of AdamW's rate, where the settings leave it open.
    """
    folder = resolve(inputs["model"][0])
    keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = open_model(getattr(transformers, families.AUTO[objective]), folder, True, out)
    without_dropout(model)
    config = model.config
    reading = Reading.of("", folder)
    pinyin_of = pinyin_reader(folder) if reading.pinyin else None
    tokenizer = load(folder)
    limit = limit_of(settings, config)
    encode = encoder_of(tokenizer, settings.too_long, reading.backward)
    prepared = prepare(settings, inputs["records"], encode, limit)
    start = getattr(config, "decoder_start_token_id", None) or 0
    pieces, looked = (
        [piece_of(objective, *example, start, pinyin_of) for example in side]
        for side in (prepared.examples, prepared.held)
    )
    rows = LabelledRows(pieces, limit, settings.epochs, settings.seed)
    peak = settings.learning_rate or rate(sum(parameter.numel() for parameter in model.parameters()))
    trainer = _trainer(settings, objective, model, rows, looked, out, peak, len(pieces) * settings.epochs)
    trainer.resume()
    last = trainer.run()
    save_model(model.to("cpu"), tokenizer, out / "model", _stops(tokenizer))
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    write_json(out / "records.json", prepared.records)
    return {
        **prepared.counts,
        "steps": trainer.step,
        "learning_rate": trainer.rates.other,
        "precision": str(trainer.dtype).removeprefix("torch."),
        "last_loss": last["loss"],
        "tokens": prepared.records["train"]["tokens"] * settings.epochs,
        **{key: last[key] for key in ("validation_loss",) if key in last},
    }


def _trainer(
    settings: SftSettings,
    objective: str,
    model: Any,
    rows: LabelledRows,
    held: list[Piece],
    out: Path,
    peak: float,
    records: int,
) -> Trainer:
    device = pick_device(settings.device)
    # As many rows a step as hold a batch of records, on the average.
    batch = max(1, round(len(rows) * settings.batch_size / records)) * rows.context
    chosen = PretrainSettings(
        tokens=rows.total,
        context=rows.context,
        batch_tokens=batch,
        optimizer="adamw",
        lr=peak,
        weight_decay=settings.weight_decay,
        schedule="linear",
        warmup_tokens=round(settings.warmup * rows.total),
        clip=settings.clip,
        seed=settings.seed,
        device=settings.device,
        threads=settings.threads,
        compile=False,
        micro_tokens=settings.micro_batch * rows.context,
        recompute=settings.recompute,
        log_every=settings.log_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        eval_every=max(1, rows.total // batch // settings.evaluations),
    )
    watched = LabelledRows(held, rows.context, 1, settings.seed) if held else None

    def look(trainer: Trainer) -> dict[str, float]:
        if watched is None:
            return {}
        found = watched.rows(0, len(watched))
        loss = nats(trainer, found) / max(1, int((found.targets != IGNORE).sum()))
        trainer.append("log.jsonl", {"step": trainer.step, "validation_loss": round(loss, 6)})
        return {"validation_loss": loss}

    return Trainer(
        model.to(device).train(),
        chosen,
        rows,
        out,
        choose(device, settings.precision),
        look,
        World(device),
        step=step_of(model, objective),
        rates=Rates.of(chosen, model.get_input_embeddings().weight.shape[1]),
    )


def _stops(tokenizer: Any) -> list[int]:
    """Ids that end an answer: of a turn, where the tokenizer has such a one, and of a document."""
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return [index for index in (tokenizer.backend_tokenizer.token_to_id(TURN_END), end) if index is not None]
