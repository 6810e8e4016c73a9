"""Direct preference optimisation: a tuned model learns which of two answers is the better one.

TRL's `DPOTrainer` (Rafailov et al. 2023, arXiv:2305.18290) on pairs that we tokenise ourselves. The reference is the
model as it came in; its log-probabilities are computed once, before the first step, so that no second model is held and
no step pays for it. A killed run starts again from its own beginning: same pairs, same seed, same number of threads end
at the same weights to the last bit.

Held-out pairs are measured before and after: the margin is `beta` times how much further the chosen answer has moved
from the reference than the rejected one, the accuracy the share of pairs in which it is above zero (before training
every margin is 0, and that counts half). `preference_accuracy` says how often the model itself, by its plain
log-probabilities, finds the chosen answer the likelier one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.nn import functional as F
from trl import DPOConfig, DPOTrainer

from hanmo.posttrain import training
from hanmo.posttrain.encode import IGNORE, PairExample
from hanmo.posttrain.prepare import prepare_pairs
from hanmo.posttrain.scoring import pad_rows, sequence_log_probs, use_label_scoring
from hanmo.posttrain.settings import DpoSettings

_LOGGED = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "logps/chosen": "log_prob_chosen",
    "logps/rejected": "log_prob_rejected",
}
#: The loss of a model that has not moved from the reference.
_STUCK = math.log(2)


class _Trainer(training.Careful, DPOTrainer):
    """TRL's trainer on encoded pairs whose reference log-probabilities are there already."""

    def __init__(self, lengths: list[int], **kwargs: Any) -> None:
        self.lengths = lengths
        super().__init__(**kwargs)
        use_label_scoring(self.model)  # type: ignore[arg-type]

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class _Collator:
    """Rows to a padded batch as TRL's trainer wants it: all chosen sides, then all rejected ones."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        sides = [
            (row["prompt_ids"] + row[side], [IGNORE] * len(row["prompt_ids"]) + row[side])
            for side in ("chosen_ids", "rejected_ids")
            for row in rows
        ]
        ids, labels, real = pad_rows(sides, self.pad)
        return {
            "input_ids": ids,
            "attention_mask": real,
            "completion_mask": (labels != IGNORE).long(),
            "ref_chosen_logps": torch.tensor([row["ref_chosen_logps"] for row in rows]),
            "ref_rejected_logps": torch.tensor([row["ref_rejected_logps"] for row in rows]),
        }


def pair_log_probs(start: training.Start, pairs: Sequence[PairExample], batch: int = 16) -> Tensor:
    """Log-probability of each pair's answers under the model, [pairs, 2] fp32 in nats: chosen, rejected."""
    model = start.model
    was_training = model.training
    model.eval()
    result = torch.zeros(len(pairs), 2)
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].length)
    for at in range(0, len(order), batch):
        part = order[at : at + batch]
        rows = []
        for index in part:
            prompt, *answers = pairs[index]
            rows += [(prompt + answer, [IGNORE] * len(prompt) + answer) for answer in answers]
        with start.autocast():
            result[part] = sequence_log_probs(model, rows, start.pad).view(-1, 2)
    model.train(was_training)
    return result


def judge(log_probs: Tensor, reference: Tensor, beta: float) -> dict[str, float]:
    """Loss, margin and accuracies of pairs, from log-probabilities [pairs, 2] of the model and of the reference."""
    moved = log_probs - reference
    margins = beta * (moved[:, 0] - moved[:, 1])
    return {
        "validation_loss": float(-F.logsigmoid(margins).mean()),
        "validation_margin": float(margins.mean()),
        "validation_accuracy": _share_above_zero(margins),
        "preference_accuracy": _share_above_zero(log_probs[:, 0] - log_probs[:, 1]),
        "log_prob_chosen": float(log_probs[:, 0].mean()),
        "log_prob_rejected": float(log_probs[:, 1].mean()),
    }


def _share_above_zero(values: Tensor) -> float:
    """Share of positive values; a tie counts half."""
    return float(((values > 0).float() + 0.5 * (values == 0).float()).mean())


