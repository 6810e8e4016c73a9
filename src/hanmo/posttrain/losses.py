"""The losses of preference tuning: TRL's trainer for each, and the same loss on held-out pairs.

With log-probabilities of the chosen and the rejected answer under the model (c, r), under the reference (c0, r0), and
per token (c/n, r/m):

    dpo    -log sigmoid(beta ((c - c0) - (r - r0)))                      Rafailov et al. 2023, arXiv:2305.18290
    ipo    ((c - c0)/n - (r - r0)/m - 1/(2 beta))²                       Azar et al. 2023, arXiv:2310.12036
    kto    1 - sigmoid(beta (c - c0 - z)), 1 - sigmoid(beta (z - (r - r0))), z the KL      Ethayarajh 2024, 2402.01306
    orpo   -c/n - beta log sigmoid(log odds(c/n) - log odds(r/m))        Hong et al. 2024, arXiv:2403.07691
    simpo  -log sigmoid(beta (c/n - r/m) - gamma)                        Meng et al. 2024, arXiv:2405.14734

IPO is taken per token, as TRL does after its authors. TRL keeps ORPO and SimPO (its CPO trainer) among its experiments.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Says once an import that its interface may change; the version is pinned.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import datasets
import torch
from torch import Tensor
from torch.nn import functional as F
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.experimental.utils import DPODataCollatorWithPadding

from hanmo.errors import HanmoError
from hanmo.posttrain import training
from hanmo.posttrain.encode import IGNORE
from hanmo.posttrain.scoring import pad_rows, sequence_log_probs, use_label_scoring
from hanmo.posttrain.settings import DpoSettings

#: Of the learning rate that a model's size suggests: preferences move a model a little way from where it stands.
_RATE = 0.03


class _Referred(training.Careful):
    """On encoded rows whose reference log-probabilities are there already."""

    def __init__(self, lengths: list[int], **kwargs: Any) -> None:
        self.lengths = lengths
        super().__init__(**kwargs)
        use_label_scoring(self.model)  # type: ignore[arg-type]

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class _Paired(_Referred, DPOTrainer):
    """DPO and IPO."""


class _Single(_Referred, KTOTrainer):
    """KTO: every answer alone, with its label."""


def _as_it_is(row: dict[str, Any], *args: Any) -> dict[str, Any]:
    return row


class _Free(training.Careful):
    """Without a reference, on encoded rows."""

    tokenize_row = staticmethod(_as_it_is)

    def __init__(self, lengths: list[int], **kwargs: Any) -> None:
        self.lengths = lengths
        super().__init__(**kwargs)


class _Odds(_Free, ORPOTrainer):
    """ORPO."""


class _Simple(_Free, CPOTrainer):
    """SimPO."""


class _PairCollator:
    """Rows to a padded batch as TRL's trainer wants it: all chosen sides, then all rejected ones."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        sides = [labelled_row(row["prompt_ids"], row[side]) for side in ("chosen_ids", "rejected_ids") for row in rows]
        ids, labels, real = pad_rows(sides, self.pad)
        return {
            "input_ids": ids,
            "attention_mask": real,
            "completion_mask": (labels != IGNORE).long(),
            "ref_chosen_logps": torch.tensor([row["ref_chosen_logps"] for row in rows]),
            "ref_rejected_logps": torch.tensor([row["ref_rejected_logps"] for row in rows]),
        }


class _SingleCollator:
    """Answers with labels to a padded batch, and the same prompts with answers to others, for KTO's estimate of KL."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        for prefix in ("", "KL_"):
            sides = [labelled_row(row["prompt_ids"], row[f"{prefix}completion_ids"]) for row in rows]
            ids, labels, real = pad_rows(sides, self.pad)
            batch |= {f"{prefix}input_ids": ids, f"{prefix}attention_mask": real}
            batch[f"{prefix}completion_mask"] = (labels != IGNORE).long()
        batch |= {name: torch.tensor([row[name] for row in rows]) for name in ("ref_logps", "ref_KL_logps", "label")}
        return batch


def labelled_row(prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
    """Ids of a prompt with an answer, and labels that are the answer's."""
    return prompt + answer, [IGNORE] * len(prompt) + answer


