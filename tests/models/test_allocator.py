"""Freed memory stays with a training process until it is to be given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """
import psutil, resource, sys, torch
from hanmo.models.allocator import keep_freed_memory, return_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):  # aligned blocks leave slivers, and only when glibc's cache of these is full are blocks taken again
    torch.ones(16_000_000)
before = faults()
for _ in range(5):
    torch.ones(16_000_000)
print(faults() - before)
kept = psutil.Process().memory_info().rss
assert return_freed_memory()
print(kept - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_large_tensors_no_longer_fault() -> None:
    def counted(word: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", COUNT, word], capture_output=True, text=True, check=True)
        return [int(line) for line in done.stdout.splitlines()]

    (kept, returned), (left, _) = counted("keep"), counted("leave")
    assert kept < 100 < left
    assert returned > 60_000_000, "what is kept is given back when asked for"
