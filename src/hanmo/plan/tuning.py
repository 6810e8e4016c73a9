"""Memory of the stages after pretraining (SFT, preferences, reward models), and the settings under which one fits.

What is chosen are settings that change the speed alone: `micro_batch`, and where one record does not fit,
`recompute: layers`. Records are read for the longest ones, since a batch of those is the largest.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from hanmo.console import human_bytes
from hanmo.models.folder import resolve
from hanmo.plan import devices
from hanmo.plan.devices import Device, here
from hanmo.plan.memory import Need
from hanmo.plan.rehearsal import Batch, Rehearsed, rehearse
from hanmo.plan.telling import MARGIN, Found, advise, take
from hanmo.posttrain import own, training
from hanmo.posttrain.attention import NAME
from hanmo.posttrain.encode import IGNORE, encode_pair, encode_parts
from hanmo.posttrain.preferences import Labelled, labelled_of
from hanmo.posttrain.records import Item, pair_kind, read_items, sft_kind
from hanmo.posttrain.settings import (
    AdapterSettings,
    DistillSettings,
    DpoSettings,
    PairSettings,
    RewardSettings,
    SftSettings,
)
from hanmo.tokenizer import load as load_tokenizer
from hanmo.tokenizer.chat import ChatFormat

#: This module, as the kinds of stages name it that it can plan.
PLANNER = __name__
Settings = SftSettings | DpoSettings | RewardSettings
#: Bytes that a process takes before it holds a model: Python, torch, transformers, TRL.
BASE = {"cpu": 0.44e9, "accelerator": 1.0e9}
#: Share of the moment's memory that allocators lose between blocks: batches are of ever other lengths.
SLACK = {"cpu": 0.25, "accelerator": 0.1}
#: Of so many records, the longest in characters, tokens are counted; and of as many others, for the mean.
LOOKED_AT = 64
#: Tokens that a Chinese character makes, about, where no tokenizer is at hand.
TOKENS_A_CHARACTER = 0.7


@dataclass(frozen=True)
class Records:
    """What is known of the records of a stage.

    Attributes:
        longest: tokens of the longest one (of a pair: of its longer side).
        learnt: share of tokens that are scored, among the longest.
        count, held: how many are trained on, and held out; 0: not known.
        tokens: of all of them together, a pair's prompt counted twice; 0: not known.
        answers: rows that one of them makes: a pair two.
    """

    longest: int
    learnt: float = 1.0
    count: int = 0
    held: int = 0
    tokens: float = 0.0
    answers: int = 1

    @property
    def mean(self) -> float:
        """Tokens of a record on the average; of the longest, where no more is known."""
        return self.tokens / self.count if self.count else float(self.longest)


def records_of(settings: Settings, files: list[Path], folder: Path | None, limit: int) -> Records:
    """Look at a stage's records, of which only some are encoded.

    Args:
        folder: of the model, whose tokenizer counts; None: not there yet, and tokens are estimated from characters.
        limit: the longest record that is taken.

    Raises:
        HanmoError: the records cannot be used, as the stage itself would say.
    """
    chat = ChatFormat(load_tokenizer(folder)) if folder else None
    if isinstance(settings, SftSettings):
        items, _ = read_items(files, settings, sft_kind(settings))
        sizes = [sum(len(message["content"]) for message in item.value) for item in items]
        answers = 1
    else:
        items, _ = read_items(files, settings, pair_kind(settings))
        if any(isinstance(item.value, Labelled) for item in items):
            items = [item._replace(value=one) for item in items for one in labelled_of(item.value)]
            answers = 1
        else:
            answers = 2
        sizes = [
            sum(len(message["content"]) for message in item.value.prompt)
            + max(len(one.answer) for one in labelled_of(item.value))
            for item in items
        ]
    order = sorted(range(len(items)), key=lambda index: -sizes[index])
    sides = [_encoded(chat, settings, items[index], limit) for index in order[:LOOKED_AT]]
    long = [row for side in sides for row in side]
    if not long:
        return Records(limit, answers=answers)
    longest = max(length for length, _ in long)
    top = [row for row in long if row[0] >= 0.8 * longest]
    # A sample evenly over all sizes stands for the rest.
    some = [_encoded(chat, settings, items[index], limit) for index in order[:: max(1, len(order) // LOOKED_AT)]]
    train = round(len(items) * (1 - settings.validation))
    mean = sum(length for side in some for length, _ in side) / max(1, len(some))
    learnt = sum(count for _, count in top) / sum(length for length, _ in top)
    return Records(longest, learnt, max(1, train), len(items) - train, mean * train, answers)


def _encoded(chat: ChatFormat | None, settings: Settings, item: Item, limit: int) -> list[tuple[int, int]]:
    """(tokens, learnt ones) of each row that a record makes."""
    if chat is None:
        return _estimated(settings, item, limit)
    if isinstance(settings, SftSettings):
        parts = encode_parts(chat, item.value, limit, settings.too_long, Counter())
        return [(len(part.input_ids), sum(label != IGNORE for label in part.labels)) for part in parts]
    pair = encode_pair(chat, item.value, limit, Counter())
    if pair is None:
        return []
    return [(len(pair.prompt_ids) + len(ids), len(ids)) for _, ids in pair.sides]


def _estimated(settings: Settings, item: Item, limit: int) -> list[tuple[int, int]]:
    if isinstance(settings, SftSettings):
        every = [
            (TOKENS_A_CHARACTER * len(message["content"]), message["role"] == "assistant") for message in item.value
        ]
        total = min(limit, round(sum(size for size, _ in every)) + 5 * len(every))
        return [(total, min(total, round(sum(size for size, learnt in every if learnt))))]
    prompt = TOKENS_A_CHARACTER * sum(len(message["content"]) for message in item.value.prompt)
    sides = [round(TOKENS_A_CHARACTER * len(one.answer)) for one in labelled_of(item.value)]
    return [(min(limit, round(prompt) + side + 10), min(limit, side)) for side in sides]


@dataclass(frozen=True, eq=False)
class Task:
    """A stage to be planned: its settings, its model's configuration, its records, the dtype, and where it runs.

    `teacher` is the configuration of the model that is distilled from, `tokens` how many both know (0: not known yet).
    """

    settings: Settings
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

    def batch(self, micro: int, settings: Settings) -> tuple[Batch, Batch]:
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
        sizes = [size for size in range(1, self.micro + 1) if self.settings.batch_size % size == 0]
        for recompute in (False, True) if self.settings.recompute == "none" else (True,):
            # More records never take less.
            fitting = bisect.bisect_right(sizes, most, key=lambda size: self.need(size, recompute).total)
            if fitting:
                return sizes[fitting - 1], recompute, self.need(sizes[fitting - 1], recompute)
        return None

    def changes(self, micro: int, recompute: bool) -> dict[str, Any]:
        """The settings that lead from the stage's own to these."""
        found: dict[str, Any] = {} if micro == self.micro else {"micro_batch": micro}
        return found | ({"recompute": "layers"} if recompute and self.settings.recompute == "none" else {})


