"""What is free: limits of control groups and of the process; devices by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hanmo.errors import HanmoError
from hanmo.plan.devices import group_rooms, host_room, look_up

MB = 10**6


def group(folder: Path, limit: str, used: int, cache: int, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n", encoding="ascii")
    (folder / names[1]).write_text(f"{used}\n", encoding="ascii")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n", encoding="ascii")


def test_every_group_above_counts(tmp_path: Path) -> None:
    v2 = ("memory.max", "memory.current")
    group(tmp_path / "job", str(900 * MB), 500 * MB, 100 * MB, v2)
    group(tmp_path / "job" / "step", "max", 400 * MB, 0, v2)
    own = tmp_path / "own"
    own.write_text("0::/job/step\n", encoding="ascii")
    assert group_rooms(50 * MB, tmp_path, own) == [900 * MB - 400 * MB + 50 * MB], "cached files are given back"


def test_the_older_interface(tmp_path: Path) -> None:
    v1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(tmp_path / "memory" / "job", str(700 * MB), 200 * MB, 0, v1)
    group(tmp_path / "memory", str(9223372036854771712), 900 * MB, 0, v1)
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/job\n2:memory:/job\n", encoding="ascii")
    assert group_rooms(0, tmp_path, own) == [500 * MB]


def test_the_smallest_limit_is_the_room() -> None:
    free = host_room(own=0, limits=[])
    assert 10 * MB < free < 10**14
    assert host_room(own=0, limits=[3 * MB, 5 * MB]) == 3 * MB


@pytest.mark.skipif(sys.platform != "linux", reason="limits of processes as Linux has them")
def test_a_limit_of_the_process_is_seen() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (700_000_000,) * 2)\n"
        "from hanmo.plan.devices import host_room; print(host_room())"
    )
    room = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 400 * MB < room <= 700 * MB


def test_names() -> None:
    assert look_up("H100").rate == 989e12 and look_up("t4").memory < look_up("v100").memory
    with pytest.raises(HanmoError, match=r"--device h1000: unknown; did you mean 'h100'\?"):
        look_up("h1000")
