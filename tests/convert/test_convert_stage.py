"""The stage: its settings, its files, its counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hanmo.convert.settings import ConvertSettings
from hanmo.convert.stage import run


def test_writes_one_file_for_each_format_and_counts(tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "convert"
    out.mkdir()
    (out / "model-bf16.gguf").write_bytes(b"of an earlier try")
    (out / ".model-f32.gguf.123.tmp").write_bytes(b"of a killed try")
    counts = run(ConvertSettings(), {"model": [tiny_model_dir]}, out)
    assert sorted(path.name for path in out.iterdir()) == ["model-f16.gguf", "model-f32.gguf", "model-q8_0.gguf"]
    for form, file in counts["files"].items():
        assert file["file"] == f"model-{form}.gguf"
        assert file["bytes"] == (out / file["file"]).stat().st_size
        assert file["tensors"] == 46 and file["instead"] == {}
    assert counts["files"]["q8_0"]["bytes"] < counts["files"]["f16"]["bytes"] < counts["files"]["f32"]["bytes"]


def test_a_misspelt_format_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match="format 'q8_O' is unknown; did you mean 'q8_0'"):
        ConvertSettings(formats=["f16", "q8_O"])
    with pytest.raises(ValidationError, match="at least one"):
        ConvertSettings(formats=[])
    assert ConvertSettings(formats=["f16", "f16"]).formats == ["f16"]
    assert ConvertSettings.model_validate({"formats": "f16, q8_0"}).formats == ["f16", "q8_0"]
