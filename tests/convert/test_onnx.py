"""Encoders as ONNX: real onnxruntime says what the model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

import hanmo.convert.onnx as module
from hanmo.cli import cli
from hanmo.convert.onnx import write_onnx
from hanmo.errors import HanmoError
from hanmo.models.presets import build_config

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'hanmo[onnx]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'hanmo[onnx]'")

SMALL = {"layers": 2, "hidden": 32, "ffn": 64, "heads": 2, "kv_heads": 2, "head_dim": 16}


def saved(folder: Path, preset: str, cls: str, **more: Any) -> Path:
    torch.manual_seed(0)
    config = build_config(preset, 128, 128, **SMALL)
    for key, value in more.items():
        setattr(config, key, value)
    model: Any = getattr(transformers, cls)._from_config(config) if hasattr(transformers, cls) else None
    if model is None:
        model = transformers.AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.2)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n", encoding="utf-8")
    return folder


def test_texts_of_any_shape_give_the_models_logits(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "zhouwenwang-2m", "UnifiedForMaskedLM")
    done = CliRunner().invoke(cli, ["convert", "onnx", str(folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "onnx.json").read_text(encoding="utf-8"))
    assert told["files"]["model.onnx"]["difference"] < 1e-3 and told["files"]["model.onnx"]["same_choice"] == 1
    assert (tmp_path / "out" / "vocab.txt").is_file() and (tmp_path / "out" / "config.json").is_file()
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    ids = np.random.default_rng(1).integers(5, 128, (4, 21))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    model: Any = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        own = model(**{name: torch.from_numpy(array) for name, array in given.items()}).logits.numpy()
    np.testing.assert_allclose(session.run(None, given)[0], own, atol=2e-4 * float(own.std()))


def test_heads_and_eight_bits(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "erlangshen-2m", "MegatronBertForTokenClassification", num_labels=5)
    told = write_onnx(folder, tmp_path / "out", int8=True)
    exact, small = told["files"]["model.onnx"], told["files"]["model-int8.onnx"]
    assert exact["difference"] < 1e-3 < small["difference"] < 0.5
    assert small["bytes"] < 0.75 * exact["bytes"] and small["same_choice"] > 0.7
    reader = saved(tmp_path / "reader", "erlangshen-2m", "MegatronBertForQuestionAnswering")
    assert write_onnx(reader, tmp_path / "read")["outputs"] == ["start_logits", "end_logits"]


def test_what_is_no_encoder_or_differs_is_refused(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HanmoError, match="no encoder"):
        write_onnx(tiny_model_dir, tmp_path / "out")
    folder = saved(tmp_path / "model", "erlangshen-2m", "MegatronBertForSequenceClassification")
    monkeypatch.setattr(module, "_export", lambda *_: None)
    monkeypatch.setattr(module, "_compared", lambda *_: {"difference": 0.1})
    with pytest.raises(HanmoError, match="differ"):
        write_onnx(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
