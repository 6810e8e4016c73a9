"""Devices to plan for: published figures of common ones, and what is measured and free on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanmo.errors import HanmoError, nearest

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    """A device.

    Attributes:
        name: as `--device` has it.
        rate: FLOP/s of dense matrix products in bf16 (fp16 where it has no bf16); 1 where nobody asked.
        memory: bytes that runs on it may take in all.
        watts: the board's power limit; None where unknown.
        cpu: it is a processor, with the host's memory.
        width: bytes of a number in the dtype that is fast on it.
        measured: rate and memory were measured here, not published.
        count: how many this machine has.
    """

    name: str
    rate: float
    memory: float
    watts: float | None = None
    cpu: bool = False
    width: int = 2
    measured: bool = False
    count: int = 1


#: Vendors' data sheets: dense rates without sparsity, the larger (SXM) form where there are several.
KNOWN = {
    item.name: item
    for item in (
        Device("h200", 989e12, 141e9, 700),
        Device("h100", 989e12, 80 * GIB, 700),
        Device("a100", 312e12, 80 * GIB, 400),
        Device("a100-40gb", 312e12, 40 * GIB, 400),
        Device("l40s", 362e12, 48 * GIB, 350),
        Device("a10", 125e12, 24 * GIB, 150),
        Device("l4", 121e12, 24 * GIB, 72),
        Device("v100", 125e12, 32 * GIB, 300),
        Device("v100-16gb", 125e12, 16 * GIB, 300),
        Device("t4", 65e12, 16 * GIB, 70),
        Device("rtx4090", 165e12, 24 * GIB, 450),
        Device("rtx3090", 71e12, 24 * GIB, 350),
    )
}
#: Share of a listed device's memory that a process can have: the driver keeps some, and blocks do not fit together.
USABLE = 0.96


def look_up(name: str) -> Device:
    """A device by name; `this` is the accelerator of this machine, else its CPU, and `cpu` always the CPU.

    Raises:
        HanmoError: the name is unknown.
    """
    name = name.lower()
    if name in KNOWN:
        return KNOWN[name]
    if name in ("this", "auto"):
        return here("auto")
    if name == "cpu":
        return here("cpu")
    known = [*KNOWN, "cpu", "this"]
    raise HanmoError(f"--device {name}: unknown{nearest(name, known)} (known: {', '.join(known)})")


def here(name: str = "auto", precision: str = "auto", rate: bool = True) -> Device:
    """A device of this machine as a process that starts now would find it.

    It is looked at in a process of its own, which leaves nothing behind: a CUDA context would take memory from the run.
    """
    command = [sys.executable, "-m", "hanmo.plan.devices", name, precision, "rate" if rate else ""]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HanmoError(f"device: {name}: cannot be looked at ({last[:200]})")
    return Device(**json.loads(done.stdout.splitlines()[-1]))


def probe(name: str, precision: str, rate: bool) -> dict[str, Any]:
    """What `here` says, found in this process."""
    import torch

    from hanmo.pretrain.precision import choose, matmul_rate, pick_device

    device = pick_device(name)
    dtype = choose(device, precision, fp16=True)
    cpu = device.type == "cpu"
    measured = matmul_rate(device, dtype, 2048 if cpu else 4096, 1.0) if rate else 1.0
    return {
        "name": "cpu" if cpu else device.type,
        "rate": measured,
        "memory": room(device),
        "cpu": cpu,
        "width": dtype.itemsize,
        "measured": True,
        "count": 1 if cpu else torch.accelerator.device_count(),
    }


def of_process(name: str, precision: str, fp16: bool = False) -> Device:
    """The device that this process computes on, with the memory that the process may have; see `precision.choose`."""
    from hanmo.pretrain.precision import choose, pick_device

    device = pick_device(name)
    width = choose(device, precision, fp16=fp16).itemsize
    return Device(device.type, 1.0, room(device), cpu=device.type == "cpu", width=width, measured=True)


def room(device: Any) -> float:
    """Bytes that this process may have in all on a torch device: what it has, and what is free.

    On an accelerator that does not tell, its whole memory is unknown and infinity is returned.
    """
    import torch

    if device.type == "cpu":
        return host_room()
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return float("inf")
    free, _ = module.mem_get_info(device)
    return free + torch.accelerator.memory_reserved(device)


def host_room(own: int | None = None, limits: list[float] | None = None) -> float:
    """Bytes of memory that this process may have in all: its own, and what the machine and its limits leave.

    Looked at are the free memory, the limits of the control groups this process is in, and its own (`ulimit`).
    """
    import psutil

    process = psutil.Process()
    taken = own if own is not None else anonymous_memory(process.memory_info().rss)
    found = [psutil.virtual_memory().available + taken, *(limits if limits is not None else group_rooms(taken))]
    found += _rlimits(process, taken)
    return max(0.0, min(found))


def anonymous_memory(otherwise: int) -> int:
    """Bytes of anonymous memory of this process; `otherwise` where the system does not tell them apart."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return otherwise
    return next((int(line.split()[1]) * 1024 for line in status.split("\n") if line.startswith("RssAnon:")), otherwise)


def group_rooms(
    taken: float, root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[float]:
    """What each control group above this process leaves it, `taken` included; both versions of the interface."""
    try:
        lines = own.read_text(encoding="utf-8").split()
    except OSError:
        return []
    found = []
    for line in lines:
        _, kinds, inside = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
        top = root / kinds if kinds else root
        folder = top / inside.lstrip("/")
        while True:
            try:
                limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in names)
                cache = _reclaimable(folder)
                # Version 1 writes "no limit" as a number near 2**63.
                if limit != "max" and int(limit) < 1 << 60:
                    found.append(int(limit) - max(0, int(used) - cache) + taken)
            except (OSError, ValueError):
                pass  # a group of another namespace, which is not shown here
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent
    return found


def _reclaimable(folder: Path) -> int:
    """Bytes of cached files that a group counts and the system drops when memory is short."""
    for line in (folder / "memory.stat").read_text(encoding="ascii").split("\n"):
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _rlimits(process: Any, taken: float) -> list[float]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    found = []
    memory = process.memory_info()
    for kind, counted in ((resource.RLIMIT_DATA, getattr(memory, "data", taken)), (resource.RLIMIT_AS, memory.vms)):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            # Stacks, libraries and reservations count although they are no memory.
            found.append(float(limit) - max(0, counted - taken))
    return found


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], sys.argv[2], sys.argv[3] == "rate")))
    sys.stdout.flush()
    os._exit(0)
