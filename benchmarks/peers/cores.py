"""Which cores a benchmark runs on."""

from __future__ import annotations

import os


def settle(text: str | None) -> int:
    """Keep this process and its children to cores such as '0-3' or '0,2'; returns how many they may use.

    Where the system cannot pin processes, or nothing is asked for, they have what this one has.
    """
    import torch

    if text and hasattr(os, "sched_setaffinity"):
        parts = [part.split("-") for part in text.split(",")]
        os.sched_setaffinity(0, {core for part in parts for core in range(int(part[0]), int(part[-1]) + 1)})
    used = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(used)
    torch.set_num_threads(used)
    return used
