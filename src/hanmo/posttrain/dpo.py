"""Preference tuning: a tuned model learns which of two answers is the better one.

TRL's trainers (`hanmo.posttrain.losses` has the five losses) on pairs that we tokenise ourselves. The reference is the
model as it came in; its log-probabilities are computed once, before the first step, so that no second model is held and
no step pays for it. A killed run goes on from its last checkpoint: same pairs, same seed, same number of threads end at
the same weights to the last bit.

KTO also takes single answers with labels. What is held out is measured before and after (`hanmo.posttrain.held`).
What the model then writes is looked at in `hanmo.posttrain.answers`: its lengths, how far it has moved (KL), and what a
reward model says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanmo.files import write_json
from hanmo.posttrain import answers, losses, reporting, training
from hanmo.posttrain.encode import SingleExample
from hanmo.posttrain.held import HeldPairs, HeldSingles, log_probs_of
from hanmo.posttrain.prepare import prepare_pairs
from hanmo.posttrain.reward import RewardModel
from hanmo.posttrain.scoring import use_label_scoring
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
    reference = log_probs_of(start, settings, pairs)
    sides = HeldSingles if isinstance(pairs[0], SingleExample) else HeldPairs
    looked = sides(start, settings, held) if held else None
    trainer = losses.trainer_for(start, settings, out, pairs, reference)
    asked = answers.held_prompts(held, prepared.held_texts, settings.answers)
    before = answers.write(start, asked, settings.answer_tokens)
    reporter = reporting.Reporter(
        out / "log.jsonl", settings.loss, _LOGGED, looked.look if looked else None, settings.evaluations
    )
    reporting.train(trainer, reporter, training.checkpoints(settings, out))
    found: dict[str, Any] = {}
    if looked:
        found = {"kind": "preference", "loss": settings.loss, "beta": settings.strength}
        found |= looked.figures() | {"tokens": records["mean_tokens"]}
        found |= answers.compare(start, asked, before, settings, inputs["model"][0], judge_of)
        found |= {"before": reporter.measured[0], "after": reporter.measured[-1]}
        write_json(out / "aligned.json", found)
    training.save(start, out, records)
    counts = {
        **prepared.counts,
        **reporting.outcome(start, trainer, reporter, len(pairs) * settings.epochs, prepared.tokens * settings.epochs),
    }
    if reporter.measured:
        told = ("validation_margin", "validation_accuracy", "preference_accuracy", "log_prob_chosen")
        for name in (name for name in told if name in reporter.measured[0]):
            counts[f"{name}_before"] = round(reporter.measured[0][name], 4)
            counts[f"{name}_after"] = round(reporter.measured[-1][name], 4)
        counts |= {key: round(found[part][key2], 4) for key, part, key2 in _COUNTED if found.get(part)}
    counts["warnings"] = warnings_of(reporter, records) + answers.warnings_of(found)
    reporting.warn(counts["warnings"])
    return counts


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
