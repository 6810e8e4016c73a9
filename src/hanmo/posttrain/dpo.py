"""Preference tuning: a tuned model learns which of two answers is the better one.

TRL's trainers (`hanmo.posttrain.losses` has the five losses) on pairs that we tokenise ourselves. The reference is the
model as it came in; its log-probabilities are computed once, before the first step, so that no second model is held and
no step pays for it. A killed run goes on from its last checkpoint: same pairs, same seed, same number of threads end at
the same weights to the last bit.

Held-out pairs are measured before and after: the margin is `beta` times how much further the chosen answer has moved
from the reference than the rejected one, the accuracy the share of pairs in which it is above zero (before training
every margin is 0, and that counts half). `preference_accuracy` says how often the model itself, by its plain
log-probabilities, finds the chosen answer the likelier one. What the model then writes is looked at in
`hanmo.posttrain.answers`: its lengths, how far it has moved (KL), and what a reward model says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hanmo.files import write_json
from hanmo.posttrain import answers, losses, reporting, training
from hanmo.posttrain.calibration import mean_interval, share_interval
from hanmo.posttrain.encode import IGNORE, PairExample
from hanmo.posttrain.prepare import prepare_pairs
from hanmo.posttrain.reward import RewardModel
from hanmo.posttrain.scoring import sequence_log_probs, use_label_scoring
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
#: What the counts say of aligned.json: their name, and where it stands there.
_COUNTED = (
    ("validation_accuracy_low", "accuracy", "low"),
    ("validation_accuracy_high", "accuracy", "high"),
    ("validation_margin_low", "margin", "low"),
    ("kl", "kl", "mean"),
    ("win_rate", "win_rate", "mean"),
)


def pair_log_probs(start: training.Start, settings: DpoSettings, pairs: Sequence[PairExample]) -> Tensor:
    """Log-probability of each pair's answers under the model, [pairs, 2] fp32 in nats: chosen, rejected."""
    model = start.model
    was_training = model.training
    model.eval()
    result = torch.zeros(len(pairs), 2)
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].length)
    batch = max(1, training.looked_at_once(settings, max((pair.length for pair in pairs), default=1)) // 2)
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


def judge(log_probs: Tensor, reference: Tensor, lengths: Tensor, settings: DpoSettings) -> dict[str, float]:
    """Loss, margin and accuracies of pairs.

    Args:
        log_probs, reference: of the answers under the model and under the reference, [pairs, 2] in nats.
        lengths: tokens of the answers, [pairs, 2].
    """
    margins = margins_of(log_probs, reference, settings)
    return {
        "validation_loss": float(losses.held_out_loss(log_probs, reference, lengths, settings).mean()),
        "validation_margin": float(margins.mean()),
        "validation_accuracy": _share_above_zero(margins),
        "preference_accuracy": _share_above_zero(log_probs[:, 0] - log_probs[:, 1]),
        "log_prob_chosen": float(log_probs[:, 0].mean()),
        "log_prob_rejected": float(log_probs[:, 1].mean()),
    }


def margins_of(log_probs: Tensor, reference: Tensor, settings: DpoSettings) -> Tensor:
    """beta times how much further the chosen answers have moved than the rejected ones, [pairs]."""
    moved = log_probs - reference
    return settings.strength * (moved[:, 0] - moved[:, 1])


def _share_above_zero(values: Tensor) -> float:
    """Share of positive values; a tie counts half."""
    return float(((values > 0).float() + 0.5 * (values == 0).float()).mean())


def run(settings: DpoSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Tune a model on preferences.

    Args:
        inputs: `model` (one model folder or stage), `pairs` (preference files, folders of them, or stages that made
            `pref.jsonl`), `reward` (optional: a reward model that compares answers before and behind the training).
        out: gets `model/`, `log.jsonl` (loss, margins, accuracies, rewards; the held-out pairs' too), `records.json`
            (what became of every record) and, where pairs are held out, `aligned.json` (margins, lengths, KL).

    Returns:
        Counts: pairs, steps, losses, held-out margin and accuracies before and after, seconds, and `warnings`.

    Raises:
        HanmoError: unusable model, records or settings; a loss that is no number.
    """
    training.clear(out)
    training.quiet()
    start = training.Start(inputs["model"][0], settings, out)
    judge_of = [RewardModel(path, start.device) for path in inputs.get("reward", [])]
    prepared = prepare_pairs(start.chat, settings, inputs["pairs"], start.limit)
    pairs, held, records = prepared.pairs, prepared.held, prepared.records
    model = start.model.to(start.device)  # type: ignore[arg-type]
    use_label_scoring(model)
    reference = pair_log_probs(start, settings, pairs)
    held_reference = pair_log_probs(start, settings, held)
    held_lengths = torch.tensor([[len(pair.chosen_ids), len(pair.rejected_ids)] for pair in held])
    trainer = losses.trainer_for(start, settings, out, pairs, reference)
    asked = answers.held_prompts(held, prepared.held_texts, settings.answers)
    before = answers.write(start, asked, settings.answer_tokens)
    now: list[Tensor] = []

    def look() -> dict[str, float]:
        now[:] = [pair_log_probs(start, settings, held)]
        return judge(now[0], held_reference, held_lengths, settings)

    reporter = reporting.Reporter(
        out / "log.jsonl", settings.loss, _LOGGED, look if held else None, settings.evaluations
    )
    reporting.train(trainer, reporter, training.checkpoints(settings, out))
    found: dict[str, Any] = {}
    if held:
        found = {"kind": "preference", "loss": settings.loss, "beta": settings.strength}
        found |= pair_figures(now[0], held_reference, settings) | {"tokens": records["mean_tokens"]}
        found |= answers.compare(start, asked, before, settings, inputs["model"][0], judge_of)
        found |= {"before": reporter.measured[0], "after": reporter.measured[-1]}
        write_json(out / "aligned.json", found)
    training.save(start, out, records)
    counts = {
        **prepared.counts,
        **reporting.outcome(start, trainer, reporter, len(pairs) * settings.epochs, prepared.tokens * settings.epochs),
    }
    if reporter.measured:
        for name in ("validation_margin", "validation_accuracy", "preference_accuracy", "log_prob_chosen"):
            counts[f"{name}_before"] = round(reporter.measured[0][name], 4)
            counts[f"{name}_after"] = round(reporter.measured[-1][name], 4)
        counts |= {key: round(found[part][key2], 4) for key, part, key2 in _COUNTED if found.get(part)}
    counts["warnings"] = warnings_of(reporter, records) + answers.warnings_of(found)
    reporting.warn(counts["warnings"])
    return counts


def pair_figures(log_probs: Tensor, reference: Tensor, settings: DpoSettings) -> dict[str, Any]:
    """Held-out margin and accuracy with 95 % intervals."""
    margins = margins_of(log_probs, reference, settings)
    right = ((margins > 0).float() + 0.5 * (margins == 0).float()).numpy()
    low, high = share_interval(right)
    return {
        "n": len(margins),
        "margin": mean_interval(margins.tolist()),
        "accuracy": {"mean": float(right.mean()), "low": low, "high": high},
    }


def warnings_of(reporter: reporting.Reporter, records: dict[str, Any]) -> list[str]:
    """The known ways in which DPO fails, as far as this run's figures show them."""
    lines = []
    if reporter.measured:
        first, last = reporter.measured[0], reporter.measured[-1]
        began = first["validation_loss"]
        if last["validation_loss"] > began - 0.005 * max(1.0, abs(began)):
            lines.append(
                f"the held-out loss is {last['validation_loss']:.3f}, which is where it began ({began:.3f}): "
                "nothing was learnt; raise learning_rate or epochs, or look at the pairs"
            )
        fall = first["log_prob_chosen"] - last["log_prob_chosen"]
        if fall > 0.1 * abs(first["log_prob_chosen"]) and fall > 2:
            lines.append(
                f"the chosen answers became less likely ({first['log_prob_chosen']:.1f} to "
                f"{last['log_prob_chosen']:.1f} nats): lower learning_rate, raise beta, or set sft_weight"
            )
    elif reporter.losses[-1] > reporter.losses[0] - 0.005 * max(1.0, abs(reporter.losses[0])):
        lines.append(
            f"the loss is still {reporter.losses[-1]:.3f} ({reporter.losses[0]:.3f} at the start): nothing was learnt; "
            "raise learning_rate or epochs, or look at the pairs"
        )
    chosen, rejected = records["mean_tokens"]["chosen"], records["mean_tokens"]["rejected"]
    if max(chosen, rejected) > 1.5 * max(min(chosen, rejected), 1):
        lines.append(
            f"chosen answers have {chosen:g} tokens on average, rejected ones {rejected:g}: length alone can be learnt"
        )
    return lines
