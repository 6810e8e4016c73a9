"""Weights in 8 and 4 bits for vLLM: a stand-in rounds here, `benchmarks/vllm_quantised.py` has the real one."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hanmo.cli import cli
from hanmo.convert import vllm
from hanmo.convert.vllm import VARIABLE, write_vllm
from hanmo.errors import HanmoError
from hanmo.evaluate.heldout import draw

QWEN = {"hidden_size": 192, "num_attention_heads": 6, "head_dim": 32, "intermediate_size": 640}


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({}, 64),
        ({"hidden_size": 256, "head_dim": 64, "num_attention_heads": 4}, 128),
        ({"intermediate_size": 416}, 32),
        ({"head_dim": 3}, None),
        ({"intermediate_size": 50}, None),
    ],
)
def test_weights_that_share_a_scale_divide_every_row(change: dict[str, int], size: int | None) -> None:
    config = {**QWEN, **change}
    assert vllm._group_size(config) == size
    shared = vllm._scheme("int4", size)["weights"]
    assert shared["num_bits"] == 4 and shared.get("group_size") == size
    assert "input_activations" not in vllm._scheme("int4", size)


def test_gpt2_has_other_names() -> None:
    assert vllm._group_size({"n_embd": 768, "n_head": 12}) == 128


class Compressor:
    """Rounds every matrix to so many bits of a row's largest, as plainly as can be, and reads with what came of it."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.case: dict[str, Any] = {}

    def __call__(self, python: Path, case: dict[str, Any], room: Path) -> dict[str, str]:
        self.case = case
        out = Path(case["out"])
        weights = {}
        for name, weight in load_file(Path(case["model"], "model.safetensors")).items():
            if weight.dim() == 2 and "embed" not in name:
                step = weight.abs().amax(1, keepdim=True) / (2 ** (self.bits - 1) - 1)
                weight = (weight / step).round() * step
            weights[name] = weight.contiguous()
        save_file(weights, out / "model.safetensors", {"format": "pt"})
        (out / "config.json").write_text(Path(case["model"], "config.json").read_text())
        (out / "recipe.yaml").write_text("x")
        model: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        said = []
        with torch.inference_mode():
            for ids, start in zip(case["rows"], case["starts"], strict=True):
                said.append(model(torch.tensor([ids[:-1]])).logits[0, start - 1 :, : case["vocabulary"]].numpy())
        np.save(case["logits"], np.concatenate(said))
        return {"llmcompressor": "0"}


def test_the_folder_is_whole_and_measured(
    tiny_model_dir: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, sys.executable)
    found = {}
    for form, bits in (("int8", 8), ("int4", 4)):
        stand_in = Compressor(bits)
        monkeypatch.setattr(vllm, "_compress", stand_in)
        out = tmp_path / form
        found[form] = write_vllm(tiny_model_dir, out, form, corpus, tokens=1000, threads=1)
        assert json.loads((out / "vllm.json").read_text()) == found[form]
        assert (out / "tokenizer.json").read_bytes() == (tiny_model_dir / "tokenizer.json").read_bytes()
        assert not (out / "recipe.yaml").exists()
        assert 0 < sum(map(len, stand_in.case["samples"])) <= 1000
    eight, four = found["int8"], found["int4"]
    assert eight["original_bytes"] * 2 == pytest.approx(eight["bytes"], rel=0.02)  # the stand-in's are float32
    assert 0 < eight["kl"] < four["kl"] and four["same_choice"] < eight["same_choice"] <= 1
    assert eight["worse"] == pytest.approx(eight["bits_per_byte"] / eight["original_bits_per_byte"] - 1)

    # By hand: the whole held-out text, each document from its end-of-text token on.
    from hanmo.evaluate.bpb import document_end
    from hanmo.evaluate.likelihood import document_rows
    from hanmo.tokenizer import encode_text, load

    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "int4", dtype=torch.float32).eval()
    tokenizer = load(tiny_model_dir)
    nats = size = 0.0
    for text in draw(corpus, 10_000, 60_000)[0]:
        size += len(text.text.encode())
        for row in document_rows(encode_text(tokenizer, text.text), 256, document_end(tokenizer), 0):
            with torch.inference_mode():
                logits = model(torch.tensor(row.ids[None, :-1])).logits[0, row.start - 1 :, : len(tokenizer)].double()
            nats -= float(logits.log_softmax(-1)[range(len(logits)), row.ids[row.start :].tolist()].sum())
    assert four["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)


def test_a_failure_is_one_line_and_leaves_nothing(
    tiny_model_dir: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    given = [str(tiny_model_dir), "--out", str(tmp_path / "out"), "--corpus", str(corpus)]
    run = lambda form: CliRunner().invoke(cli, ["convert", "vllm", *given, "--format", form])  # noqa: E731
    assert "known: int8, int4" in str(run("int3").exception)
    if vllm.importlib.util.find_spec("llmcompressor") is None:
        assert "pip install llmcompressor, then" in str(run("int8").exception)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    assert f"{VARIABLE}={tmp_path / 'none'}: not a program" in str(run("int8").exception)
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho hm\necho no memory >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(broken))
    assert str(run("int8").exception) == "llm-compressor failed (no memory); nothing was written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["python"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"quantization_config": {"bits": 8}}, "quantised already"),
        ({"num_experts": 8}, r"mixture of experts \(num_experts\)"),
        ({"model_type": "linglong"}, "vLLM does not know this class"),
    ],
)
def test_what_cannot_be_rounded_is_said(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **QWEN, **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(HanmoError, match=line):
        write_vllm(tmp_path, tmp_path / "out", "int8", tmp_path)
    assert not (tmp_path / "out").exists()
