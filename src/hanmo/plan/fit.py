"""Settings of pretraining under which it fits into memory: before a run (`--fit`), at its start (`recompute: auto`),
and as the advice of the message when memory ran out.

What is chosen are settings that change the speed alone: `micro_tokens`, `recompute`, `lanes` and `parallel`. A run that
died can therefore go on with them from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanmo import ranks
from hanmo.console import console, human_bytes
from hanmo.files import read_json
from hanmo.models.families import learns
from hanmo.plan import devices
from hanmo.plan.devices import Device, here
from hanmo.plan.memory import Layout, Need, need, pieces, rows_of
from hanmo.plan.shape import Shape, of_folder, of_model, of_new
from hanmo.plan.speed import tokens_per_second
from hanmo.plan.telling import MARGIN, Found, advise, take
from hanmo.pool import cores
from hanmo.pretrain.rows import lanes_for
from hanmo.pretrain.rules import batch_tokens
from hanmo.pretrain.settings import PretrainSettings

if TYPE_CHECKING:
    from hanmo.pretrain.distributed import World

#: Tokens in a micro-batch at which fixed costs take half of the time, about.
FIXED = {True: 64, False: 1024}  # on a CPU; on an accelerator
#: Speed where threads share every operator, by that of lanes.
TOGETHER = 0.85


def layout_of(settings: PretrainSettings, device: Device, processes: int | None = None) -> Layout:
    """What the settings ask for on a device."""
    count = processes or settings.processes or (1 if device.cpu else device.count)
    batch = batch_tokens(settings)
    rows = rows_of(batch, settings.context, count)
    return Layout(
        batch_tokens=batch,
        micro_tokens=pieces(rows, settings.context, settings.micro_tokens) * settings.context,
        recompute=settings.recompute == "layers",
        # Of DeepSpeed's ways, the third cuts weights and so is as FSDP; what the others save is not counted.
        parallel="fsdp" if settings.parallel.startswith(("fsdp", "zero3")) else "ddp",
        processes=count,
        width=device.width,
        compiled=settings.compile,
        optimizer=settings.optimizer,
        cpu=device.cpu,
        lanes=_lanes(settings) if device.cpu and count == 1 else 1,
    )


def _lanes(settings: PretrainSettings) -> int:
    threads = settings.threads or cores()
    objective = learns(settings.preset)[0] if settings.objective == "auto" else settings.objective
    return min(settings.lanes or threads, threads) if settings.compile and objective == "causal" else 1


def choose(shape: Shape, asked: Layout, device: Device, below: float = float("inf")) -> tuple[Layout, Need] | None:
    """The fastest layout that fits; micro-batches at most as large as `asked`, and recomputing where that asks for it.

    Args:
        below: only layouts that need less than this, in bytes.

    Returns:
        (layout, what it needs), or None where not even one row of tokens fits.
    """
    most = min(below, share_of(device, asked) * MARGIN)
    found = [
        (layout, wants) for layout in layouts(asked, shape.context) if (wants := need(shape, layout)).total <= most
    ]

    def speed(item: tuple[Layout, Need]) -> float:
        micro = item[0].micro_tokens
        shared = TOGETHER if lanes_for(micro // shape.context, item[0].lanes) < asked.lanes else 1.0
        return tokens_per_second(shape, item[0], device) * shared * micro / (micro + FIXED[device.cpu])

    return max(found, key=speed, default=None)


def share_of(device: Device, layout: Layout) -> float:
    """Bytes of the device's memory that one process may have."""
    # Processes on a CPU share its memory; of accelerators each has one.
    return device.memory / (layout.processes if device.cpu else 1)


def layouts(asked: Layout, context: int) -> Iterator[Layout]:
    """`asked` and all that need less memory."""
    rows = rows_of(asked.batch_tokens, context, asked.processes)
    sizes = sorted({pieces(rows, context, micro) for micro in range(context, asked.micro_tokens + 1, context)})
    for parallel in {asked.parallel, "fsdp" if asked.processes > 1 else asked.parallel}:
        for recompute in {True, asked.recompute}:
            for lanes in {asked.lanes, 1}:
                for size in sizes:
                    micro = size * context
                    yield asked.with_(parallel=parallel, recompute=recompute, micro_tokens=micro, lanes=lanes)


