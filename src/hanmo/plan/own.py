"""Memory and work of tuning the classes that TRL does not know, by the pretraining engine (`hanmo.posttrain.own`).

Records are packed into rows there, and a step takes as many rows as hold a batch of records on the average.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from hanmo.console import human_bytes
from hanmo.models.families import AUTO
from hanmo.models.linglong.generation import pinyin_reader
from hanmo.models.loss import IGNORE
from hanmo.plan.devices import Device
from hanmo.plan.memory import Need, pieces
from hanmo.plan.records import LOOKED_AT, Records, records_of
from hanmo.plan.rehearsal import Batch, Rehearsed
from hanmo.plan.rehearsal_rows import rehearse_rows
from hanmo.plan.shape import Shape
from hanmo.plan.task import BASE, SLACK, Task
from hanmo.posttrain.labelled import LabelledRows, encoder_of, piece_of
from hanmo.posttrain.own import limit_of
from hanmo.posttrain.records import read_items, sft_kind
from hanmo.posttrain.settings import SftSettings
from hanmo.pretrain.objectives.reading import Reading
from hanmo.pretrain.steps.seq2seq import seq2seq_flops
from hanmo.tokenizer import load as load_tokenizer

#: Prices on a CPU, as those of `hanmo.plan.tuning_cost`; fitted by benchmarks/plan_tuning.py.
CPU_PRICES = (0.925, 105.0, 141.0)
#: Share of the moment's memory that the allocator loses on a CPU, whose attention makes copies of ever longer
#: stretches of a row: fitted to the same runs, of which it came to 0.1 to 1.2.
LOST = 0.6
#: How full rows are where no record can be encoded yet.
FILLED = 0.9


@dataclass(frozen=True, eq=False)
class Own(Task):
    """Such a stage.

    Attributes:
        objective: what its model learns.
        rows_a_record: rows that a record takes, on the average.
    """

    objective: str = "causal"
    rows_a_record: float = 1.0

    @property
    def whole(self) -> int:
        """Rows in an optimiser step."""
        return max(1, round(self.rows_a_record * self.settings.batch_size))

    @property
    def micro(self) -> int:
        """Rows in a forward pass."""
        return pieces(self.whole, self.room, self.settings.micro_batch * self.room)

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.room

    @property
    def step_tokens(self) -> float:
        """Tokens in an optimiser step."""
        return self.whole * self.room

    @functools.cached_property
    def shape(self) -> Shape:
        """The model in numbers; a row of an encoder-decoder has as many places on either side."""
        shape = super().shape
        if self.objective != "spans":
            return shape
        with torch.device("meta"):
            model = getattr(transformers, AUTO["spans"]).from_config(self.config)
        return replace(shape, flops=seq2seq_flops(model, self.room, self.room))

    @property
    def named(self) -> str:
        """What is in a forward pass."""
        return "rows"

    @property
    def learnt_tokens(self) -> float:
        """Tokens of all rows of all passes; 0: not known."""
        return math.ceil(self.rows_a_record * self.records.count) * self.room * self.settings.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps; 0: not known."""
        return math.ceil(self.learnt_tokens / self.step_tokens)

    def batch(self, micro: int, settings: Any) -> tuple[Batch, Batch]:
        """Rows of a forward pass, of a step and of a look."""
        batch = Batch(micro, self.room, self.records.learnt)
        return batch, batch

    @functools.cache  # noqa: B019 - a task lives as long as its plan
    def rehearsed(self, micro: int, recompute: bool) -> Rehearsed:
        """A step with so many rows in a forward pass."""
        dtype = torch.bfloat16 if self.width == 2 else torch.float32
        batch, _ = self.batch(micro, self.settings)
        return rehearse_rows(self.config, self.objective, batch, dtype, recompute, accumulates=micro < self.whole)

    def need(self, micro: int, recompute: bool) -> Need:
        """What the stage's process needs at most, in bytes."""
        seen = self.rehearsed(micro, recompute)
        kind = "cpu" if self.cpu else "accelerator"
        state = 8.0 * seen.trained
        parts = {"process": BASE[kind], "weights": seen.weights, "optimiser state": state}
        moments = {
            "forward and backward": seen.step,
            "optimiser": 4.0 * seen.trained,
            "held-out records": seen.look,
            "checkpoint": seen.weights + state if self.cpu else 0.0,
        }
        lost = LOST if self.cpu else SLACK[kind]
        return Need(parts, moments, lost * max(moments.values()))

    def nothing(self, has: float) -> str:
        """What to do where not even one row at a time fits into so many bytes."""
        least = min((self.need(1, recompute) for recompute in (False, True)), key=lambda wants: wants.total)
        return (
            f"even one row of {self.room} tokens with recomputed layers needs about {human_bytes(least.total)} and "
            f"{human_bytes(has)} can be had: take a smaller max_length, a smaller model, or a device with more memory"
        )


def own_task(
    settings: SftSettings, config: Any, objective: str, files: list[Path], folder: Path | None, device: Device
) -> Own:
    """The stage as it would run on a device.

    Args:
        objective: what the model learns.
        files: of records; none: they are not there yet.
        folder: of the model; None: not there yet, and tokens are estimated from characters.

    Raises:
        HanmoError: the records cannot be used, as the stage itself would say.
    """
    room = limit_of(settings, config)
    records, rows = Records(room), 1.0
    if files and folder:
        records, rows = _looked(settings, config, objective, files, folder, room)
    elif files:
        records = records_of(settings, files, None, room)
        rows = records.mean / FILLED / room
    return Own(settings, config, records, room, device.width, device.cpu, objective=objective, rows_a_record=rows)


def _looked(
    settings: SftSettings, config: Any, objective: str, files: list[Path], folder: Path, room: int
) -> tuple[Records, float]:
    """The records, with the share of a row's places that is learnt, and the rows that one takes."""
    items, _ = read_items(files, settings, sft_kind(settings))
    reading = Reading.of("", folder)
    encode = encoder_of(load_tokenizer(folder), settings.too_long, reading.backward)
    pinyin_of = pinyin_reader(folder) if reading.pinyin else None
    order = sorted(items, key=lambda item: sum(len(message["content"]) for message in item.value))
    some = [one for item in order[:: max(1, len(order) // LOOKED_AT)] for one in encode(item.value, room, Counter())]
    train = max(1, round(len(items) * (1 - settings.validation)))
    if not some:
        return Records(room, count=train, held=len(items) - train), 1.0
    made = [piece_of(objective, *one, 0, pinyin_of) for one in some]
    # Several times the same, so that rows which are not full at the end count little.
    made *= 8
    rows = len(LabelledRows(made, room, 1, settings.seed))
    learnt = sum(target != IGNORE for one in made for target in one.targets) / (rows * room)
    longest = max(len(one.input_ids) for one in some)
    mean = sum(len(one.input_ids) for one in some) / len(some)
    return Records(longest, learnt, train, len(items) - train, mean * train), rows / len(made)
