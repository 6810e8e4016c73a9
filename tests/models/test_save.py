"""Saving a model: a disk that is full, and who may read what was saved."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from hanmo.models.save import save_model, weights_written
from hanmo.tokenizer import load


@pytest.mark.parametrize("code", [28, 112])
def test_a_full_disk_is_the_error_of_a_full_disk(code: int) -> None:
    with pytest.raises(OSError) as caught, weights_written(Path("made"), Path("model")):
        raise SafetensorError(f"Error while serializing: I/O error: No space left on device (os error {code})")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == "model"


def test_other_faults_stay_what_they_are() -> None:
    with pytest.raises(SafetensorError), weights_written(Path("model")):
        raise SafetensorError("shared tensors")


def test_others_may_read_the_weights_where_they_may_read_the_rest(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    save_model(model, load(tiny_model_dir), tmp_path / "model", stops=[0])
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1
