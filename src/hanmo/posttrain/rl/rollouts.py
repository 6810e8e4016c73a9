"""Writing the answers that are learnt from, fast, and keeping them where they can be read.

TRL's trainers call transformers' `generate`, which goes on until the longest answer of a batch has ended. Here rows
that have ended leave the batch, what the prompts begin with is read once (`hanmo.evaluate.generate`), and prompts go
through `ChatFormat`, so that training sees the ids that chat and serving will make.

`rollouts.jsonl` has a line for every prompt of every step: `{step, prompt, reference, answers: [{text, reward,
parts}]}`, the answers by falling reward. A run that goes on from a checkpoint first takes off the lines behind it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from trl import GRPOTrainer, RLOOTrainer

from hanmo.errors import HanmoError
from hanmo.evaluate.generate import generate
from hanmo.posttrain import training
from hanmo.posttrain.rl.rewards import Rewards, Task
from hanmo.posttrain.settings import RlSettings

#: Answers that are written at a time.
AT_ONCE = 256


def answers_of(
    start: training.Start,
    prompts: Sequence[Sequence[int]],
    longest: int,
    temperature: float = 0.0,
    seed: int = 7,
) -> list[list[int]]:
    """Answers to prompts, with the end of the turn behind those that ended within `longest` tokens.

    Args:
        prompts: ids with the opening of the answer, each short enough to leave `longest` tokens of the context.
        temperature: 0 is greedy.
        seed: of the draws; a prompt that comes several times gets as many answers.
    """
    with start.autocast():
        found = generate(
            start.model,
            prompts,
            stop_ids=start.chat.stop_ids,
            max_new_tokens=longest,
            temperature=temperature,
            seed=seed,
            batch_prompts=AT_ONCE,
        )
    return [ids if len(ids) >= longest else [*ids, start.chat.turn_end] for ids in found]


class Rolling(training.Careful):
    """Mixed in front of TRL's trainers: our prompts, answers and rewards; a line of the log for every prompt.

    Args:
        start: the model that is trained, with its chat format.
        tasks: what the rows of the data set stand for, by their `task`.
        rewards: judges the answers.
        out: gets rollouts.jsonl.
    """

    def __init__(
        self,
        start: training.Start,
        settings: RlSettings,
        tasks: Sequence[Task],
        rewards: Rewards,
        out: Path,
        **kwargs: Any,
    ) -> None:
        self.start, self.settings, self.tasks, self.rewards = start, settings, tasks, rewards
        self.log_file = out / "rollouts.jsonl"
        # TRL wants a function for each reward; what they give is computed together in `_calculate_rewards`.
        kwargs["reward_funcs"] = [_named(name) for name in rewards.weights]
        super().__init__(**kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        _cut(self.log_file, self.begun_at * self.settings.prompts)
        return super().train(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        # TRL's order, in which the answers to a prompt follow each other.
        order: Any = super(training.Careful, self)._get_train_sampler(train_dataset)
        for _ in range(self.begun_at // (len(self.tasks) // self.settings.prompts)):
            next(iter(order))  # Each pass has an order of its own, drawn after the one before.
        return order

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.start.chat.encode(prompt, add_generation_prompt=True)[0] for prompt in prompts], None, {}

    def _write(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        settings = self.settings
        # A round of answers for every step.
        seed = settings.seed * 100_003 + self.state.global_step + 1
        return answers_of(self.start, prompt_ids, settings.answer_tokens, settings.temperature, seed)

    def _calculate_rewards(self, inputs: list[Any], prompts: Any, completions: Any, *args: Any) -> Tensor:
        tasks = [self.tasks[row["task"]] for row in inputs]
        texts = [completion[0]["content"] for completion in completions]
        parts = self.rewards.parts(tasks, texts)
        totals = self.rewards.total(parts)
        self._keep(tasks, texts, totals, parts)
        return torch.tensor([list(row) for row in zip(*parts.values(), strict=True)], device=self.args.device)

    def _keep(self, tasks: list[Task], texts: list[str], totals: list[float], parts: dict[str, list[float]]) -> None:
        size = self.settings.generations
        with self.log_file.open("a", encoding="utf-8", newline="\n") as file:
            for at in range(0, len(tasks), size):
                answers = [
                    {
                        "text": texts[index],
                        "reward": round(totals[index], 4),
                        "parts": {name: round(values[index], 4) for name, values in parts.items()},
                    }
                    for index in sorted(range(at, at + size), key=lambda index: -totals[index])
                ]
                line = {
                    "step": self.state.global_step + 1,
                    "prompt": tasks[at].prompt,
                    "reference": tasks[at].reference,
                    "answers": answers,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _cut(log: Path, lines: int) -> None:
    """Take off what an earlier run wrote behind its checkpoint.

    Args:
        lines: that the log had at the checkpoint; 0: there is none.

    Raises:
        HanmoError: the log has fewer.
    """
    log.touch()
    with log.open("r+b") as file:
        found = sum(line.endswith(b"\n") for line in itertools.islice(file, lines))
        if found < lines:
            raise HanmoError(
                f"{log}: {found} of the {lines} lines of the steps that are done; bring the file back, or remove the "
                "folder to start again"
            )
        file.truncate(file.tell())


def _named(name: str) -> Any:
    """A function of that name, for TRL's log."""

    def reward(**kwargs: Any) -> list[float]:
        raise NotImplementedError

    reward.__name__ = name
    return reward


class Grpo(Rolling, GRPOTrainer):
    """GRPO: an answer's advantage is its reward less the group's mean, by the group's deviation."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        if self.use_vllm:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return self._write(prompt_ids), None


class Rloo(Rolling, RLOOTrainer):
    """RLOO: an answer's advantage is its reward less the mean of the group's others."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        if self.use_vllm:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return self._write(prompt_ids)
