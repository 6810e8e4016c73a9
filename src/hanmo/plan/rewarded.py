"""Memory and work of learning from rewards (`grpo`, `rloo`), and the settings under which it fits.

A step has three parts: answers are written (weights, and keys and values of all of them at once), judged (by rules, or
a reward model; and the start's log-probabilities of them, where `beta` holds the model near it), and learnt from.
Answers are taken to be as long as they may be, which is the most that they can cost.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from hanmo.console import human_bytes
from hanmo.models.folder import resolve
from hanmo.plan import tuning
from hanmo.plan.devices import Device, here
from hanmo.plan.memory import Need
from hanmo.plan.records import prompts_of
from hanmo.plan.rehearsal import Batch, rehearse_answers
from hanmo.plan.shape import Shape, of_config
from hanmo.plan.task import BASE, SLACK, Task, room_of
from hanmo.plan.tuning import of_process
from hanmo.posttrain.attention import NAME
from hanmo.posttrain.rl.rollouts import AT_ONCE
from hanmo.posttrain.settings import RlSettings

#: This module, as the kinds of stages name it that it can plan.
PLANNER = __name__
#: Prices on a CPU of writing answers, as `hanmo.plan.tuning_cost` has those of learning from them: of FLOPs, of bytes
#: of weights, keys and values that pass through memory, of probabilities that are sorted, and of a layer's operators
#: whatever their size; fitted by benchmarks/plan_tuning.py.
CPU_PRICES = (0.99, 22.6, 9120.0, 2.66e6)
#: Share of the device's rate that writing reaches on an accelerator: an assumption, no run stands behind it.
WRITING = 0.05

__all__ = ["Rewarded", "explain", "fitted", "of_process", "task_of"]


@dataclass(frozen=True, eq=False)
class Rewarded(Task):
    """A stage that learns from rewards; `records` are its prompts with an answer each, `judge` its reward model."""

    judge: Any = None

    @property
    def named(self) -> str:
        """What is in a forward pass."""
        return "answers"

    @property
    def learnt_tokens(self) -> float:
        """Tokens of all prompts and answers of all steps."""
        return self.steps * self.settings.batch_size * self.records.mean

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self._asked.steps

    @property
    def _asked(self) -> RlSettings:
        assert isinstance(self.settings, RlSettings)
        return self.settings

    def batch(self, micro: int, settings: Any) -> tuple[Batch, Batch]:
        """Answers that are learnt from at a time, and those whose log-probabilities under the start are taken."""
        batch = Batch(micro, self.records.longest, self.records.learnt, judged=True)
        return batch, batch

    @property
    def looks(self) -> int:
        """Times that the answers' log-probabilities are taken besides in the step itself."""
        return bool(self._asked.beta) + (self._asked.method == "rloo")

    def passing(self, micro: int, recompute: bool) -> float:
        """As that of `Task`, and what passes without being kept: in looks, and where layers are computed again."""
        return super().passing(micro, recompute) + super().passing(micro, False) * (0.5 * self.looks + recompute)

    @functools.cached_property
    def writing(self) -> float:
        """Bytes at the peak of writing a step's answers, or those to held-out prompts, above the weights."""
        return rehearse_answers(
            self.config,
            min(AT_ONCE, max(self._asked.batch_size, self.records.held)),
            self.records.longest - self.answer,
            self.records.longest,
            torch.bfloat16 if self.width == 2 else torch.float32,
            NAME if self.cpu else "sdpa",
        )

    @property
    def answer(self) -> int:
        """Tokens of an answer."""
        return min(self._asked.answer_tokens, self.records.longest - 1)

    @property
    def at_once(self) -> int:
        """Answers of a step that are written at a time."""
        return min(AT_ONCE, self._asked.batch_size)

    @functools.cached_property
    def judging(self) -> Shape | None:
        """The reward model."""
        return self.judge and of_config(str(self.judge.model_type), self.judge, self.records.longest)

    def need(self, micro: int, recompute: bool) -> Need:
        """What the stage's process needs at most, in bytes."""
        seen = self.rehearsed(micro, recompute)
        kind = "cpu" if self.cpu else "accelerator"
        parts = {"process": BASE[kind], "weights": seen.weights, "optimiser state": 8.0 * seen.trained}
        if self._asked.beta:
            parts["reference model"] = 4.0 * seen.parameters
        if self.judging:
            parts["reward model"] = 4.0 * self.judging.parameters
        moments = {
            "writing answers": self.writing,
            "scoring": seen.look,
            "forward and backward": seen.step,
            "optimiser": 4.0 * seen.trained,
        }
        return Need(parts, moments, SLACK[kind] * max(moments.values()))

    def judging_work(self, shape: Shape) -> float:
        """FLOPs of a token besides those of learning from it: its log-probabilities by others, its reward."""
        forward, head = shape.flops / 3, 2 * shape.vocab * shape.hidden
        # The backward pass computes the head's products again.
        return self.looks * forward + head + (self.judging.flops / 3 - head if self.judging else 0)

    def writing_work(self, shape: Shape) -> tuple[float, ...]:
        """The amounts that `CPU_PRICES` are for, a token of prompt and answer."""
        mean, width = self.records.mean, self.width
        share, head = min(1.0, self.answer / mean), 2 * shape.vocab * shape.hidden
        cache = 2 * shape.layers * shape.key * width * (mean - self.answer / 2)
        return (
            shape.flops / 3 - head + head * share,
            share * (4 * shape.parameters / self.at_once + cache),
            share * shape.vocab,
            share * shape.layers / self.at_once,
        )

    def writing_seconds(self, shape: Shape, device: Device) -> float:
        """Seconds of writing, a token of prompt and answer."""
        amounts = self.writing_work(shape)
        if device.cpu:
            return sum(price * amount for price, amount in zip(CPU_PRICES, amounts, strict=True)) / device.rate
        return amounts[0] / (WRITING * device.rate)

    def nothing(self, has: float) -> str:
        """What to do where not even one answer at a time fits into so many bytes."""
        least = min((self.need(1, recompute) for recompute in (False, True)), key=lambda wants: wants.total)
        ways = ["fewer prompts or generations", "fewer answer_tokens", "a smaller model"]
        return (
            f"even one answer of {self.records.longest} tokens with recomputed layers needs about "
            f"{human_bytes(least.total)} (at its most: {least.moment}) and {human_bytes(has)} can be had: take "
            f"{', '.join(ways)}, or a device with more memory"
        )


def task_of(settings: RlSettings, inputs: dict[str, list[Path]], device: Device) -> Rewarded:
    """The stage as it would run on a device.

    Raises:
        HanmoError: no model or no records there that could be used.
    """
    folder = resolve(inputs["model"][0])
    config = AutoConfig.from_pretrained(folder)
    room = room_of(settings, config)
    records = prompts_of(settings, inputs["records"], folder, room)
    judge = AutoConfig.from_pretrained(resolve(inputs["reward"][0])) if inputs.get("reward") else None
    return Rewarded(settings, config, records, room, device.width, device.cpu, judge=judge)


def fitted(settings: RlSettings, inputs: dict[str, list[Path]]) -> RlSettings:
    """See `hanmo.plan.tuning.fitted`."""
    device = here(settings.device, settings.precision, rate=False)
    return tuning.fit(task_of(settings, inputs, device), device.memory)


def explain(
    settings: RlSettings, inputs: dict[str, list[Path]], device: Device | None = None, sure: bool = True
) -> str:
    """What to change after memory ran out; see `hanmo.plan.fit.explain`."""
    device = device or here(settings.device, settings.precision, rate=False)
    return tuning.told(task_of(settings, inputs, device), device.memory, sure)
