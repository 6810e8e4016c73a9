"""Supervised fine-tuning: a base model learns to answer.

Classes that TRL does not know are tuned by `hanmo.posttrain.own`. For all others:

TRL's `SFTTrainer` on records that we tokenise ourselves, with the loss on the assistant's words only. A killed run
goes on from its last checkpoint, or from its beginning where it had none yet: same records, same seed, same number of
threads end at the same weights to the last bit, so the result is that of an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from trl import SFTConfig, SFTTrainer

from hanmo.models.folder import resolve
from hanmo.posttrain import adapters, own, reporting, training
from hanmo.posttrain.encode import IGNORE, Example, encode_parts
from hanmo.posttrain.prepare import prepare
from hanmo.posttrain.scoring import Lesson, pad_rows, sequence_log_probs, use_label_scoring
from hanmo.posttrain.settings import SftSettings

_LOGGED = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "entropy": "entropy",
    "mean_token_accuracy": "token_accuracy",
}


class _Trainer(training.Careful, SFTTrainer):
    """TRL's trainer with our order of batches and our scoring."""

    def __init__(self, lengths: list[int], lesson: Lesson | None, **kwargs: Any) -> None:
        self.lengths = lengths
        super().__init__(**kwargs)
        use_label_scoring(self.model, lesson)  # type: ignore[arg-type]


#: Makes, of the loaded model, what else it learns by, and what is measured on held-out records.
Teaching = Callable[[training.Start], tuple[Lesson | None, Callable[[list[Example]], dict[str, float]]]]


class Collator:
    """Records to a padded batch, as TRL's trainer wants it.

    Args:
        pad: the id to pad with.
        room: tokens of a row that takes several records; 0 where each has a row of its own. Positions begin anew with
            every record of a row, by which transformers' masks keep them apart.
    """

    def __init__(self, pad: int, room: int = 0) -> None:
        self.pad, self.room = pad, room

    def __call__(self, records: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        rows = [(record["input_ids"], record["labels"]) for record in records]
        if not self.room:
            ids, labels, real = pad_rows(rows, self.pad)
            return {"input_ids": ids, "labels": labels, "attention_mask": real}
        packed = [[rows[index] for index in row] for row in packed_rows([len(ids) for ids, _ in rows], self.room)]
        joined = [([i for ids, _ in row for i in ids], [i for _, labels in row for i in labels]) for row in packed]
        ids, labels, real = pad_rows(joined, self.pad)
        positions = torch.zeros_like(ids)
        for row, members in enumerate(packed):
            at = 0
            # What is left of a row counts as one more record.
            for length in [*(len(ids) for ids, _ in members), ids.shape[1]]:
                part = positions[row, at : at + length]
                part.copy_(torch.arange(len(part)))
                at += length
        return {"input_ids": ids, "labels": labels, "attention_mask": real, "position_ids": positions}


def packed_rows(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Indices of records by row, the longest first, each in the first row that has room for it."""
    rows: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        row = next((row for row, free in enumerate(left) if free >= lengths[index]), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(index)
        left[row] -= lengths[index]
    return rows


def held_out_loss(start: training.Start, settings: SftSettings, examples: list[Example]) -> dict[str, float]:
    """Mean loss per learnt token of the examples, in nats."""
    model = start.model
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    ordered = sorted(examples, key=lambda example: len(example.input_ids))
    batch = training.looked_at_once(settings, len(ordered[-1].input_ids))
    for at in range(0, len(ordered), batch):
        rows = [(example.input_ids, example.labels) for example in ordered[at : at + batch]]
        with start.autocast():
            total -= float(sequence_log_probs(model, rows, start.pad).double().sum())
        tokens += sum(label != IGNORE for _, labels in rows for label in labels[1:])
    model.train(was_training)
    return {"validation_loss": total / max(tokens, 1)}


def run(settings: SftSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Tune a model on dialogues.

    Args:
        inputs: `model` (one model folder or stage), `records` (record files, folders of them, or stages that made
            `sft.jsonl`).
        out: gets `model/`, `log.jsonl` (a line per `log_every` steps, and the held-out loss) and `records.json` (what
            became of every record); with an adapter also `adapter/`, and `model/` only where it is to be merged.

    Returns:
        Counts: records, tokens, steps, first and last loss, held-out loss before and after, seconds, tokens per second.

    Raises:
        HanmoError: unusable model, records or settings; a loss that is no number.
    """
    if objective := own.objective_of(resolve(inputs["model"][0])):
        own.check(settings, objective)
        return own.run(settings, objective, inputs, out, lambda parameters: training.rate_for(parameters, 1.0))
    return tune(settings, inputs, out, lambda start: (None, lambda held: held_out_loss(start, settings, held)))


def tune(settings: SftSettings, inputs: dict[str, list[Path]], out: Path, teaching: Teaching) -> dict[str, Any]:
    """`run` for models that TRL knows, by what else than the records `teaching` brings."""
    training.clear(out)
    training.quiet()
    start = training.Start(inputs["model"][0], settings, out, adapter=settings)
    lesson, measure = teaching(start)
    attached = adapters.attach(start.model, settings, settings.seed) if settings.adapter != "none" else {}
    chat = start.chat
    prepared = prepare(
        settings,
        inputs["records"],
        lambda dialogue, limit, notes: encode_parts(chat, dialogue, limit, settings.too_long, notes),
        start.limit,
    )
    examples, held = prepared.examples, prepared.held
    lengths = [len(example.input_ids) for example in examples]
    arguments = SFTConfig(
        **training.common_arguments(start, settings, out, lengths, adapters.RATE if attached else 1.0),
        max_length=None,
        neftune_noise_alpha=settings.neftune or None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = _Trainer(
        lengths,
        lesson,
        model=start.model,
        args=arguments,
        processing_class=start.chat.tokenizer,
        data_collator=Collator(start.pad, start.limit if settings.packing else 0),
        train_dataset=datasets.Dataset.from_dict(
            {
                "input_ids": [example.input_ids for example in examples],
                "labels": [example.labels for example in examples],
            }
        ),
    )
    look = (lambda: measure(held)) if held else None
    reporter = reporting.Reporter(out / "log.jsonl", "sft", _LOGGED, look, settings.evaluations)
    reporting.train(trainer, reporter, training.checkpoints(settings, out))
    tokens = prepared.records["train"]["tokens"] * settings.epochs
    ended = reporting.outcome(start, trainer, reporter, len(examples) * settings.epochs, tokens)
    if attached:
        del trainer
        adapters.finish(start, out, prepared.records, settings.merge)
    else:
        training.save(start, out, prepared.records)
    counts = {**prepared.counts, **attached, **ended}
    if reporter.measured:
        counts["validation_loss_before"] = reporter.measured[0]["validation_loss"]
        counts["validation_loss_after"] = reporter.measured[-1]["validation_loss"]
    return counts