def task_of(settings: Settings, inputs: dict[str, list[Path]], device: Device) -> Task | None:
    """The stage as it would run on a device; None for models of classes that TRL does not train.

    Raises:
        HanmoError: no model or no records there that could be used.
    """
    folder = resolve(inputs["model"][0])
    if isinstance(settings, SftSettings) and own.objective_of(folder):
        return None
    config = AutoConfig.from_pretrained(folder)
    room = room_of(settings, config)
    records = records_of(settings, inputs["records" if isinstance(settings, SftSettings) else "pairs"], folder, room)
    teacher = AutoConfig.from_pretrained(resolve(inputs["teacher"][0])) if "teacher" in inputs else None
    tokens = len(load_tokenizer(folder)) if teacher else 0
    return Task(settings, config, records, room, device.width, device.cpu, teacher, tokens)


def room_of(settings: Settings, config: Any) -> int:
    """Tokens of the longest record that a stage takes."""
    return settings.max_length or getattr(config, "max_position_embeddings", None) or training.FORWARD_TOKENS


def fitted(settings: Settings, inputs: dict[str, list[Path]]) -> Settings:
    """The settings with the micro-batch that fits into what is free on this machine now (`--fit`).

    Raises:
        HanmoError: none does.
    """
    device = here(settings.device, settings.precision, rate=False)
    task = task_of(settings, inputs, device)
    if task is None:
        return settings
    has = device.memory
    wants = task.need(task.micro, settings.recompute == "layers")
    return take(settings, wants, has, lambda: _other(task, has * MARGIN), lambda: _nothing(task, has))


def _other(task: Task, most: float) -> Found | None:
    found = task.choose(most)
    return found and (task.changes(*found[:2]), found[2])


def explain(settings: Settings, inputs: dict[str, list[Path]], device: Device | None = None, sure: bool = True) -> str:
    """What to change after memory ran out; see `hanmo.plan.fit.explain`."""
    device = device or here(settings.device, settings.precision, rate=False)
    task = task_of(settings, inputs, device)
    if task is None:
        return ""
    has = device.memory
    wants = task.need(task.micro, settings.recompute == "layers")
    what = "records" if isinstance(settings, SftSettings) else "pairs"
    return advise(
        f"{task.micro} {what} of up to {task.records.longest} tokens in a forward pass",
        wants,
        has,
        sure,
        lambda: _other(task, min(0.85 * wants.total, has * MARGIN)),
        lambda: _nothing(task, has),
    )


def of_process(settings: Settings) -> Device:
    """The device that this process tunes on, with the memory that the process may have."""
    return devices.of_process(settings.device, settings.precision)


def _nothing(task: Task, has: float) -> str:
    least = min((task.need(1, recompute) for recompute in (False, True)), key=lambda wants: wants.total)
    alone = isinstance(task.settings, SftSettings) and task.settings.adapter == "none"
    ways = ["a smaller max_length", *(["adapter: lora"] if alone else []), "a smaller model"]
    what = "pair" if isinstance(task.settings, PairSettings) else "record"
    return (
        f"even one {what} of {task.records.longest} tokens with recomputed layers needs about "
        f"{human_bytes(least.total)} and {human_bytes(has)} can be had: take {', '.join(ways)}, or a device with more "
        "memory"
    )