def trainer_for(
    start: training.Start, settings: DpoSettings, out: Path, pairs: Sequence[Any], reference: Tensor
) -> training.Careful:
    """TRL's trainer for the loss that the settings name.

    Args:
        pairs: `PairExample`s; for KTO also `SingleExample`s.
        reference: log-probabilities of the answers under the model as it is now, [pairs, 2] or [answers].

    Raises:
        HanmoError: KTO with one answer in a forward pass.
    """
    shared: dict[str, Any] = {"model": start.model, "processing_class": start.chat.tokenizer}
    if settings.loss == "kto":
        return _kto(start, settings, out, pairs, reference, shared)
    lengths = [2 * pair.length for pair in pairs]
    arguments = training.common_arguments(start, settings, out, lengths, _RATE)
    arguments |= {"beta": settings.strength}
    if settings.loss in ("dpo", "ipo"):
        kind = "sigmoid" if settings.loss == "dpo" else "ipo"
        if settings.sft_weight:
            arguments |= {"loss_type": [kind, "sft"], "loss_weights": [1.0, settings.sft_weight]}
        else:
            arguments |= {"loss_type": [kind]}
        rows = {
            "prompt_ids": [pair.prompt_ids for pair in pairs],
            "chosen_ids": [pair.chosen_ids for pair in pairs],
            "rejected_ids": [pair.rejected_ids for pair in pairs],
            "ref_chosen_logps": reference[:, 0].tolist(),
            "ref_rejected_logps": reference[:, 1].tolist(),
        }
        return _Paired(
            lengths,
            args=DPOConfig(**arguments, max_length=None, precompute_ref_log_probs=True),
            data_collator=_PairCollator(start.pad),
            train_dataset=datasets.Dataset.from_dict(rows),
            **shared,
        )
    rows = {}
    for side, place in (("chosen", 1), ("rejected", 2)):
        sides = [labelled_row(pair.prompt_ids, pair[place]) for pair in pairs]
        rows |= {f"{side}_input_ids": [ids for ids, _ in sides], f"{side}_labels": [labels for _, labels in sides]}
        rows[f"{side}_attention_mask"] = [[1] * len(ids) for ids, _ in sides]
    shared |= {
        "data_collator": DPODataCollatorWithPadding(pad_token_id=start.pad),
        "train_dataset": datasets.Dataset.from_dict(rows),
    }
    if settings.loss == "orpo":
        return _Odds(lengths, args=ORPOConfig(**arguments, max_length=start.limit, padding_value=start.pad), **shared)
    simple = {"loss_type": "simpo", "simpo_gamma": settings.gamma, "cpo_alpha": settings.sft_weight}
    return _Simple(lengths, args=CPOConfig(**arguments, **simple, max_length=start.limit), **shared)


def _kto(
    start: training.Start,
    settings: DpoSettings,
    out: Path,
    pairs: Sequence[Any],
    reference: Tensor,
    shared: dict[str, Any],
) -> training.Careful:
    """Every pair is two labelled answers. The KL is estimated on the answers of the next pair or single answer in the
    list. Where one label is rarer, its answers weigh more, so that both sides weigh the same.
    """
    each = len(pairs[0].sides)
    answers = [(pair.prompt_ids, ids, good) for pair in pairs for good, ids in pair.sides]
    others = answers[each:] + answers[:each]
    good = sum(label for _, _, label in answers)
    balance = (len(answers) - good) / good
    rows: dict[str, list[Any]] = {
        "prompt_ids": [prompt for prompt, _, _ in answers],
        "completion_ids": [ids for _, ids, _ in answers],
        "KL_completion_ids": [ids for _, ids, _ in others],
        "label": [label for _, _, label in answers],
        "ref_logps": reference.flatten().tolist(),
    }
    context = getattr(start.model.config, "max_position_embeddings", None) or start.limit
    rows["KL_completion_ids"] = [
        answer[: context - len(prompt)]
        for prompt, answer in zip(rows["prompt_ids"], rows["KL_completion_ids"], strict=True)
    ]
    crossed = [labelled_row(*one) for one in zip(rows["prompt_ids"], rows["KL_completion_ids"], strict=True)]
    start.model.eval()
    with start.autocast():
        batch = training.looked_at_once(settings, max(len(ids) for ids, _ in crossed))
        parts = [crossed[at : at + batch] for at in range(0, len(crossed), batch)]
        found = [sequence_log_probs(start.model, part, start.pad) for part in parts]
    start.model.train()
    rows["ref_KL_logps"] = torch.cat(found).tolist()
    lengths = [len(ids) for ids, _ in crossed]
    counted = settings.model_copy(
        update={"batch_size": each * settings.batch_size, "micro_batch": each * settings.micro_batch}
    )
    arguments = training.common_arguments(start, counted, out, lengths, _RATE)
    if arguments["per_device_train_batch_size"] < 2:
        raise HanmoError(
            "loss kto estimates the KL over a forward pass and needs two answers in it; "
            f"set micro_batch: {2 // each}" + ("" if settings.batch_size > 1 else " and a larger batch_size")
        )
    weights: dict[str, Any] = {"desirable_weight": max(1.0, balance), "undesirable_weight": max(1.0, 1 / balance)}
    return _Single(
        lengths,
        args=KTOConfig(**arguments, **weights, beta=settings.strength, max_length=None, precompute_ref_log_probs=True),
        data_collator=_SingleCollator(start.pad),
        train_dataset=datasets.Dataset.from_dict(rows),
        **shared,
    )


def held_out_loss(log_probs: Tensor, reference: Tensor, lengths: Tensor, settings: DpoSettings) -> Tensor:
    """The loss of each pair, [pairs]; KTO's with z = 0, ORPO's with the answers' tokens alone in its SFT part.

    Args:
        log_probs, reference: under the model and under the reference, [pairs, 2] in nats.
        lengths: tokens of the answers, [pairs, 2].
    """
    beta = settings.strength
    moved, mean = log_probs - reference, log_probs / lengths
    match settings.loss:
        case "dpo":
            return -F.logsigmoid(beta * (moved[:, 0] - moved[:, 1]))
        case "ipo":
            each = moved / lengths
            return (each[:, 0] - each[:, 1] - 1 / (2 * beta)) ** 2
        case "kto":
            return 1 - 0.5 * (torch.sigmoid(beta * moved[:, 0]) + torch.sigmoid(-beta * moved[:, 1]))
        case "orpo":
            odds = mean - torch.log1p(-mean.clamp(max=-1e-6).exp())
            return -mean[:, 0] - beta * F.logsigmoid(odds[:, 0] - odds[:, 1])
        case "simpo":
            return -F.logsigmoid(beta * (mean[:, 0] - mean[:, 1]) - settings.gamma)
