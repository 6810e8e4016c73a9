"""Saving a model on a disk that is full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hanmo.models.save import storage_errors


@pytest.mark.parametrize("code", [28, 112])
def test_a_full_disk_is_the_error_of_a_full_disk(code: int) -> None:
    with pytest.raises(OSError) as caught, storage_errors(Path("model")):
        raise SafetensorError(f"Error while serializing: I/O error: No space left on device (os error {code})")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == "model"


def test_other_faults_stay_what_they_are() -> None:
    with pytest.raises(SafetensorError), storage_errors(Path("model")):
        raise SafetensorError("shared tensors")
