"""The stage `grpo`: a tuned model writes answers to prompts, and learns which of them earned more than the others.

TRL's `GRPOTrainer` and `RLOOTrainer`, with answers written by our batched generation (`rl.rollouts`) and judged by
`rl.rewards`. The start is the reference from which the KL is taken. Held-out prompts are answered greedily before and
behind: `aligned.json` has the difference of their rewards, paired, with its 95 % interval.

A killed run goes on from its last checkpoint: same records, same seed, same number of threads end at the same weights
to the last bit and at the same `rollouts.jsonl`. Answers that vLLM writes are drawn from vLLM's own state, which no
checkpoint holds: they are others than those of an undisturbed run.
"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
from trl import GRPOConfig, RLOOConfig

from hanmo.errors import HanmoError
from hanmo.files import write_json
from hanmo.posttrain import reporting, training
from hanmo.posttrain.calibration import mean_interval
from hanmo.posttrain.records import Account, Item, hold_out, read_items, sft_kind
from hanmo.posttrain.reward import RewardModel
from hanmo.posttrain.rl.rewards import Rewards, Task
from hanmo.posttrain.rl.rollouts import Grpo, Rloo, answers_of
from hanmo.posttrain.settings import RlSettings

_LOGGED = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "reward": "reward_mean",
    "reward_std": "reward_deviation",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "cut_share",
    "frac_reward_zero_std": "equal_groups",
}
#: Held-out answers shown in the report.
_SHOWN = 6


def run(settings: RlSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Tune a model on rewards.

    Args:
        inputs: `model` (the tuned model to start from), `records` (dialogues: their last answer is what verifiable
            rewards compare with), `reward` (a reward model, for the reward `model`).
        out: gets `model/`, `log.jsonl`, `records.json`, `rollouts.jsonl` (every answer with its rewards) and
            `aligned.json` (held-out prompts before and behind).

    Returns:
        Counts: prompts, steps, held-out reward before and after, the difference with its interval, `warnings`.

    Raises:
        HanmoError: unusable model, records or settings; vLLM asked for and not there; a loss that is no number.
    """
    wants_model = "model" in settings.rewards
    if wants_model != bool(inputs.get("reward")):
        raise HanmoError(
            "reward 'model' needs a reward model: give the input `reward` (a folder that `hanmo reward` made)"
            if wants_model
            else "the input `reward` is given, but `rewards` does not name 'model'; add it with a weight"
        )
    if settings.vllm and find_spec("vllm") is None:
        raise HanmoError("vllm: true, but vllm is not installed; `pip install vllm` (it needs a GPU), or leave it out")
    training.clear(out)
    training.quiet()
    start = training.Start(inputs["model"][0], settings, out)
    start.model.to(start.device)  # type: ignore[arg-type]
    judge = RewardModel(inputs["reward"][0], start.device) if wants_model else None
    rewards = Rewards(settings, judge)
    items, account = read_items(inputs["records"], settings, sft_kind(settings))
    notes: Counter[str] = Counter()
    train, held = _tasks(start, settings, rewards, items, notes)
    for line in account.lines(notes):
        reporting.announce(line)
    lengths = [len(_encoded(start, task)) + settings.answer_tokens for task in train]
    trainer = _trainer(start, settings, out, train, rewards, lengths)
    looks: list[dict[str, Any]] = []

    def look() -> dict[str, float]:
        looks.append(_held_out(start, settings, rewards, held))
        return {f"validation_{name}": sum(v) / len(v) for name, v in looks[-1]["parts"].items()} | {
            "validation_reward": sum(looks[-1]["totals"]) / len(held),
            "validation_answer_tokens": sum(looks[-1]["tokens"]) / len(held),
        }

    reporter = reporting.Reporter(
        out / "log.jsonl", settings.method, _LOGGED, look if held else None, settings.evaluations
    )
    reporting.train(trainer, reporter, training.checkpoints(settings, out))
    training.save(start, out, _records(account, notes, train, held, start))
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    counts = {
        "records": len(train),
        "validation_records": len(held),
        "skipped": sum(account.skipped.values()),
        "left_out": dict(notes),
        **reporting.settled(start, trainer),
        "first_reward": round(history[0]["reward"], 4),
        "last_reward": round(history[-1]["reward"], 4),
        "seconds": round(reporter.seconds, 2),
        "answers_per_second": round(settings.batch_size * settings.steps / max(reporter.seconds, 1e-9), 1),
    }
    found: dict[str, Any] = {}
    if held:
        found = _compared(looks[0], looks[-1], held, settings)
        found["kl"] = next((entry["kl"] for entry in reversed(history) if entry.get("kl") is not None), None)
        write_json(out / "aligned.json", found)
        difference = found["difference"]
        counts |= {
            "reward_before": round(found["before"]["reward"], 4),
            "reward_after": round(found["after"]["reward"], 4),
        }
        counts |= {f"difference_{name}": round(difference[name], 4) for name in ("mean", "low", "high")}
        reporting.announce(
            f"{len(held)} held-out prompts: reward {found['before']['reward']:.3f} to {found['after']['reward']:.3f}, "
            f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
        )
    counts["warnings"] = warnings_of(found, history)
    reporting.warn(counts["warnings"])
    return counts


