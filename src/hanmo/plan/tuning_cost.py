"""What the stages after pretraining will cost on a device: memory, time, energy, money and disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from hanmo.console import Console, console, human_bytes, human_count
from hanmo.errors import HanmoError
from hanmo.models.folder import resolve
from hanmo.plan import rewarded, tuning
from hanmo.plan.devices import USABLE, Device
from hanmo.plan.memory import Need
from hanmo.plan.own import CPU_PRICES as own_prices
from hanmo.plan.own import Own, own_task
from hanmo.plan.records import Records, prompts_of, records_of
from hanmo.plan.rewarded import Rewarded
from hanmo.plan.shape import Shape, of_config
from hanmo.plan.speed import efficiency
from hanmo.plan.task import Task, room_of
from hanmo.plan.telling import MARGIN, memory_of, table_of
from hanmo.plan.training import vocabulary_of
from hanmo.posttrain import own
from hanmo.posttrain.settings import AdapterSettings, DpoSettings, RewardSettings, RlSettings
from hanmo.pretrain.settings import PretrainSettings
from hanmo.recipe import Recipe, Stage

#: Prices on a CPU, as in `hanmo.plan.speed`: of FLOPs, of bytes that layers keep, and of bytes that the optimiser goes
#: through; fitted by benchmarks/plan_tuning.py.
CPU_PRICES = (1.31, 82.5, 35.0)
#: The planners of the stages that are planned here.
PLANNERS = (tuning.PLANNER, rewarded.PLANNER)
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
    """Plan the stages of a recipe after pretraining, which run on one device.

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
        if stage.kind.planner not in PLANNERS:
            continue
        config = _config(stage, stages, recipe.name)
        objective = own.objective_of_type(str(config.model_type))
        if objective and stage.kind.do != "sft":
            console.print(f"{stage.name}: {stage.kind.do} is not for {config.model_type}; not planned")
            continue
        if objective:
            task = own_task(stage.settings, config, objective, *_there(stage, "records"), device)  # type: ignore[arg-type]
            found.append({"stage": stage.name, "do": stage.kind.do} | plan_stage(task, device, mfu, price, watts))
            continue
        task = _task(stage, stages, config, device)
        if "teacher" in stage.sources:
            task = replace(task, teacher=_config(stage, stages, recipe.name, "teacher"))
        if isinstance(task, Rewarded) and "reward" in stage.sources:
            task = replace(task, judge=_config(stage, stages, recipe.name, "reward"))
        found.append(plan_stage(task, device, mfu, price, watts))
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
    pairs = isinstance(settings, DpoSettings | RewardSettings)
    paths, folder = _there(stage, "pairs" if pairs else "records")
    kind: Any
    look: Any
    kind, look = (Rewarded, prompts_of) if isinstance(settings, RlSettings) else (Task, records_of)
    records = look(settings, paths, folder, room) if paths else Records(room, answers=2 if pairs else 1)
    return kind(settings, config, records, room, device.width, device.cpu)


def _there(stage: Stage, role: str) -> tuple[list[Path], Path | None]:
    """A stage's files of records and its model's folder; none of them where an earlier stage makes some."""
    files, model = stage.sources[role], stage.sources["model"][0]
    paths = [path for path in files if isinstance(path, Path)]
    return paths if len(paths) == len(files) else [], resolve(model) if isinstance(model, Path) else None


def plan_stage(
    task: Task,
    device: Device,
    mfu: float | None = None,
    price: float | None = None,
    watts: float | None = None,
) -> dict[str, Any]:
    """Plan one stage; see `plan_tuning`."""
    settings = task.settings
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
    tokens = task.learnt_tokens
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
        "tokens": round(task.learnt_tokens) or None,
        "steps": task.steps or None,
        "device": device.name,
        "device_flops": device.rate,
        "fits": changed is not None,
        "settings": changed,
        "layout": {
            "micro_batch": micro,
            "recompute": "layers" if again else "none",
            "accumulation": task.whole // micro,
        },
        "memory": _memory(task, micro, again, wants, room),
        "mfu": used,
        "tokens_per_second": rate,
        "hours": hours,
        "kwh": None if power is None or hours is None else power * hours / 1000,
        "cost": None if price is None or hours is None else price * hours,
        **_answers(task, rate, device),
        "disk": {"model": 4 * seen.parameters if plain else 0, "adapter": 4 * seen.trained if adapted else 0},
    }


def _answers(task: Task, rate: float, device: Device) -> dict[str, Any]:
    """Of a stage that writes answers: how many in a step, their tokens, and the share of the time for it."""
    if not isinstance(task, Rewarded):
        return {}
    shape = task.shape
    share = rate * task.writing_seconds(shape, device)
    return {"answers": {"count": task.settings.batch_size, "tokens": task.answer, "share_of_time": round(share, 3)}}


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
    if isinstance(task, Rewarded):
        others = {name.replace(" ", "_"): wants.parts.get(name, 0.0) for name in ("reference model", "reward model")}
        parts |= others | {"writing_answers": task.writing}
    return memory_of(wants, without, with_, room, parts)


def work(task: Task, shape: Shape, micro: int, again: bool) -> tuple[float, float, float]:
    """FLOPs and passing bytes of a token, and bytes that a step's optimiser goes through."""
    seen = task.rehearsed(micro, again)
    # Forward, the gradient to what came in, and that to the weights: the last only of those that learn.
    parts = 2 + seen.trained / seen.parameters + (1 if again else 0)
    flops = _model_flops(task, shape) / 3 * parts
    if isinstance(task, Rewarded):
        flops += task.judging_work(shape)
    if task.teacher is not None:  # reads what the student reads, and learns nothing
        flops += of_config(str(task.teacher.model_type), task.teacher, task.records.longest).flops / 3
    return flops, task.passing(micro, again), 20.0 * seen.trained


def speed(task: Task, micro: int, again: bool, device: Device, mfu: float | None) -> tuple[float, float]:
    """Tokens a second, and the model FLOPs that makes of the device's rate."""
    shape = task.shape
    flops, kept, update = work(task, shape, micro, again)
    useful = flops_of_learning(task, shape, micro)
    if device.cpu and mfu is None:
        amounts = (flops, kept, update / task.step_tokens)
        prices = own_prices if isinstance(task, Own) else CPU_PRICES
        seconds = sum(price * amount for price, amount in zip(prices, amounts, strict=True)) / device.rate
        seconds += task.writing_seconds(shape, device) if isinstance(task, Rewarded) else 0
        return 1 / seconds, useful / seconds / device.rate
    used = mfu if mfu is not None else EAGER * efficiency(shape, device) * useful / flops
    if isinstance(task, Rewarded) and mfu is None:
        used = 1 / (1 / used + task.writing_seconds(shape, device) * device.rate / useful)
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
        smaller = "a smaller max_length, adapter: lora"
        if answers := plan.get("answers"):
            smaller = "fewer prompts, generations or answer_tokens"
            facts["a step"] = (
                f"{answers['count']} answers of up to {answers['tokens']} tokens, whose writing takes "
                f"{answers['share_of_time']:.0%} of the time"
            )
        title = f"{plan['stage']} ({plan['do']}): {plan['model']} on {device.name}"
        disk = ", ".join(f"{name} {human_bytes(size)}" for name, size in plan["disk"].items() if size)
        out.print(table_of(plan, title, facts, smaller, disk, price))
    if plans and not device.cpu:
        out.print(
            "The speed of tuning on accelerators is an assumption: no measured run stands behind it.", soft_wrap=True
        )
