"""What the stages after pretraining will cost on a device: memory, time, energy, money and disk."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from hanmo.console import Console, console, human_bytes, human_count
from hanmo.errors import HanmoError
from hanmo.models.folder import resolve
from hanmo.plan.devices import USABLE, Device
from hanmo.plan.memory import Need
from hanmo.plan.shape import Shape, of_config
from hanmo.plan.speed import efficiency
from hanmo.plan.telling import MARGIN, memory_of, table_of
from hanmo.plan.training import vocabulary_of
from hanmo.plan.tuning import PLANNER, Records, Settings, Task, records_of, room_of
from hanmo.posttrain import own
from hanmo.posttrain.settings import AdapterSettings, DpoSettings, RewardSettings, SftSettings
from hanmo.pretrain.settings import PretrainSettings
from hanmo.recipe import Recipe, Stage

#: Prices on a CPU, as in `hanmo.plan.speed`: of FLOPs, of bytes that layers keep, and of bytes that the optimiser goes
#: through; fitted by benchmarks/plan_tuning.py.
CPU_PRICES = (1.31, 82.5, 35.0)
#: What transformers' eager layers on padded rows reach on an accelerator, of the MFU of pretraining: an assumption, no
#: run stands behind it.
EAGER = 0.6


def plan_tuning(
    recipe: Recipe,
    device: Device,
    mfu: float | None = None,
    price: float | None = None,
    watts: float | None = None,
) -> list[dict[str, Any]]:
    """Plan the SFT, preference and reward stages of a recipe, which run on one device.

    Args:
        device, mfu, price, watts: see `hanmo.plan.training.plan_training`.

    Returns:
        One dict a stage, as `hanmo plan --json` prints it under "tuning". Where the records are made by an earlier
        stage, "records", "tokens", "steps" and "hours" are None, and memory is that of records as long as allowed.

    Raises:
        HanmoError: a model or records that cannot be used.
    """
    stages = {stage.name: stage for stage in recipe.stages}
    found = []
    for stage in recipe.stages:
        if stage.kind.planner != PLANNER:
            continue
        settings: Any = stage.settings
        config = _config(stage, stages, recipe.name)
        if own.objective_of_type(str(config.model_type)):
            console.print(f"{stage.name}: {config.model_type} is tuned by the pretraining engine; not planned")
            continue
        task = _task(stage, stages, config, device)
        if "teacher" in stage.sources:
            task = replace(task, teacher=_config(stage, stages, recipe.name, "teacher"))
        found.append(plan_stage(settings, task, device, mfu, price, watts))
        found[-1] = {"stage": stage.name, "do": stage.kind.do} | found[-1]
    return found


def _config(stage: Stage, stages: dict[str, Stage], recipe: str, role: str = "model") -> PreTrainedConfig:
    """The configuration of the model that a stage trains, or of its teacher."""
    source = stage.sources[role][0] if role in stage.sources else None
    if isinstance(source, Path):
        return AutoConfig.from_pretrained(resolve(source))
    if source is not None:
        return _config(stages[source], stages, recipe)
    if isinstance(stage.settings, PretrainSettings):
        return stage.settings.config(vocabulary_of(stage, stages, recipe))
    raise HanmoError(f"{recipe}: the model of stage '{stage.name}' is not known before it runs")


def _task(stage: Stage, stages: dict[str, Stage], config: Any, device: Device) -> Task:
    settings: Any = stage.settings
    room = room_of(settings, config)
    files = stage.sources["records" if isinstance(settings, SftSettings) else "pairs"]
    model = stage.sources["model"][0]
    paths = [path for path in files if isinstance(path, Path)]
    if len(paths) < len(files):
        records = Records(room, answers=1 if isinstance(settings, SftSettings) else 2)
    else:
        records = records_of(settings, paths, resolve(model) if isinstance(model, Path) else None, room)
    return Task(settings, config, records, room, device.width, device.cpu)


def plan_stage(
    settings: Settings,
    task: Task,
    device: Device,
    mfu: float | None = None,
    price: float | None = None,
    watts: float | None = None,
) -> dict[str, Any]:
    """Plan one stage; see `plan_tuning`."""
    room = device.memory * (1.0 if device.measured else USABLE)
    again = settings.recompute == "layers"
    micro, wants = task.micro, task.need(task.micro, again)
    changed: dict[str, Any] | None = {}
    if wants.total > room * MARGIN:
        chosen = task.choose(room * MARGIN)
        changed = None if chosen is None else task.changes(*chosen[:2])
        if chosen is not None:
            micro, again, wants = chosen
    seen = task.rehearsed(micro, again)
    rate, used = speed(task, micro, again, device, mfu)
    tokens = task.records.tokens * settings.epochs
    steps = math.ceil(task.records.count / settings.batch_size) * settings.epochs
    if isinstance(settings, DpoSettings) and settings.loss in ("dpo", "ipo", "kto"):
        # The reference is computed once, whatever the epochs: a third of a pass.
        tokens += task.records.tokens / 3
    hours = tokens / rate / 3600 if tokens else None
    power = watts if watts is not None else device.watts
    adapted = isinstance(settings, AdapterSettings) and settings.adapter != "none"
    plain = not isinstance(settings, AdapterSettings) or settings.adapter == "none" or settings.merge
    return {
        "model": str(task.config.model_type),
        "parameters": seen.parameters,
        "trained_parameters": seen.trained,
        "records": task.records.count or None,
        "longest": task.records.longest,
        "tokens": round(task.records.tokens * settings.epochs) or None,
        "steps": steps or None,
        "device": device.name,
        "device_flops": device.rate,
        "fits": changed is not None,
        "settings": changed,
        "layout": {
            "micro_batch": micro,
            "recompute": "layers" if again else "none",
            "accumulation": settings.batch_size // micro,
        },
        "memory": _memory(task, micro, again, wants, room),
        "mfu": used,
        "tokens_per_second": rate,
        "hours": hours,
        "kwh": None if power is None or hours is None else power * hours / 1000,
        "cost": None if price is None or hours is None else price * hours,
        "disk": {"model": 4 * seen.parameters if plain else 0, "adapter": 4 * seen.trained if adapted else 0},
    }


def _memory(task: Task, micro: int, again: bool, wants: Need, room: float) -> dict[str, Any]:
    seen = task.rehearsed(micro, again)
    with_, without = (wants if flag == again else task.need(micro, flag) for flag in (True, False))
    parts = {
        "weights": seen.weights,
        "teacher": seen.teacher,
        "gradients": 4 * seen.trained,
        "optimiser_state": 8 * seen.trained,
        "activations": seen.kept,
    }
    return memory_of(wants, without, with_, room, parts)


def work(task: Task, shape: Shape, micro: int, again: bool) -> tuple[float, float, float]:
    """FLOPs and kept bytes of a token, and bytes that a step's optimiser goes through."""
    settings, seen = task.settings, task.rehearsed(micro, again)
    # Forward, the gradient to what came in, and that to the weights: the last only of those that learn.
    parts = 2 + seen.trained / seen.parameters + (1 if again else 0)
    batch, _ = task.batch(micro, settings)
    flops = _model_flops(task, shape) / 3 * parts
    if task.teacher is not None:  # reads what the student reads, and learns nothing
        flops += of_config(str(task.teacher.model_type), task.teacher, task.records.longest).flops / 3
    return flops, seen.kept / (batch.rows * batch.length), 20.0 * seen.trained