def _tasks(
    start: training.Start, settings: RlSettings, rewards: Rewards, items: list[Item], notes: Counter[str]
) -> tuple[list[Task], list[Task]]:
    """Tasks to train on, and held-out ones; each the last exchange of a dialogue."""
    sides: list[list[Task]] = []
    for side in hold_out(items, settings.validation):
        seen: set[str] = set()
        tasks = []
        for item in side:
            task = Task(item.value[:-1], item.value[-1]["content"])
            if not rewards.applies(task):
                notes["prompts whose record has no answer that the rewards can check"] += 1
            elif len(_encoded(start, task)) + settings.answer_tokens > start.limit:
                notes["prompts that leave no room for an answer"] += 1
            elif repr(task.prompt) in seen:
                notes["prompts that came before"] += 1
            else:
                seen.add(repr(task.prompt))
                tasks.append(task)
        sides.append(tasks)
    train, held = sides
    if not train:
        raise HanmoError(
            f"none of the {len(items)} records can be used ({dict(notes)}); choose other rewards, records with "
            "answers that can be checked, or a smaller answer_tokens"
        )
    if len(train) < settings.prompts:
        raise HanmoError(
            f"prompts is {settings.prompts}, but only {len(train)} of the {len(items)} records can be used "
            f"({dict(notes)}); set prompts to at most {len(train)}, or give more records"
        )
    return train, held[: settings.held_prompts]


def _encoded(start: training.Start, task: Task) -> list[int]:
    return start.chat.encode(task.prompt, add_generation_prompt=True)[0]


def _trainer(
    start: training.Start, settings: RlSettings, out: Path, train: list[Task], rewards: Rewards, lengths: list[int]
) -> Grpo | Rloo:
    arguments = training.common_arguments(start, settings, out, lengths, 0.1)
    arguments.pop("num_train_epochs")
    arguments |= {
        "max_steps": settings.steps,
        "warmup_steps": round(settings.warmup * settings.steps),
        "lr_scheduler_type": "constant_with_warmup",
        "num_generations": settings.generations,
        "generation_batch_size": settings.batch_size,
        "max_completion_length": settings.answer_tokens,
        "temperature": settings.temperature,
        "beta": settings.beta,
        "reward_weights": list(rewards.weights.values()),
        "use_vllm": settings.vllm,
    }
    if settings.vllm:
        arguments["vllm_mode"] = "colocate"
    config, trainer = (GRPOConfig, Grpo) if settings.method == "grpo" else (RLOOConfig, Rloo)
    rows = {"prompt": [task.prompt for task in train], "task": list(range(len(train)))}
    # TRL pads with the tokenizer's token, and ends answers at those that the generation settings name.
    start.chat.tokenizer.pad_token_id = start.pad
    start.model.generation_config.eos_token_id = start.chat.stop_ids  # type: ignore[union-attr]
    return trainer(
        start,
        settings,
        train,
        rewards,
        out,
        model=start.model,
        args=config(**arguments),
        processing_class=start.chat.tokenizer,
        train_dataset=datasets.Dataset.from_dict(rows),
    )


