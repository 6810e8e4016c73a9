"""A reward model: a decoder that gives an answer a score, learnt from comparisons.

TRL's `RewardTrainer` on pairs that we tokenise ourselves: the vocabulary's head gives way to one with a single label,
read at the answer's last token, and the loss is -log sigmoid(score of chosen - score of rejected) (Bradley and Terry
1952; Ouyang et al. 2022, arXiv:2203.02155). The folder loads as `AutoModelForSequenceClassification`. Only differences
of scores mean something; `center` keeps them around zero, so that they can be shown.

`aligned.json` says how it does on the held-out pairs: accuracy and calibration (`hanmo.posttrain.calibration`), and
whether it has learnt more than to measure length: its accuracy where the chosen answer is the longer and where it is
the shorter one, beside that of picking the longer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from trl import RewardConfig, RewardTrainer

from hanmo.errors import HanmoError
from hanmo.files import write_json
from hanmo.models.folder import resolve
from hanmo.posttrain import reporting, training
from hanmo.posttrain.calibration import calibration, share_interval
from hanmo.posttrain.encode import PairExample
from hanmo.posttrain.prepare import prepare_pairs
from hanmo.posttrain.scoring import pad_rows
from hanmo.posttrain.settings import RewardSettings
from hanmo.tokenizer import load as load_tokenizer
from hanmo.tokenizer.chat import END_OF_TEXT, ChatFormat

_LOGGED = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "accuracy": "accuracy",
    "margin": "margin",
    "mean_reward": "reward_mean",
}
#: Held-out pairs shown in the report: those the model is most wrong about, and as many it is surest of.
_SHOWN = 3


class _Trainer(training.Careful, RewardTrainer):
    """TRL's trainer with our order of batches."""

    def __init__(self, lengths: list[int], **kwargs: Any) -> None:
        self.lengths = lengths
        super().__init__(**kwargs)


class _Collator:
    """Rows to a padded batch as TRL's trainer wants it: all chosen sides, then all rejected ones."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        sides = [(row[side], row[side]) for side in ("chosen_ids", "rejected_ids") for row in rows]
        ids, _, real = pad_rows(sides, self.pad)
        return {"input_ids": ids, "attention_mask": real}


def rewards_of(model: PreTrainedModel, rows: Sequence[list[int]], pad: int, batch: int = 32) -> Tensor:
    """The score of each row of ids (a prompt with its answer), [rows] fp32 on the CPU, without gradient."""
    was_training = model.training
    model.eval()
    result = torch.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    with torch.no_grad():
        for at in range(0, len(order), batch):
            part = order[at : at + batch]
            ids, _, real = pad_rows([(rows[index], rows[index]) for index in part], pad)
            output = model(input_ids=ids.to(model.device), attention_mask=real.to(model.device), use_cache=False)
            result[part] = output.logits[:, 0].float().cpu()
    model.train(was_training)
    return result


class RewardModel:
    """A reward model's folder, for scoring answers in words.

    Args:
        folder: a model folder or the folder of a `reward` stage; its tokenizer need not be that of the model scored.

    Raises:
        HanmoError: no reward model there.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        folder = resolve(folder)
        self.chat = ChatFormat(load_tokenizer(folder))
        try:
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        except (ValueError, OSError, KeyError) as error:
            raise HanmoError(f"{folder}: not a reward model ({str(error).splitlines()[0]})") from None
        named = (model.config.architectures or [""])[0]
        if model.config.num_labels != 1 or not named.endswith("ForSequenceClassification"):
            raise HanmoError(
                f"{folder}: not a reward model (it is a {named or 'model without a name'} with "
                f"{model.config.num_labels} labels); make one with `hanmo reward`"
            )
        model.config.pad_token_id = self.chat.end_of_text
        self.model: PreTrainedModel = model.to(device).eval()
        self.limit = getattr(model.config, "max_position_embeddings", None) or 1 << 30

    def score(self, prompts: Sequence[Sequence[Any]], answers: Sequence[str]) -> list[float]:
        """The reward of each answer to its prompt (messages); what is longer than the model's context is cut."""
        rows = []
        for prompt, answer in zip(prompts, answers, strict=True):
            ids, mask = self.chat.encode([*prompt, {"role": "assistant", "content": answer}])
            end = len(mask) - mask[::-1].index(1)
            rows.append(ids[max(0, end - self.limit) : end])
        return rewards_of(self.model, rows, self.chat.end_of_text).tolist()