def speed(task: Task, micro: int, again: bool, device: Device, mfu: float | None) -> tuple[float, float]:
    """Tokens a second, and the model FLOPs that makes of the device's rate."""
    shape = of_config(str(task.config.model_type), task.config, task.records.longest)
    flops, kept, update = work(task, shape, micro, again)
    useful = flops_of_learning(task, shape, micro)
    if device.cpu and mfu is None:
        step = task.settings.batch_size * task.records.mean
        seconds = (CPU_PRICES[0] * flops + CPU_PRICES[1] * kept + CPU_PRICES[2] * update / step) / device.rate
        return 1 / seconds, useful / seconds / device.rate
    used = mfu if mfu is not None else EAGER * efficiency(shape, device) * useful / flops
    return device.rate * used / useful, used


def flops_of_learning(task: Task, shape: Shape, micro: int) -> float:
    """Model FLOPs of a token, of which those to frozen weights' gradients are none."""
    seen = task.rehearsed(micro, False)
    return _model_flops(task, shape) / 3 * (2 + seen.trained / seen.parameters)


def _model_flops(task: Task, shape: Shape) -> float:
    """Those of `hanmo.models.flops`; the head of a reward model costs nothing."""
    head = 6 * shape.vocab * shape.hidden if isinstance(task.settings, RewardSettings) else 0
    return shape.flops - head


def show(plans: list[dict[str, Any]], device: Device, price: float | None) -> None:
    """Print the plans for people."""
    out = Console()
    for plan in plans:
        parameters, learn = (human_count(plan[name]) for name in ("parameters", "trained_parameters"))
        records = f"not there yet; planned for the longest allowed, {plan['longest']} tokens"
        if plan["records"] is not None:
            records = (
                f"{plan['records']}, the longest of {plan['longest']} tokens; {human_count(plan['tokens'])} tokens and "
                f"{plan['steps']} steps in all"
            )
        facts = {"parameters": f"{parameters}, {learn} of them learn", "records": records}
        title = f"{plan['stage']} ({plan['do']}): {plan['model']} on {device.name}"
        disk = ", ".join(f"{name} {human_bytes(size)}" for name, size in plan["disk"].items() if size)
        out.print(table_of(plan, title, facts, "a smaller max_length, adapter: lora", disk, price))
    if plans and not device.cpu:
        out.print(
            "The speed of tuning on accelerators is an assumption: no measured run stands behind it.", soft_wrap=True
        )