def run(settings: DpoSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Tune a model on preferences.

    Args:
        inputs: `model` (one model folder or stage), `pairs` (preference files, folders of them, or stages that made
            `pref.jsonl`).
        out: gets `model/`, `log.jsonl` (loss, margins, accuracies, rewards; the held-out pairs' too) and `records.json`
            (what became of every record).

    Returns:
        Counts: pairs, steps, losses, held-out margin and accuracies before and after, seconds, and `warnings`.

    Raises:
        HanmoError: unusable model, records or settings; a loss that is no number.
    """
    training.clear(out)
    training.quiet()
    start = training.Start(inputs["model"][0], settings, out)
    prepared = prepare_pairs(start.chat, settings, inputs["pairs"], start.limit)
    pairs, held, records = prepared.pairs, prepared.held, prepared.records
    lengths = [2 * pair.length for pair in pairs]
    model = start.model.to(start.device)  # type: ignore[arg-type]
    use_label_scoring(model)
    reference = pair_log_probs(start, pairs)
    held_reference = pair_log_probs(start, held)
    trainer = _Trainer(
        lengths,
        model=model,
        args=_arguments(start, settings, out, lengths),
        processing_class=start.chat.tokenizer,
        data_collator=_Collator(start.pad),
        train_dataset=datasets.Dataset.from_dict(
            {
                "prompt_ids": [pair.prompt_ids for pair in pairs],
                "chosen_ids": [pair.chosen_ids for pair in pairs],
                "rejected_ids": [pair.rejected_ids for pair in pairs],
                "ref_chosen_logps": reference[:, 0].tolist(),
                "ref_rejected_logps": reference[:, 1].tolist(),
            }
        ),
    )
    look = (lambda: judge(pair_log_probs(start, held), held_reference, settings.beta)) if held else None
    reporter = training.Reporter(out / "log.jsonl", "dpo", _LOGGED, look, settings.evaluations)
    training.train(trainer, reporter)
    training.save(start, out, records)
    counts = {
        **prepared.counts,
        "steps": trainer.state.global_step,
        "learning_rate": trainer.args.learning_rate,
        "precision": str(start.dtype).removeprefix("torch."),
        "first_loss": reporter.losses[0],
        "last_loss": reporter.losses[-1],
    } | training.speed(reporter, len(pairs) * settings.epochs, prepared.tokens * settings.epochs)
    if reporter.measured:
        for name in ("validation_margin", "validation_accuracy", "preference_accuracy", "log_prob_chosen"):
            counts[f"{name}_before"] = round(reporter.measured[0][name], 4)
            counts[f"{name}_after"] = round(reporter.measured[-1][name], 4)
    counts["warnings"] = warnings_of(reporter, records)
    for line in counts["warnings"]:
        training.announce(f"warning: {line}")
    return counts


def _arguments(start: training.Start, settings: DpoSettings, out: Path, lengths: list[int]) -> DPOConfig:
    # DPO moves a model a little way from where it stands: a thirtieth of the rate that taught it to answer.
    arguments = training.common_arguments(start, settings, out, lengths, 0.03)
    if settings.sft_weight:
        arguments |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, settings.sft_weight]}
    return DPOConfig(**arguments, beta=settings.beta, max_length=None, precompute_ref_log_probs=True)


def warnings_of(reporter: training.Reporter, records: dict[str, Any]) -> list[str]:
    """The known ways in which DPO fails, as far as this run's figures show them."""
    lines = []
    if reporter.measured:
        first, last = reporter.measured[0], reporter.measured[-1]
        if last["validation_loss"] > _STUCK - 0.005:
            lines.append(
                f"the held-out loss is {last['validation_loss']:.3f}, which is where it began (0.693): "
                "nothing was learnt; raise learning_rate or epochs, or look at the pairs"
            )
        fall = first["log_prob_chosen"] - last["log_prob_chosen"]
        if fall > 0.1 * abs(first["log_prob_chosen"]) and fall > 2:
            lines.append(
                f"the chosen answers became less likely ({first['log_prob_chosen']:.1f} to "
                f"{last['log_prob_chosen']:.1f} nats): lower learning_rate, raise beta, or set sft_weight"
            )
    elif reporter.losses[-1] > _STUCK - 0.005:
        lines.append(f"the loss is still {reporter.losses[-1]:.3f} (0.693 at the start): nothing was learnt")
    chosen, rejected = records["mean_tokens"]["chosen"], records["mean_tokens"]["rejected"]
    if max(chosen, rejected) > 1.5 * max(min(chosen, rejected), 1):
        lines.append(
            f"chosen answers have {chosen:g} tokens on average, rejected ones {rejected:g}: length alone can be learnt"
        )
    return lines
