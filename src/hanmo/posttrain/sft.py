"""Supervised fine-tuning: a base model learns to answer.

Classes that TRL does not know are tuned by `hanmo.posttrain.own`. For all others:

TRL's `SFTTrainer` on records that we tokenise ourselves, with the loss on the assistant's words only. A killed run
starts again from its own beginning (these runs are short): same records, same seed, same number of threads end at the
same weights to the last bit, so the result is that of an undisturbed run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from trl import SFTConfig, SFTTrainer

from hanmo.models.folder import resolve
from hanmo.posttrain import own, training
from hanmo.posttrain.encode import IGNORE, Example, encode_dialogue
from hanmo.posttrain.prepare import prepare
from hanmo.posttrain.scoring import pad_rows, sequence_log_probs, use_label_scoring
from hanmo.posttrain.settings import SftSettings

_LOGGED = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "entropy": "entropy",
    "mean_token_accuracy": "token_accuracy",
}


class _Trainer(training.Careful, SFTTrainer):
    """TRL's trainer with our order of batches and our scoring."""

    def __init__(self, lengths: list[int], **kwargs: Any) -> None:
        self.lengths = lengths
        super().__init__(**kwargs)
        use_label_scoring(self.model)  # type: ignore[arg-type]


class _Collator:
    """Rows to a padded batch, as TRL's trainer wants it."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        ids, labels, real = pad_rows([(row["input_ids"], row["labels"]) for row in rows], self.pad)
        return {"input_ids": ids, "labels": labels, "attention_mask": real}


def held_out_loss(start: training.Start, examples: list[Example]) -> dict[str, float]:
    """Mean loss per learnt token of the examples, in nats."""
    model = start.model
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    ordered = sorted(examples, key=lambda example: len(example.input_ids))
    for at in range(0, len(ordered), 32):
        rows = [(example.input_ids, example.labels) for example in ordered[at : at + 32]]
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
            became of every record).

    Returns:
        Counts: records, tokens, steps, first and last loss, held-out loss before and after, seconds, tokens per second.

    Raises:
        HanmoError: unusable model, records or settings; a loss that is no number.
    """
    if objective := own.objective_of(resolve(inputs["model"][0])):
        return own.run(settings, objective, inputs, out, lambda parameters: training.rate_for(parameters, 1.0))
    training.clear(out)
    training.quiet()
    start = training.Start(inputs["model"][0], settings, out)
    chat = start.chat
    prepared = prepare(
        settings,
        inputs["records"],
        lambda dialogue, limit, notes: encode_dialogue(chat, dialogue, limit, settings.too_long, notes),
        start.limit,
    )
    examples, held = prepared.examples, prepared.held
    lengths = [len(example.input_ids) for example in examples]
    arguments = SFTConfig(
        **training.common_arguments(start, settings, out, lengths, 1.0),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = _Trainer(
        lengths,
        model=start.model,
        args=arguments,
        processing_class=start.chat.tokenizer,
        data_collator=_Collator(start.pad),
        train_dataset=datasets.Dataset.from_dict(
            {
                "input_ids": [example.input_ids for example in examples],
                "labels": [example.labels for example in examples],
            }
        ),
    )
    look = (lambda: held_out_loss(start, held)) if held else None
    reporter = training.Reporter(out / "log.jsonl", "sft", _LOGGED, look, settings.evaluations)
    training.train(trainer, reporter)
    training.save(start, out, prepared.records)
    counts = {
        **prepared.counts,
        "steps": trainer.state.global_step,
        "learning_rate": arguments.learning_rate,
        "precision": str(start.dtype).removeprefix("torch."),
        "first_loss": reporter.losses[0],
        "last_loss": reporter.losses[-1],
    } | training.speed(reporter, len(examples) * settings.epochs, prepared.records["train"]["tokens"] * settings.epochs)
    if reporter.measured:
        counts["validation_loss_before"] = reporter.measured[0]["validation_loss"]
        counts["validation_loss_after"] = reporter.measured[-1]["validation_loss"]
    return counts
