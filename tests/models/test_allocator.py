"""Freed memory stays with a training process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from hanmo.models.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):  # aligned blocks leave slivers, and only when glibc's cache of these is full are blocks taken again
    torch.ones(16_000_000)
before = faults()
for _ in range(5):
    torch.ones(16_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_large_tensors_no_longer_fault() -> None:
    def faults(word: str) -> int:
        done = subprocess.run([sys.executable, "-c", COUNT, word], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 100 < faults("leave")
