"""A file system that is really full while checkpoints are written: the last good one survives, in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import weights  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.pretrain.trainer import Trainer

SIZE = 64 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, room for several checkpoints; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("left", [0.0, 0.5], ids=["no room", "room for half"])
def test_a_really_full_disk_loses_no_checkpoint(
    tiny_model, tiny_settings, tiny_order, tmp_path: Path, disk: Path, capfd: pytest.CaptureFixture[str], left: float
) -> None:
    out, ballast = tmp_path / "out", disk / "ballast"
    out.mkdir()
    (out / "checkpoints").symlink_to(disk / "checkpoints")
    (disk / "checkpoints").mkdir()
    often = tiny_settings.model_copy(update={"checkpoint_steps": 4})
    trainer = Trainer(tiny_model(), often, tiny_order, out, torch.float32)
    one_step = trainer._one_step

    def filling(rows, targets):
        if trainer.step == 6:
            trainer.store.wait()
            good = disk / "checkpoints" / "step-00000004"
            size = sum(path.stat().st_size for path in good.iterdir())
            ballast.write_bytes(bytes(shutil.disk_usage(disk).free - int(left * size)))
        return one_step(rows, targets)

    trainer._one_step = filling  # type: ignore[method-assign]
    with pytest.raises(HanmoError, match=r"^[^\n]*the last checkpoint could not be written \(the disk is full\); mend"):
        trainer.run()
    said = capfd.readouterr().err
    assert said.count("no checkpoint could be written (the disk is full)") == 4  # at 8, 12, 16 and the end
    assert "Traceback" not in said
    assert [path.name for path in (disk / "checkpoints").iterdir()] == ["step-00000004"]

    ballast.unlink()
    model, whole = tiny_model(), tiny_model()
    resumed = Trainer(model, often, tiny_order, out, torch.float32)
    assert resumed.resume() and resumed.step == 4
    resumed.run()
    undisturbed = Trainer(whole, often, tiny_order, tmp_path / "whole", torch.float32)
    undisturbed.run()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(model)[name]), name
