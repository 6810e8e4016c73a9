"""Which arithmetic a device is fast in: found by timing it, not by its name; and the scale that fp16 gradients need."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import torch

from hanmo.models import fp8


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


def gain(device: torch.device, dtype: torch.dtype, size: int = 512, seconds: float = 0.4) -> float:
    """How many times as fast a product in `dtype` is as an fp32 one; 0 where the device has none.

    The two take turns, one CPU thread does them, and the best time of each counts: on a machine that does other work as
    well, timing one after the other on all threads was seen to come out the wrong way round.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _gain(device, dtype, size, seconds)
    except (RuntimeError, TypeError):
        return 0.0
    finally:
        torch.set_num_threads(threads)


def _gain(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float:
    left = {one: torch.randn(size, size, device=device).to(one) for one in (dtype, torch.float32)}
    best = dict.fromkeys(left, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for one, matrix in left.items():
            _synchronize(device)
            start = time.perf_counter()
            _ = matrix @ matrix
            _synchronize(device)
            best[one] = min(best[one], time.perf_counter() - start)
    return best[torch.float32] / best[dtype]


#: Names of the dtypes in settings and logs.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def short_name(dtype: torch.dtype) -> str:
    """torch.bfloat16 -> "bf16"."""
    return next(name for name, one in DTYPES.items() if one == dtype)


@functools.cache
def choose(device: torch.device, wanted: str = "auto", fp16: bool = False) -> torch.dtype:
    """The dtype for matrix products: as asked, or by a probe.

    `auto` is bf16 where it is at least 1.3 times as fast as fp32; else, on an accelerator and where the caller has a
    `LossScaler` for its narrow range, fp16 where that is (V100, T4); else fp32. Masters, optimiser state and reductions
    stay fp32 in any case.

    `fp8` is bf16 for all but the products of linear layers (`hanmo.models.fp8`); `auto` never chooses it.

    Args:
        fp16: whether the caller can do with fp16.

    Raises:
        HanmoError: fp8 on a device without it.
    """
    if wanted == "fp8":
        fp8.check(device)
        return torch.bfloat16
    if wanted in DTYPES:
        return DTYPES[wanted]
    if gain(device, torch.bfloat16) >= 1.3:
        return torch.bfloat16
    # On a CPU fast fp16 products would be no fast step: norms, softmax and casts are slow there.
    if fp16 and device.type != "cpu" and gain(device, torch.float16) >= 1.3:
        return torch.float16
    return torch.float32


class LossScaler:
    """The factor that lifts fp16 gradients above the smallest number that fp16 has, found while training.

    Like `torch.amp.GradScaler` (Micikevicius et al., arXiv:1710.03740): the scale doubles after `interval` steps
    without an overflow; a step with one is left out and halves it. Whether there was one is read off the norm of the
    whole gradient, which is the same on all processes, and which the step computes anyway.
    """

    def __init__(self, scale: float = 2.0**16, interval: int = 2000) -> None:
        self.scale, self._interval = scale, interval
        self._sound = self.overflows = 0

    def overflowed(self, norm: float) -> bool:
        """Judge a step by its gradient's norm; True when it must be left out.

        At scale 1 there is nothing left to halve: such a step is not for this scaler to excuse.
        """
        if math.isfinite(norm):
            self._sound += 1
            if self._sound >= self._interval:
                self.scale, self._sound = min(self.scale * 2, 2.0**24), 0
            return False
        if self.scale <= 1:
            return False
        self.scale, self._sound = self.scale / 2, 0
        self.overflows += 1
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"scale": self.scale, "sound": self._sound, "overflows": self.overflows}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.scale, self._sound, self.overflows = state["scale"], state["sound"], state["overflows"]


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
