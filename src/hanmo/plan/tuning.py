"""Memory of the stages after pretraining (SFT, preferences, reward models), and the settings under which one fits.

What is chosen are settings that change the speed alone: `micro_batch`, and where one record does not fit,
`recompute: layers`. Records are read for the longest ones, since a batch of those is the largest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from hanmo.models.folder import resolve
from hanmo.plan import devices
from hanmo.plan.devices import Device, here
from hanmo.plan.own import own_task
from hanmo.plan.records import Records, Settings, records_of
from hanmo.plan.task import Task, room_of
from hanmo.plan.telling import MARGIN, Found, advise, take
from hanmo.posttrain import own
from hanmo.posttrain.settings import DistillSettings, RlSettings, SftSettings
from hanmo.tokenizer import load as load_tokenizer

__all__ = ["MARGIN", "Records", "Task", "explain", "fitted", "of_process", "records_of", "task_of"]

#: This module, as the kinds of stages name it that it can plan.
PLANNER = __name__


def task_of(settings: Settings, inputs: dict[str, list[Path]], device: Device) -> Task | None:
    """The stage as it would run on a device; None for a model of a class that the stage does not train.

    Raises:
        HanmoError: no model or no records there that could be used.
    """
    folder = resolve(inputs["model"][0])
    config = AutoConfig.from_pretrained(folder)
    if isinstance(settings, SftSettings) and (objective := own.objective_of(folder)):
        if isinstance(settings, DistillSettings):
            return None
        return own_task(settings, config, objective, inputs["records"], folder, device)
    room = room_of(settings, config)
    records = records_of(settings, inputs["records" if isinstance(settings, SftSettings) else "pairs"], folder, room)
    teacher = AutoConfig.from_pretrained(resolve(inputs["teacher"][0])) if "teacher" in inputs else None
    tokens = len(load_tokenizer(folder)) if teacher else 0
    return Task(settings, config, records, room, device.width, device.cpu, teacher, tokens)


def fitted(settings: Settings, inputs: dict[str, list[Path]]) -> Settings:
    """The settings with the micro-batch that fits into what is free on this machine now (`--fit`).

    Raises:
        HanmoError: none does.
    """
    device = here(settings.device, settings.precision, rate=False)
    task = task_of(settings, inputs, device)
    return settings if task is None else fit(task, device.memory)


def fit(task: Task, has: float) -> Any:
    """The settings of a task, with what is changed so that it fits into so many bytes."""
    wants = task.need(task.micro, task.settings.recompute == "layers")
    return take(task.settings, wants, has, lambda: _other(task, has * MARGIN), lambda: task.nothing(has))


def _other(task: Task, most: float) -> Found | None:
    found = task.choose(most)
    return found and (task.changes(*found[:2]), found[2])


def explain(settings: Settings, inputs: dict[str, list[Path]], device: Device | None = None, sure: bool = True) -> str:
    """What to change after memory ran out; see `hanmo.plan.fit.explain`."""
    device = device or here(settings.device, settings.precision, rate=False)
    task = task_of(settings, inputs, device)
    return "" if task is None else told(task, device.memory, sure)


def told(task: Task, has: float, sure: bool) -> str:
    """The same of a task, where so many bytes can be had."""
    wants = task.need(task.micro, task.settings.recompute == "layers")
    return advise(
        f"{task.micro} {task.named} of up to {task.records.longest} tokens in a forward pass",
        wants,
        has,
        sure,
        lambda: _other(task, min(0.85 * wants.total, has * MARGIN)),
        lambda: task.nothing(has),
    )


def of_process(settings: Settings | RlSettings) -> Device:
    """The device that this process tunes on, with the memory that the process may have."""
    return devices.of_process(settings.device, settings.precision)
