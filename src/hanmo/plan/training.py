"""What the pretraining stages of a recipe will cost on given devices: memory, time, energy, money and disk."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanmo.console import Console, human_bytes, human_count
from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.plan.bits import beyond, expected_bits
from hanmo.plan.devices import USABLE, Device
from hanmo.plan.fit import changes, choose, layout_of, share_of
from hanmo.plan.memory import Layout, Need, detail, need
from hanmo.plan.shape import Shape, of_folder, of_new
from hanmo.plan.speed import tokens_per_second
from hanmo.plan.telling import MARGIN, memory_of, table_of
from hanmo.pretrain.settings import PretrainSettings
from hanmo.recipe import Recipe, Stage

#: Tokens that stand in for `vocab_size: auto`, which a plan cannot know before the corpus is there.
AUTO_VOCABULARY = 16384
#: Checkpoints that a run keeps: the two newest and that of the decay's start; one more while it is written.
CHECKPOINTS = 3


def plan_training(
    recipe: Recipe,
    device: Device,
    processes: int | None = None,
    mfu: float | None = None,
    price: float | None = None,
    watts: float | None = None,
) -> list[dict[str, Any]]:
    """Plan every pretraining stage of a recipe.

    Args:
        device: to train on.
        processes: devices that work together; without it as the stages have it.
        mfu: model FLOPs over the device's rate, where it is known; without it by the rules of `hanmo.plan.speed`.
        price: of one device for an hour, in any currency.
        watts: power of one device; without it the board's limit.

    Returns:
        One dict a stage, as `hanmo plan --json` prints it. "settings" are those to change so that it fits; None where
        nothing fits, with "layout" and "memory" of what was asked for.

    Raises:
        HanmoError: a stage whose model is not known before it runs.
    """
    stages = {stage.name: stage for stage in recipe.stages}
    found = []
    for stage in recipe.stages:
        if isinstance(stage.settings, PretrainSettings):
            shape = _shape(stage, stages, recipe.name)
            found.append(
                plan_stage(stage.settings, shape, device, processes, mfu, price, watts) | {"stage": stage.name}
            )
            found[-1]["disk"]["shards"] = _shards(stage, stages, shape)
            # Known of new decoders alone: what a model knows before, and what a mask costs, no run of ours says.
            if not stage.sources.get("model") and stage.settings.resolved(None).objective == "causal":
                found[-1]["bits_per_byte"] = expected_bits(shape.parameters, found[-1]["tokens"])
    return found


def plan_stage(
    settings: PretrainSettings,
    shape: Shape,
    device: Device,
    processes: int | None = None,
    mfu: float | None = None,
    price: float | None = None,
    watts: float | None = None,
) -> dict[str, Any]:
    """Plan one training; see `plan_training`."""
    asked = layout_of(settings, device, processes)
    usable = device if device.measured else replace(device, memory=device.memory * USABLE)
    room = share_of(usable, asked)
    wants, layout = need(shape, asked), asked
    settings_to_take: dict[str, Any] | None = {}
    if wants.total > room * MARGIN:
        chosen = choose(shape, asked, usable)
        if chosen is None:
            settings_to_take = None
        else:
            settings_to_take = changes(asked, chosen[0])
            layout, wants = chosen
    rate = tokens_per_second(shape, layout, device, mfu)
    steps = math.ceil(settings.tokens / asked.batch_tokens)
    tokens = steps * asked.batch_tokens
    hours = tokens / rate / 3600
    power = watts if watts is not None else device.watts
    machines = 1 if device.cpu else layout.processes
    state = detail(shape, layout.with_(parallel="ddp"))
    checkpoint = state["weights_fp32"] + state["optimiser_matrices"] + state["optimiser_others"]
    return {
        "model": shape.name,
        "parameters": shape.parameters,
        "parameters_by_part": {
            "embeddings": shape.embedding,
            "layers": shape.layers * shape.layer,
            "gains": shape.gains,
        },
        "vocabulary": shape.vocab,
        "flops_per_token": shape.flops,
        "tokens": tokens,
        "steps": steps,
        "device": device.name,
        "devices": layout.processes,
        "device_flops": device.rate,
        "fits": settings_to_take is not None,
        "settings": settings_to_take,
        "layout": _layout(layout),
        "memory": _memory(shape, layout, wants, room),
        "mfu": rate * shape.flops / device.rate / machines,
        "tokens_per_second": rate,
        "hours": hours,
        "kwh": None if power is None else machines * power * hours / 1000,
        "cost": None if price is None else machines * price * hours,
        "disk": {"checkpoints": CHECKPOINTS * checkpoint, "model": 4 * shape.parameters, "writing": checkpoint},
    }


def _layout(layout: Layout) -> dict[str, Any]:
    return {
        "micro_tokens": layout.micro_tokens,
        "recompute": "layers" if layout.recompute else "none",
        "parallel": layout.parallel,
        "processes": layout.processes,
        "accumulation": math.ceil(layout.batch_tokens / layout.processes / layout.micro_tokens),
    }


def _memory(shape: Shape, layout: Layout, wants: Need, room: float) -> dict[str, Any]:
    other = need(shape, layout.with_(recompute=not layout.recompute))
    with_, without = (wants, other) if layout.recompute else (other, wants)
    return memory_of(wants, without, with_, room, detail(shape, layout))


def _shape(stage: Stage, stages: dict[str, Stage], recipe: str) -> Shape:
    """The shape of the model that a stage trains."""
    settings = stage.settings
    assert isinstance(settings, PretrainSettings)
    if given := stage.sources.get("model"):
        source = given[0]
        if isinstance(source, Path):
            return of_folder(source, settings.context)
        before = stages[source]
        if not isinstance(before.settings, PretrainSettings):
            raise HanmoError(f"{recipe}: stage '{stage.name}' continues '{source}', whose model is not known yet")
        longer = before.settings.model_copy(update={"context": settings.context})
        return _shape(Stage(before.name, before.kind, longer, before.sources), stages, recipe)
    return of_new(settings, vocabulary_of(stage, stages, recipe))


def vocabulary_of(stage: Stage, stages: dict[str, Stage], recipe: str) -> int:
    """Tokens of the vocabulary that a stage's data will have."""
    data = stage.sources["data"][0]
    if isinstance(data, Path):
        return int(read_json(data / "tokens.json")["vocab_size"])
    source = stages[data].sources.get("tokenizer", [None])[0]
    if isinstance(source, Path):
        from hanmo.tokenizer import load

        return len(load(source))
    size = getattr(stages[source].settings, "vocab_size", None) if source else None
    if size is None:
        raise HanmoError(f"{recipe}: stage '{stage.name}': the vocabulary of '{data}' is not known before it is made")
    return AUTO_VOCABULARY if size == "auto" else size


