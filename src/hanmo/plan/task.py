"""A stage after pretraining as the planner sees it: what one of its batches needs, and which settings need less."""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch

from hanmo.console import human_bytes
from hanmo.plan.memory import Need
from hanmo.plan.records import Records, Settings
from hanmo.plan.rehearsal import Batch, Rehearsed, rehearse
from hanmo.plan.shape import Shape, of_config
from hanmo.posttrain import training
from hanmo.posttrain.attention import NAME
from hanmo.posttrain.settings import (
    AdapterSettings,
    DistillSettings,
    DpoSettings,
    PairSettings,
    RewardSettings,
    RlSettings,
    SftSettings,
)

#: Bytes that a process takes before it holds a model: Python, torch, transformers, TRL.
BASE = {"cpu": 0.44e9, "accelerator": 1.0e9}
#: Share of the moment's memory that allocators lose between blocks: batches are of ever other lengths.
SLACK = {"cpu": 0.25, "accelerator": 0.1}


@dataclass(frozen=True, eq=False)
class Task:
    """A stage to be planned: its settings, its model's configuration, its records, the dtype, and where it runs.

    `teacher` is the configuration of the model that is distilled from, `tokens` how many both know (0: not known yet).
    """

    settings: Settings | RlSettings
    config: Any
    records: Records
    room: int
    width: int
    cpu: bool
    teacher: Any = None
    tokens: int = 0

    @property
    def micro(self) -> int:
        """Records (or pairs) in a forward pass, as the stage would take them."""
        return training.micro_batch(self.settings, self.records.answers * self.records.longest)

    @property
    def whole(self) -> int:
        """Records (or pairs) in an optimiser step."""
        return self.settings.batch_size

    @property
    def length(self) -> int:
        """Tokens of the longest row that goes through the model."""
        return self.records.longest

    @functools.cached_property
    def shape(self) -> Shape:
        """The model in numbers, in rows of the longest record."""
        return of_config(str(self.config.model_type), self.config, self.length)

    def passing(self, micro: int, recompute: bool) -> float:
        """Bytes of a token that pass through memory: what the layers keep for the backward pass."""
        batch, _ = self.batch(micro, self.settings)
        return self.rehearsed(micro, recompute).kept / (batch.rows * batch.length)

    @property
    def step_tokens(self) -> float:
        """Tokens in an optimiser step, on the average."""
        return self.settings.batch_size * self.records.mean

    @property
    def named(self) -> str:
        """What is in a forward pass."""
        return "records" if isinstance(self.settings, SftSettings) else "pairs"

    @property
    def learnt_tokens(self) -> float:
        """Tokens that go through the model in all steps together; 0: not known."""
        return self.records.tokens * self.settings.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps; 0: not known."""
        return math.ceil(self.records.count / self.settings.batch_size) * self.settings.epochs

    def batch(self, micro: int, settings: Any) -> tuple[Batch, Batch]:
        """The largest batch of a step, and of a look at held-out records."""
        longest, learnt = self.records.longest, self.records.learnt
        # Of pairs, the references of all are looked at, too.
        there = self.records.held if isinstance(settings, SftSettings | RewardSettings) else self.records.count
        sides = self.records.answers
        at_once = training.looked_at_once(settings, longest)
        looked = Batch(max(1, min(at_once, sides * there) if self.records.count else at_once), longest, learnt)
        if isinstance(settings, SftSettings):
            if settings.packing:
                length = min(self.room, micro * longest)
                return Batch(math.ceil(micro * longest / length), length, learnt, masked=True), looked
            return Batch(micro, longest, learnt), looked
        every = isinstance(settings, DpoSettings) and settings.loss in ("orpo", "simpo")
        return Batch(sides * micro, longest, learnt, logits=every), looked

    @functools.cache  # noqa: B019 - a task lives as long as its plan
    def rehearsed(self, micro: int, recompute: bool) -> Rehearsed:
        """A step with so many records in a forward pass."""
        settings = self.settings if micro == self.micro else self.settings.model_copy(update={"micro_batch": micro})
        batch, look = self.batch(micro, settings)
        return rehearse(
            self.config,
            batch,
            look,
            torch.bfloat16 if self.width == 2 else torch.float32,
            NAME if self.cpu else "sdpa",
            scores=isinstance(settings, RewardSettings),
            adapter=settings if isinstance(settings, AdapterSettings) else None,
            recompute=recompute,
            accumulates=micro < settings.batch_size,
            taught=(self.teacher, settings, self.tokens) if isinstance(settings, DistillSettings) else None,
        )

    def need(self, micro: int, recompute: bool) -> Need:
        """What the stage's process needs at most, in bytes."""
        settings, seen = self.settings, self.rehearsed(micro, recompute)
        state = 8.0 * seen.trained
        kind = "cpu" if self.cpu else "accelerator"
        moments = {"forward and backward": seen.step, "optimiser": 4.0 * seen.trained, "held-out records": seen.look}
        if isinstance(settings, DpoSettings) and settings.answers:
            # The start is loaded once more when all is trained, for the KL of the answers.
            moments["reference model"] = 4.0 * seen.parameters + seen.look
        if isinstance(settings, AdapterSettings) and settings.adapter != "none" and settings.merge:
            # The base in fp32, when the frozen one and the optimiser's state are gone.
            moments["merging"] = max(0.0, 4.0 * seen.parameters - seen.weights - state)
        slack = SLACK[kind] * max(moments.values())
        parts = {"process": BASE[kind], "weights": seen.weights, "optimiser state": state}
        if seen.teacher:
            parts["teacher"] = seen.teacher
        return Need(parts, moments, slack)

    def choose(self, most: float) -> tuple[int, bool, Need] | None:
        """Records in a forward pass, whether layers are recomputed, and what that needs: the largest below `most`."""
        sizes = [size for size in range(1, self.micro + 1) if self.whole % size == 0]
        for recompute in (False, True) if self.settings.recompute == "none" else (True,):
            # More records never take less.
            fitting = bisect.bisect_right(sizes, most, key=lambda size: self.need(size, recompute).total)
            if fitting:
                return sizes[fitting - 1], recompute, self.need(sizes[fitting - 1], recompute)
        return None

    def nothing(self, has: float) -> str:
        """What to do where not even one record fits into so many bytes."""
        least = min((self.need(1, recompute) for recompute in (False, True)), key=lambda wants: wants.total)
        alone = isinstance(self.settings, SftSettings) and self.settings.adapter == "none"
        ways = ["a smaller max_length", *(["adapter: lora"] if alone else []), "a smaller model"]
        what = "pair" if isinstance(self.settings, PairSettings) else "record"
        return (
            f"even one {what} of {self.records.longest} tokens with recomputed layers needs about "
            f"{human_bytes(least.total)} and {human_bytes(has)} can be had: take {', '.join(ways)}, or a device with "
            "more memory"
        )

    def changes(self, micro: int, recompute: bool) -> dict[str, Any]:
        """The settings that lead from the stage's own to these."""
        found: dict[str, Any] = {} if micro == self.micro else {"micro_batch": micro}
        return found | ({"recompute": "layers"} if recompute and self.settings.recompute == "none" else {})


def room_of(settings: Settings | RlSettings, config: Any) -> int:
    """Tokens of the longest record that a stage takes."""
    return settings.max_length or getattr(config, "max_position_embeddings", None) or training.FORWARD_TOKENS