def changes(asked: Layout, chosen: Layout) -> dict[str, Any]:
    """The settings that lead from one layout to the other."""
    found: dict[str, Any] = {}
    if chosen.micro_tokens != asked.micro_tokens:
        found["micro_tokens"] = chosen.micro_tokens
    if chosen.recompute and not asked.recompute:
        found["recompute"] = "layers"
    if chosen.lanes != asked.lanes:
        found["lanes"] = chosen.lanes
    if chosen.parallel != asked.parallel:
        found["parallel"] = chosen.parallel
    return found


def shape_of(settings: PretrainSettings, inputs: dict[str, list[Path]]) -> Shape:
    """The shape of the model that a pretraining stage trains."""
    if given := inputs.get("model"):
        return of_folder(given[0], settings.context)
    facts = read_json(inputs["data"][0] / "tokens.json")
    return of_new(settings, facts["vocab_size"])


def fitted(settings: PretrainSettings, inputs: dict[str, list[Path]]) -> PretrainSettings:
    """The settings with the batch layout that fits into what is free on this machine now (`--fit`).

    Raises:
        HanmoError: none does.
    """
    device = here(settings.device, settings.precision, rate=False)
    shape = shape_of(settings, inputs)
    asked = layout_of(_known(settings, inputs), device, ranks.size() if ranks.grouped() else None)
    has = share_of(device, asked)
    return take(
        settings, need(shape, asked), has, lambda: _other(shape, asked, device), lambda: _nothing(shape, asked, has)
    )


def _other(shape: Shape, asked: Layout, device: Device, below: float = float("inf")) -> Found | None:
    found = choose(shape, asked, device, below)
    return found and (changes(asked, found[0]), found[1])


def _known(settings: PretrainSettings, inputs: dict[str, list[Path]]) -> PretrainSettings:
    return settings.resolved(next(iter(inputs.get("model", [])), None))


def settle(settings: PretrainSettings, model: Any, world: World, dtype: Any) -> PretrainSettings:
    """Make `recompute: auto` to "none" or "layers", by the memory that the processes may have; all of them do alike."""
    if settings.recompute != "auto":
        return settings
    device = world.device
    known = Device(
        device.type, 1.0, devices.room(device), cpu=device.type == "cpu", width=dtype.itemsize, measured=True
    )
    shape = of_model(model, settings.preset, settings.context)
    asked = layout_of(settings, known, world.size)
    wants, has = need(shape, asked).total, share_of(known, asked)
    short = world.sum(float(wants > has * MARGIN))[0] > 0
    if short:
        console.print(
            f"memory: about {human_bytes(wants)} would be needed, {human_bytes(has)} can be had: layers are recomputed "
            "in the backward pass"
        )
    return settings.model_copy(update={"recompute": "layers" if short else "none"})


def explain(
    settings: PretrainSettings, inputs: dict[str, list[Path]], device: Device | None = None, sure: bool = True
) -> str:
    """What to change after memory ran out, as the second half of a line; empty where the plan has nothing to say.

    Args:
        device: with the memory that the run had; without it this machine's is looked at.
        sure: it is known that memory was the cause. Else there is no advice for a run that should have fitted well.
    """
    device = device or here(settings.device, settings.precision, rate=False)
    shape = shape_of(settings, inputs)
    asked = layout_of(_known(settings, inputs), device, ranks.size() if ranks.grouped() else None)
    wants, has = need(shape, asked), share_of(device, asked)
    return advise(
        f"micro-batches of {asked.micro_tokens} tokens",
        wants,
        has,
        sure,
        lambda: _other(shape, asked, device, 0.85 * wants.total),
        lambda: _nothing(shape, asked, has),
    )


def of_process(settings: PretrainSettings) -> Device:
    """The device that this process trains on, with the memory that the process may have."""
    return devices.of_process(settings.device, settings.precision, fp16=True)


def _nothing(shape: Shape, asked: Layout, has: float) -> str:
    least = min((need(shape, layout) for layout in layouts(asked, shape.context)), key=lambda wants: wants.total)
    more = "more processes" if asked.processes > 1 else "parallel: fsdp over several processes"
    return (
        f"even one row of {shape.context} tokens with recomputed layers needs about {human_bytes(least.total)} and "
        f"{human_bytes(has)} can be had: take a smaller preset, {more}, or a device with more memory"
    )
