"""What the plans of all stages that train tell alike: memory and costs as a table, and the settings to take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rich.table import Table

from hanmo.console import console, human_bytes, human_count, human_seconds
from hanmo.errors import HanmoError
from hanmo.plan.memory import Need

#: Share of the memory at hand that a plan may fill: it is off by some percent itself, and others take memory, too.
MARGIN = 0.92
#: Settings to change, and what the stage needs with them.
Found = tuple[dict[str, Any], Need]


def memory_of(wants: Need, without: Need, with_: Need, room: float, parts: dict[str, float]) -> dict[str, Any]:
    """The entry "memory" of a plan, in bytes.

    Args:
        wants: what the stage needs as it is planned; the next two: `without` and `with_` recomputed layers.
        room: what can be had; infinity where that is not known.
        parts: those that people ask for, which need not exist at the same moment.
    """
    return {
        "peak": wants.total,
        "room": room if math.isfinite(room) else None,
        "peak_at": wants.moment,
        "peak_without_recompute": without.total,
        "peak_with_recompute": with_.total,
        "parts": {name: round(value) for name, value in parts.items()},
        "process": wants.parts["process"],
        "slack": wants.slack,
        "moments": {name: round(value) for name, value in wants.moments.items()},
    }


def table_of(
    plan: dict[str, Any], title: str, facts: dict[str, str], smaller: str, disk: str, price: float | None
) -> Table:
    """A plan for people.

    Args:
        facts: rows that stand first.
        smaller: what helps where nothing fits.
        disk: the last row.
        price: of a device for an hour.
    """
    memory, several = plan["memory"], plan.get("devices", 1) > 1
    rows = dict(facts)
    room = "" if memory["room"] is None else f" of {human_bytes(memory['room'])}"
    rows["memory a device" if several else "memory"] = (
        f"{human_bytes(memory['peak'])}{room}, at its most: {memory['peak_at']}"
    )
    parts = memory["parts"].items()
    rows["its parts"] = ", ".join(f"{name.replace('_', ' ')} {human_bytes(size)}" for name, size in parts if size)
    rows["recomputing"] = (
        f"{human_bytes(memory['peak_without_recompute'])} without, {human_bytes(memory['peak_with_recompute'])} with it"
    )
    rows["layout"] = in_words(plan["layout"])
    if not plan["fits"]:
        rows["fits"] = f"no: {smaller}, or more memory is needed"
    elif plan["settings"]:
        rows["to take"] = in_words(plan["settings"])
    rows["speed"] = f"{human_count(plan['tokens_per_second'])} tokens/s, MFU {plan['mfu']:.0%}"
    if plan["hours"] is not None:
        rows["time"] = human_seconds(plan["hours"] * 3600)
    if plan["kwh"] is not None:
        whose = "boards'" if several else "board's"
        rows["energy"] = f"{plan['kwh']:.3g} kWh at the {whose} full power"
    if plan["cost"] is not None:
        rows["cost"] = f"{plan['cost']:.2f} at {price:g} a device and hour"
    rows["disk"] = disk
    table = Table(show_header=False, title=title, title_justify="left")
    for row in rows.items():
        table.add_row(*row)
    return table


def in_words(settings: dict[str, Any]) -> str:
    """`name: value, name: value`."""
    return ", ".join(f"{name}: {value}" for name, value in settings.items())


def take(settings: Any, wants: Need, has: float, find: Callable[[], Found | None], nothing: Callable[[], str]) -> Any:
    """The settings with those changed that make them fit (`--fit`), which is told.

    Args:
        wants: what the stage needs with the settings as they are.
        has: bytes that can be had.
        find: looks for changes that fit.
        nothing: says why there are none.

    Raises:
        HanmoError: there are none.
    """
    if wants.total <= has * MARGIN:
        console.print(f"fit: about {human_bytes(wants.total)} of {human_bytes(has)}; nothing to change")
        return settings
    found = find()
    if found is None:
        raise HanmoError(nothing())
    changed, then = found
    console.print(f"fit: {in_words(changed)} (about {human_bytes(then.total)} of {human_bytes(has)}; same result)")
    return settings.model_copy(update=changed)


def advise(
    what: str, wants: Need, has: float, sure: bool, find: Callable[[], Found | None], nothing: Callable[[], str]
) -> str:
    """What to change after memory ran out, as the second half of a line; empty where there is nothing to say.

    Args:
        what: is in a forward pass.
        sure: it is known that memory was the cause. Else there is no advice for a run that should have fitted well.
        wants, has, find, nothing: see `take`.
    """
    if not sure and wants.total < 0.6 * has:
        return ""
    found = find()
    if found is None:
        return nothing()
    changed, then = found
    return (
        f"{what} need about {human_bytes(wants.total)} and {human_bytes(has)} can be had: set {in_words(changed)} "
        f"(about {human_bytes(then.total)}, same result), or run it with --fit"
    )