def run(settings: RewardSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Train a reward model.

    Args:
        inputs: `model` (the folder to start from, best a tuned model), `pairs` (preference files, folders of them, or
            stages that made `pref.jsonl`).
        out: gets `model/`, `log.jsonl`, `records.json` (what became of every record) and, where pairs are held out,
            `aligned.json` (accuracy and calibration on them).

    Returns:
        Counts: pairs, steps, losses, held-out accuracy with its interval, calibration error, seconds, `warnings`.

    Raises:
        HanmoError: unusable model, records or settings; a loss that is no number.
    """
    training.clear(out)
    training.quiet()
    start = training.Start(inputs["model"][0], settings, out, scores=True)
    prepared = prepare_pairs(start.chat, settings, inputs["pairs"], start.limit)
    pairs, held = prepared.pairs, prepared.held
    # The token that rows are padded with is where the model stops reading; TRL takes it from the tokenizer.
    start.chat.tokenizer.pad_token = END_OF_TEXT
    start.model.config.pad_token_id = start.pad
    model = start.model.to(start.device)  # type: ignore[arg-type]
    lengths = [2 * pair.length for pair in pairs]
    trainer = _Trainer(
        lengths,
        model=model,
        # A head that is new has far to go; the layers below it have been tuned already.
        args=RewardConfig(
            **training.common_arguments(start, settings, out, lengths, 0.1),
            max_length=None,
            center_rewards_coefficient=settings.center or None,
        ),
        processing_class=start.chat.tokenizer,
        data_collator=_Collator(start.pad),
        train_dataset=datasets.Dataset.from_dict(
            {
                "chosen_ids": [pair.prompt_ids + pair.chosen_ids for pair in pairs],
                "rejected_ids": [pair.prompt_ids + pair.rejected_ids for pair in pairs],
            }
        ),
    )
    last: list[Tensor] = []

    def look() -> dict[str, float]:
        last[:] = [held_rewards(start, settings, held)]
        found = calibration((last[0][:, 0] - last[0][:, 1]).tolist(), resamples=1)
        return {f"validation_{name}": found[name] for name in ("loss", "margin", "accuracy", "ece")}

    reporter = reporting.Reporter(out / "log.jsonl", "reward", _LOGGED, look if held else None, settings.evaluations)
    reporting.train(trainer, reporter, training.checkpoints(settings, out))
    training.save(start, out, prepared.records)
    counts = {
        **prepared.counts,
        **reporting.outcome(start, trainer, reporter, len(pairs) * settings.epochs, prepared.tokens * settings.epochs),
    }
    counts["warnings"] = []
    if held:
        found = judged(last[0], held)
        found["accuracy_before"] = reporter.measured[0]["validation_accuracy"]
        found["shown"] = _shown(last[0], prepared.held_texts)
        write_json(out / "aligned.json", {"kind": "reward", **found})
        counts |= {f"validation_{name}": round(found[name], 4) for name in ("accuracy", "low", "high", "ece", "loss")}
        counts["warnings"] = warnings_of(found)
        reporting.announce(
            f"held-out pairs: {found['accuracy']:.1%} [{found['low']:.1%}, {found['high']:.1%}] of {found['n']} right, "
            f"calibration error {found['ece']:.3f}"
        )
    reporting.warn(counts["warnings"])
    return counts


def held_rewards(start: training.Start, settings: RewardSettings, pairs: Sequence[PairExample]) -> Tensor:
    """Rewards of the pairs' answers, [pairs, 2] fp32: chosen, rejected."""
    rows = [pair.prompt_ids + answer for pair in pairs for answer in (pair.chosen_ids, pair.rejected_ids)]
    with start.autocast():
        batch = training.looked_at_once(settings, max(map(len, rows)))
        return rewards_of(start.model, rows, start.pad, batch).view(-1, 2)


def judged(rewards: Tensor, pairs: Sequence[PairExample]) -> dict[str, Any]:
    """Accuracy, calibration and what length has to do with them, from rewards [pairs, 2]."""
    margins = (rewards[:, 0] - rewards[:, 1]).tolist()
    longer = np.array([len(pair.chosen_ids) - len(pair.rejected_ids) for pair in pairs])
    right = (np.array(margins) > 0) + 0.5 * (np.array(margins) == 0)
    found = calibration(margins)
    found["longer"] = float(((longer > 0) + 0.5 * (longer == 0)).mean())
    found["by_length"] = {}
    for name, part in (("chosen longer", longer > 0), ("same length", longer == 0), ("chosen shorter", longer < 0)):
        if part.any():
            low, high = share_interval(right[part])
            value = {"n": int(part.sum()), "accuracy": float(right[part].mean()), "low": low, "high": high}
            found["by_length"][name] = value
    lengths = np.array([len(answer) for pair in pairs for answer in (pair.chosen_ids, pair.rejected_ids)])
    flat = rewards.flatten().numpy()
    varied = len(flat) > 2 and lengths.std() > 0 and flat.std() > 0
    found["length_correlation"] = float(np.corrcoef(lengths, flat)[0, 1]) if varied else 0.0
    found["reward"] = {"mean": float(flat.mean()), "deviation": float(flat.std())}
    return found


def _shown(rewards: Tensor, texts: Sequence[Any]) -> list[dict[str, Any]]:
    """The held-out pairs with the lowest and the highest margins, in words."""
    order = (rewards[:, 0] - rewards[:, 1]).argsort().tolist()
    chosen = order if len(order) <= 2 * _SHOWN else order[:_SHOWN] + order[-_SHOWN:]
    return [
        {
            "prompt": texts[index].prompt[-1]["content"],
            "chosen": texts[index].chosen,
            "rejected": texts[index].rejected,
            "rewards": [round(value, 3) for value in rewards[index].tolist()],
        }
        for index in chosen
    ]


def warnings_of(found: dict[str, Any]) -> list[str]:
    """The known ways in which reward models fail, as far as the held-out figures show them."""
    lines = []
    if found["low"] <= 0.5:
        lines.append(
            f"{found['accuracy']:.1%} [{found['low']:.1%}, {found['high']:.1%}] of {found['n']} held-out pairs are "
            "right, no better than a coin: raise epochs or learning_rate, give more pairs, or look at them"
        )
    shorter = found["by_length"].get("chosen shorter")
    if abs(found["length_correlation"]) > 0.7 or (shorter and shorter["n"] >= 10 and shorter["high"] < 0.5):
        lines.append(
            f"rewards follow the length of the answers (correlation {found['length_correlation']:.2f}): what is tuned "
            "with them will grow long or short; balance the lengths of chosen and rejected answers"
        )
    if found["ece_low"] > 0.1:
        lines.append(
            f"its probabilities are off by {found['ece']:.2f} on average: it is too sure or not sure enough; "
            "train fewer epochs or on more pairs"
        )
    return lines