def _held_out(start: training.Start, settings: RlSettings, rewards: Rewards, held: list[Task]) -> dict[str, Any]:
    """Greedy answers to the held-out prompts, with their rewards and lengths."""
    ids = answers_of(start, [_encoded(start, task) for task in held], settings.answer_tokens)
    texts = [str(start.chat.tokenizer.decode(one, skip_special_tokens=True)) for one in ids]
    parts = rewards.parts(held, texts)
    tokens = [len(one) for one in ids]
    cut = sum(one[-1] != start.chat.turn_end for one in ids) / len(ids)
    return {"texts": texts, "parts": parts, "totals": rewards.total(parts), "tokens": tokens, "cut": cut}


def _compared(first: dict[str, Any], last: dict[str, Any], held: list[Task], settings: RlSettings) -> dict[str, Any]:
    """aligned.json: rewards before and after, by kind, and the paired difference."""

    def side(look: dict[str, Any]) -> dict[str, Any]:
        return {
            "reward": sum(look["totals"]) / len(held),
            "parts": {name: sum(values) / len(held) for name, values in look["parts"].items()},
            "tokens": sum(look["tokens"]) / len(held),
            "cut": look["cut"],
        }

    changed = [new - old for old, new in zip(first["totals"], last["totals"], strict=True)]
    order = sorted(range(len(held)), key=lambda index: changed[index])
    shown = [*order[-_SHOWN + 2 :][::-1], *order[:2]] if len(order) > _SHOWN else order
    return {
        "kind": "rl",
        "method": settings.method,
        "rewards": settings.rewards,
        "n": len(held),
        "before": side(first),
        "after": side(last),
        "difference": mean_interval(changed),
        "shown": [
            {
                "prompt": held[index].prompt[-1]["content"],
                "reference": held[index].reference,
                "before": first["texts"][index],
                "after": last["texts"][index],
                "rewards": [round(first["totals"][index], 3), round(last["totals"][index], 3)],
            }
            for index in shown
        ],
    }


def _records(
    account: Account, notes: Counter[str], train: list[Task], held: list[Task], start: training.Start
) -> dict[str, Any]:
    return account.as_json() | {
        "lengths": dict(notes.most_common()),
        "max_length": start.limit,
        "train": {"records": len(train)},
        "validation": {"records": len(held)},
    }


def warnings_of(found: dict[str, Any], history: list[dict[str, Any]]) -> list[str]:
    """The known ways in which learning from rewards fails, as far as this run's figures show them."""
    lines = []
    equal = [entry["frac_reward_zero_std"] for entry in history if entry.get("frac_reward_zero_std") is not None]
    if equal and sum(equal) / len(equal) > 0.8:
        lines.append(
            f"in {sum(equal) / len(equal):.0%} of the groups all answers earned the same; nothing can be learnt "
            "from them: take easier or harder prompts, more generations, a higher temperature, or a reward with steps"
        )
    if not found:
        return lines
    if found["difference"]["low"] <= 0:
        lines.append(
            f"the held-out reward did not clearly rise ({found['difference']['mean']:+.3f} "
            f"[{found['difference']['low']:+.3f}, {found['difference']['high']:+.3f}]): more steps, a higher "
            "learning_rate, or more held_prompts to see it"
        )
    before, after = found["before"], found["after"]
    if after["tokens"] > 1.5 * before["tokens"]:
        lines.append(
            f"answers grew from {before['tokens']:.1f} to {after['tokens']:.1f} tokens: add reward length or raise beta"
        )
    if after["cut"] > max(0.3, before["cut"]):
        lines.append(f"{after['cut']:.0%} of the answers do not end: raise answer_tokens or beta, lower learning_rate")
    return lines
