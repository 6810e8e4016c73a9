"""Which arithmetic a device is fast in: found by timing it, not by its name."""

from __future__ import annotations

import functools
import time

import torch


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the machine's accelerator (CUDA, MPS, Ascend, ...) where there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator if accelerator is not None else torch.device("cpu")


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.15) -> float:
    """FLOP/s of a square matrix product of that size, the best of as many tries as fit into `seconds`."""
    left = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        _synchronize(device)
        start = time.perf_counter()
        _ = left @ left
        _synchronize(device)
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return 2 * size**3 / best


def bf16_gain(device: torch.device, size: int = 512, seconds: float = 0.4) -> float:
    """How many times as fast a bf16 product is as an fp32 one.

    The two take turns, one CPU thread does them, and the best time of each counts: on a machine that does other work as
    well, timing one after the other on all threads was seen to come out the wrong way round.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _gain(device, size, seconds)
    finally:
        torch.set_num_threads(threads)


def _gain(device: torch.device, size: int, seconds: float) -> float:
    left = {dtype: torch.randn(size, size, device=device).to(dtype) for dtype in (torch.bfloat16, torch.float32)}
    best = dict.fromkeys(left, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for dtype, matrix in left.items():
            _synchronize(device)
            start = time.perf_counter()
            _ = matrix @ matrix
            _synchronize(device)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]


@functools.cache
def choose(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """The dtype for matrix products: `fp32` and `bf16` as asked; `auto` is bf16 where it is at least 1.3 times as fast.

    Masters, optimiser state and reductions stay fp32 in either case.
    """
    if wanted == "fp32":
        return torch.float32
    if wanted == "bf16":
        return torch.bfloat16
    try:
        gain = bf16_gain(device)
    except (RuntimeError, TypeError):
        return torch.float32
    return torch.bfloat16 if gain >= 1.3 else torch.float32


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
