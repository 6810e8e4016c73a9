"""What a model writes before and behind its tuning: lengths, how far it has moved, and who wins by a reward model.

Greedy answers to held-out prompts are compared pair by pair. The KL from the reference is estimated on answers drawn
from the tuned model at temperature 1: the mean of log p(answer) - log p_reference(answer), in nats per answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from hanmo.evaluate.generate import generate
from hanmo.models.folder import resolve
from hanmo.posttrain import training
from hanmo.posttrain.calibration import mean_interval
from hanmo.posttrain.encode import IGNORE
from hanmo.posttrain.forms import Dialogue
from hanmo.posttrain.reward import RewardModel
from hanmo.posttrain.scoring import sequence_log_probs, use_label_scoring
from hanmo.posttrain.settings import DpoSettings

#: Prompts shown in the report with both answers.
_SHOWN = 6


class Prompt(NamedTuple):
    """Something to answer: in words, and its ids with the opening of the answer."""

    messages: Dialogue
    ids: list[int]


def held_prompts(pairs: Sequence[Any], texts: Sequence[Any], most: int) -> list[Prompt]:
    """The prompts of held-out pairs or single answers, each once, at most so many."""
    found = {tuple(pair.prompt_ids): text.prompt for pair, text in zip(pairs, texts, strict=True)}
    return [Prompt(messages, list(ids)) for ids, messages in list(found.items())[:most]]


def write(
    start: training.Start, prompts: Sequence[Prompt], longest: int, temperature: float = 0.0, seed: int = 7
) -> list[list[int]]:
    """Answers of the model as it is, ids without the end; greedy at temperature 0. A prompt that fills the context
    gets an empty one."""
    context = getattr(start.model.config, "max_position_embeddings", None) or start.limit
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt.ids) < context]
    result: list[list[int]] = [[] for _ in prompts]
    if fitting:
        found = generate(
            start.model,
            [prompts[index].ids for index in fitting],
            stop_ids=start.chat.stop_ids,
            max_new_tokens=longest,
            temperature=temperature,
            seed=seed,
            context=context,
        )
        for index, ids in zip(fitting, found, strict=True):
            result[index] = ids
    return result


def compare(
    start: training.Start,
    prompts: Sequence[Prompt],
    before: Sequence[list[int]],
    settings: DpoSettings,
    reference: Path,
    judges: Sequence[RewardModel],
) -> dict[str, Any]:
    """What has become of the answers.

    Args:
        before: greedy answers of the start.
        reference: the folder that the start was loaded from.
        judges: a reward model, or none.

    Returns:
        lengths {before, after, difference with interval, cut}, kl {mean, low, high, per_token}, win_rate {mean, low,
        high, n, before, after} where there is a reward model, shown [{prompt, before, after, rewards?}]; {} without
        prompts.
    """
    if not prompts:
        return {}
    after = write(start, prompts, settings.answer_tokens)
    grown = mean_interval([len(new) - len(old) for old, new in zip(before, after, strict=True)])
    lengths = {
        "n": len(prompts),
        "before": sum(map(len, before)) / len(prompts),
        "after": sum(map(len, after)) / len(prompts),
        "difference": grown,
        "cut": sum(len(ids) >= settings.answer_tokens for ids in after) / len(prompts),
    }
    texts = [[str(start.chat.tokenizer.decode(ids)) for ids in answers] for answers in (before, after)]
    found: dict[str, Any] = {"lengths": lengths, "kl": _divergence(start, prompts, settings, reference)}
    found["shown"] = [
        {"prompt": prompt.messages[-1]["content"], "before": old, "after": new}
        for prompt, old, new in zip(prompts[:_SHOWN], *(side[:_SHOWN] for side in texts), strict=True)
    ]
    if judges:
        asked = [prompt.messages for prompt in prompts]
        scores = [judges[0].score(asked, side) for side in texts]
        won = [(new > old) + 0.5 * (new == old) for old, new in zip(*scores, strict=True)]
        found["win_rate"] = mean_interval(won) | {
            "n": len(won),
            "before": sum(scores[0]) / len(won),
            "after": sum(scores[1]) / len(won),
        }
        for shown, old, new in zip(found["shown"], *scores, strict=False):
            shown["rewards"] = [round(old, 3), round(new, 3)]
    return found


def _divergence(
    start: training.Start, prompts: Sequence[Prompt], settings: DpoSettings, reference: Path
) -> dict[str, float]:
    drawn = write(start, prompts, settings.answer_tokens, temperature=1.0, seed=settings.seed)
    rows = []
    for prompt, ids in zip(prompts, drawn, strict=True):
        # An answer that stopped ended itself: its end was drawn as well.
        answer = ids if len(ids) >= settings.answer_tokens else [*ids, start.chat.turn_end]
        rows.append((prompt.ids + answer, [IGNORE] * len(prompt.ids) + answer))
    mine = row_log_probs(start.model, rows, start)
    model = AutoModelForCausalLM.from_pretrained(
        resolve(reference), dtype=torch.float32, attn_implementation=start.model.config._attn_implementation
    )
    use_label_scoring(model)
    model.to(start.device)  # type: ignore[arg-type]
    moved = mine - row_log_probs(model, rows, start)
    tokens = sum(label != IGNORE for _, labels in rows for label in labels)
    return mean_interval(moved.tolist()) | {"per_token": float(moved.sum()) / tokens}


def row_log_probs(model: Any, rows: list[tuple[list[int], list[int]]], start: training.Start) -> Tensor:
    """Sums of log-probabilities of the rows' labels, [rows] in nats."""
    was_training = model.training
    model.eval()
    with start.autocast():
        parts = [sequence_log_probs(model, rows[at : at + 16], start.pad) for at in range(0, len(rows), 16)]
    model.train(was_training)
    return torch.cat(parts)


def warnings_of(found: dict[str, Any]) -> list[str]:
    """The known ways in which answers go wrong, as far as these figures show them."""
    lines = []
    lengths = found.get("lengths")
    if lengths:
        old, new = lengths["before"], lengths["after"]
        if lengths["difference"]["low"] > 0 and new > 1.5 * max(old, 1):
            lines.append(
                f"answers grew from {old:.1f} to {new:.1f} tokens: length is what was learnt; raise beta, take loss: "
                "simpo (it counts per token), or balance the lengths of chosen and rejected answers"
            )
        if lengths["cut"] > 0.3 and new > 1.2 * max(old, 1):
            lines.append(
                f"{lengths['cut']:.0%} of the answers do not end within the limit: lower learning_rate or raise beta"
            )
    kl = found.get("kl")
    if kl and kl["low"] > 30:
        lines.append(
            f"the model is {kl['mean']:.0f} nats an answer from where it began: lower learning_rate, raise beta"
        )
    return lines