def _shards(stage: Stage, stages: dict[str, Stage], shape: Shape) -> float:
    """Bytes of token shards: what is there, else what one pass over the budget takes."""
    width = 2 if shape.vocab <= 1 << 16 else 4
    data = stage.sources["data"][0]
    if isinstance(data, Path) and (data / "tokens.json").is_file():
        facts = read_json(data / "tokens.json")
        splits = [facts[name] for name in ("train", "heldout")]
        # Beside its tokens each document has its end, its bytes and its source.
        return sum(part["tokens"] * width + part["documents"] * (8 + 4 + 2) for part in splits)
    settings = stage.settings
    assert isinstance(settings, PretrainSettings)
    return float(settings.tokens * width)


def show(plans: list[dict[str, Any]], device: Device, price: float | None) -> None:
    """Print the plans for people."""
    out = Console()
    for plan in plans:
        count = f"{plan['devices']} x {device.name}" if plan["devices"] > 1 else device.name
        embeddings, layers = (plan["parameters_by_part"][name] for name in ("embeddings", "layers"))
        facts = {
            "parameters": f"{human_count(plan['parameters'])} ({human_count(embeddings)} embeddings of "
            f"{plan['vocabulary']} tokens, {human_count(layers)} in layers)",
            "training": f"{human_count(plan['tokens'])} tokens, {plan['steps']} steps",
            "FLOPs a token": human_count(plan["flops_per_token"]),
        }
        if bits := plan.get("bits_per_byte"):
            far = beyond(plan["parameters"], plan["tokens"])
            sure = "of held-out text like that of our runs" if far <= 1 else f"a guess: {far:,.0f} times our runs"
            facts["bits per byte"] = f"{bits[0]:.2f} to {bits[1]:.2f} ({sure})"
        disk = plan["disk"]
        on_disk = (
            f"shards {human_bytes(disk['shards'])}, checkpoints {human_bytes(disk['checkpoints'])} "
            f"({human_bytes(disk['writing'])} more while one is written), model {human_bytes(disk['model'])}"
        )
        title = f"{plan['stage']}: {plan['model']} on {count}"
        out.print(table_of(plan, title, facts, "a smaller preset, fsdp over more devices", on_disk, price))
    if plans and not device.cpu:
        out.print(_grounds(device), highlight=False, soft_wrap=True)


def _grounds(device: Device) -> str:
    """What the speed of an accelerator rests on."""
    if device.name in ("a100", "a100-40gb", "h100", "h200"):
        return "The speed is that of published runs of similar size; well and badly tuned ones are up to a third apart."
    return f"No published run on {device.name} stands behind its speed: it is taken to do as well as an A100."
