"""Quantised files by real llama.cpp: their types, what importance does, how they compare with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from hanmo.cli import cli
from hanmo.convert import convert_gguf
from hanmo.convert.compare import compare, recommend
from hanmo.convert.importance import measure
from hanmo.convert.quantise import types_of
from hanmo.convert.settings import BLOCKS
from hanmo.convert.toy import PAGE
from hanmo.errors import HanmoError
from hanmo.tokenizer import encode_text, load

#: What a matrix of 128 columns stands in, which 256 does not divide.
IN_32 = {"q6_k": "Q8_0", "q5_k_m": "Q5_1", "q4_k_m": "Q5_0", "q4_0": "Q4_0", "iq4_xs": "IQ4_NL"}


@pytest.mark.parametrize("form", BLOCKS)
def test_rows_that_do_not_divide_stand_in_blocks_of_32(llama_cpp: Any, gguf_files: dict[str, Path], form: str) -> None:
    types, instead = types_of(gguf_files[form], form)
    assert IN_32[form] in types and "F32" in types
    assert form == "q4_0" or len(instead[IN_32[form]]) > 10
    assert gguf_files[form].stat().st_size <= gguf_files["q8_0"].stat().st_size


def test_importance_is_the_mean_square_of_what_a_matrix_reads(trained_model_dir: Path, corpus: Path) -> None:
    found = measure(trained_model_dir, corpus, tokens=30)
    model: Any = AutoModelForCausalLM.from_pretrained(trained_model_dir, dtype=torch.float32)
    ids = encode_text(load(trained_model_dir), PAGE)[:30]
    with torch.no_grad():
        inner = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        first = model.model.layers[0].input_layernorm(inner.hidden_states[0])[0]
        last = inner.last_hidden_state[0]
    for name, seen in (("blk.0.attn_q.weight", first), ("output.weight", last), ("token_embd.weight", last)):
        np.testing.assert_allclose(found[name], seen.square().mean(0).numpy(), rtol=1e-4)
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in found.values())
    assert len(found) == 7 * model.config.num_hidden_layers + 2


def test_what_is_important_is_rounded_with_more_care(
    llama_cpp: Any, gguf_files: dict[str, Path], trained_model_dir: Path, tmp_path: Path
) -> None:
    name, rest = "blk.0.ffn_up.weight", np.full(128, 0.01, np.float32)
    rest[::16] = 100.0
    convert_gguf(trained_model_dir, tmp_path / "with.gguf", "iq4_xs", importance={name: rest})
    exact = _matrix(gguf_files["f32"], name)
    weighed = [
        float((rest * np.square(_matrix(path, name) - exact)).sum())
        for path in (tmp_path / "with.gguf", gguf_files["iq4_xs"])
    ]
    assert weighed[0] < 0.8 * weighed[1]
    other = "blk.0.ffn_gate.weight"
    np.testing.assert_array_equal(_matrix(tmp_path / "with.gguf", other), _matrix(gguf_files["iq4_xs"], other))


def _matrix(path: Path, name: str) -> np.ndarray:
    """The weights that a file stands for, [rows, columns]."""
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def test_comparing_says_what_each_file_costs(
    llama_cpp: Any, gguf_files: dict[str, Path], trained_model_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    files = [str(gguf_files[form]) for form in ("f32", "q8_0", "q4_0")]
    exam = tmp_path / "exam.jsonl"
    item = {"id": "a", "category": "c", "kind": "short", "question": "“大”的反义词是什么？", "answer": "小"}
    exam.write_text(json.dumps(item, ensure_ascii=False) + "\n", encoding="utf-8")
    given = ["--model", str(trained_model_dir), "--corpus", str(corpus), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, ["convert", "compare", *files, *given, "--exam", str(exam)], catch_exceptions=False)
    assert done.exit_code == 0 and "recommended: " in done.output
    result = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    f32, q8_0, q4_0 = result["files"]
    assert [one["name"] for one in result["files"]] == ["f32", "q8_0", "q4_0"]
    assert abs(f32["worse"]) < 1e-3 and f32["kl"] < 1e-4 and f32["same_choice"] > 0.99
    assert f32["kl"] < q8_0["kl"] < q4_0["kl"]
    assert f32["bytes"] > q8_0["bytes"] > q4_0["bytes"]
    assert all(one["tokens_per_second"] > 0 and one["exam"]["items"] == 1 for one in result["files"])
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert all(f"<bdi>{one['name']}</bdi>" in page for one in result["files"])


def test_recommended_is_the_smallest_that_is_as_good() -> None:
    files = [
        {"name": "f16", "bytes": 100, "worse": 0.0},
        {"name": "q8", "bytes": 50, "worse": 0.009},
        {"name": "q4", "bytes": 30, "worse": 0.02},
    ]
    assert recommend(files)["recommended"] == "q8"
    assert recommend(files[2:])["recommended"] is None


def test_no_files_and_files_of_one_name_are_refused(tmp_path: Path, trained_model_dir: Path, corpus: Path) -> None:
    with pytest.raises(HanmoError, match=r"no \.gguf file"):
        compare([tmp_path], trained_model_dir, corpus, tmp_path / "out")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model-f16.gguf").write_bytes(b"GGUF")
    with pytest.raises(HanmoError, match="given twice"):
        compare([tmp_path / "a", tmp_path / "b"], trained_model_dir, corpus, tmp_path / "out")
