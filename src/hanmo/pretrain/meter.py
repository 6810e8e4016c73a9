"""How fast a training goes, and where its time goes.

The yardstick is measured and not looked up: how many FLOP/s this device reaches in a large square matrix product in the
run's own dtype. MFU is the model's FLOP/s (`hanmo.models.flops`) by that, so that it tells how much of what the machine
can do the training uses, on a laptop as on an accelerator, also where the machine is throttled or shared.

On accelerators that have timed events, parts of a step are timed by these on the device, since the host only hands work
in; the device is waited for once a line of the log and not once a step.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from hanmo.console import human_count, human_seconds
from hanmo.pretrain.precision import matmul_rate, short_name

#: Parts that the device does while the host goes on; the others are the host's own.
ON_DEVICE = frozenset({"forward", "backward", "optimiser"})
#: Parts that are no training: the rate is that of the time without them.
APART = frozenset({"look", "checkpoint"})


@dataclass(frozen=True)
class Yardstick:
    """FLOP/s of a product of two square matrices of that size, the best of several.

    Attributes:
        device: its type and, where it has one, its name.
        threads: that the CPU computes with; 0 where another device computes.
    """

    flops_per_second: float
    size: int
    dtype: str
    device: str
    threads: int

    @staticmethod
    def kind(device: torch.device, dtype: torch.dtype) -> tuple[str, int, str]:
        """(device, threads, dtype): what a figure must share to be measured by the same yardstick."""
        if device.type == "cpu":
            return "cpu", torch.get_num_threads(), short_name(dtype)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return name, 0, short_name(dtype)


@functools.cache
def _measured(device: torch.device, dtype: torch.dtype, kind: tuple[str, int, str]) -> Yardstick:
    # 4096 where that takes less than a second, which a small product tells.
    rate = matmul_rate(device, dtype, size=512, seconds=0.02)
    size = next((size for size in (4096, 2048) if 2 * size**3 / rate < 1), 1024)
    rate = matmul_rate(device, dtype, size=size, seconds=0.5)
    name, threads, kept = kind
    return Yardstick(float(round(rate)), size, kept, name, threads)


def measure(device: torch.device, dtype: torch.dtype) -> Yardstick:
    """The yardstick of a device, measured once a process (about a second)."""
    return _measured(device, dtype, Yardstick.kind(device, dtype))


class Meter:
    """Counts tokens and seconds between the lines of a log.

    Args:
        device: that computes.
        flops_per_token: of forward and backward pass.
        yardstick: of one device; without one there is no MFU.
        processes: that train together, each on such a device (or such a part of one).
    """

    def __init__(
        self, device: torch.device, flops_per_token: int, yardstick: Yardstick | None = None, processes: int = 1
    ) -> None:
        self._device, self.flops_per_token, self._processes = device, flops_per_token, processes
        self.yardstick = yardstick
        self._events = _has_events(device)
        self._rates: list[float] = []
        self._restart()

    def _restart(self) -> None:
        self._began = time.perf_counter()
        self._tokens = 0
        self._seconds: dict[str, float] = {}
        self._pending: list[tuple[str, torch.Event, torch.Event]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block under `name`."""
        if self._events and name in ON_DEVICE:
            start, end = (torch.Event(self._device, enable_timing=True) for _ in range(2))
            start.record()
            try:
                yield
            finally:
                end.record()
                self._pending.append((name, start, end))
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def begin(self) -> None:
        """Start counting here."""
        self._restart()

    def count(self, tokens: int) -> None:
        """A step saw so many tokens, all processes together."""
        self._tokens += tokens

    def flush(self) -> dict[str, Any]:
        """The figures since the last call.

        Returns:
            tokens_per_second: while training (looks and checkpoints aside); model_flops_per_second and mfu from it;
            shares: of the whole time, by part, "other" for the rest; memory_mb.
        """
        if self._pending:
            self._pending[-1][2].synchronize()
            for name, start, end in self._pending:
                self._seconds[name] = self._seconds.get(name, 0.0) + start.elapsed_time(end) / 1000
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        apart = sum(self._seconds.get(name, 0.0) for name in APART)
        rate = self._tokens / max(elapsed - apart, 1e-9)
        self._rates.append(rate)
        shares = {name: round(seconds / elapsed, 4) for name, seconds in self._seconds.items()}
        # Parts of the device and of the host overlap, so that nothing may be left.
        shares["other"] = round(max(0.0, 1 - sum(shares.values())), 4)
        self._restart()
        return {**self._speed(rate), "shares": shares, "memory_mb": round(memory(self._device) / 1e6, 1)}

    def _speed(self, rate: float) -> dict[str, float]:
        flops = rate * self.flops_per_token
        found = {"tokens_per_second": round(rate, 1), "model_flops_per_second": float(round(flops))}
        if self.yardstick:
            found["mfu"] = round(flops / (self.yardstick.flops_per_second * self._processes), 4)
        return found

    def summary(self) -> dict[str, float]:
        """Speed of this process's lines: their median, which neither compiling nor a busy moment moves."""
        return self._speed(statistics.median(self._rates)) if self._rates else {}


def in_words(seconds: float, tokens: int, figures: dict[str, Any], yardstick: Yardstick | None, left_out: str) -> str:
    """The summary of a run in one line.

    Args:
        seconds, tokens: of the whole run, earlier tries included.
        figures: `Meter.summary()`.
        left_out: what the guard did, in words; "" where it did nothing.
    """
    words = f"{human_count(tokens)} tokens in {human_seconds(seconds)}"
    if figures:
        words += f": {human_count(figures['tokens_per_second'])} tokens/s"
    if figures and yardstick:
        words += (
            f", MFU {figures['mfu']:.0%} ({_flops(figures['model_flops_per_second'])}; a {yardstick.size}^3 "
            f"{yardstick.dtype} product here: {_flops(yardstick.flops_per_second)})"
        )
    return f"{words}; {left_out}" if left_out else words


def _flops(rate: float) -> str:
    """3.2e11 -> '320.00 GFLOP/s'."""
    number, unit = human_count(rate), ""
    if number[-1].isalpha():
        number, unit = number[:-1], number[-1].replace("B", "G")
    return f"{number} {unit}FLOP/s"


def memory(device: torch.device) -> int:
    """Bytes: an accelerator's peak since the process began, or this process's resident size on a CPU."""
    if device.type == "cpu":
        return psutil.Process().memory_info().rss
    try:
        return torch.accelerator.max_memory_allocated(device)
    except (RuntimeError, NotImplementedError):  # a back end without such statistics
        return psutil.Process().memory_info().rss


def _has_events(device: torch.device) -> bool:
    """Whether the device can say when a piece of work began and ended."""
    if device.type == "cpu":
        return False
    try:
        start, end = (torch.Event(device, enable_timing=True) for _ in range(2))
        start.record()
        end.record()
        end.synchronize()
        start.elapsed_time(end)
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return True
