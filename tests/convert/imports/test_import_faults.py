"""What is torn, wrong or ambiguous: one line, nothing half-written; and what does not fit is named."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fabricated_checkpoints import folder, gpt2_shapes, hf_decoder_shapes, llama2_shapes
from hanmo.convert.imports import import_model
from hanmo.errors import HanmoError
from hanmo.files import read_json
from plain_references import fabricate

GPT2 = {"model_type": "gpt2", "n_head": 3}


def hanmo(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hanmo", "convert", "import", *words]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)


class _Hostile:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def _write(path: Path, case: str) -> Path:
    """A folder or file with the fault that `case` names."""
    weights = fabricate(gpt2_shapes())
    file = path / "weights"
    path.mkdir()
    match case:
        case "empty folder":
            return path
        case "two candidates":
            folder(path / "there", weights, GPT2)
            torch.save(weights, path / "there" / "other.pth")
            return path / "there"
        case "torn archive":
            torch.save(weights, file)
            file.write_bytes(file.read_bytes()[:-5000])
        case "torn old pickle":
            torch.save(weights, file, _use_new_zipfile_serialization=False)
            file.write_bytes(file.read_bytes()[:3000])
        case "torn safetensors":
            there = folder(path / "there", weights, GPT2)
            content = (there / "model.safetensors").read_bytes()
            (there / "model.safetensors").write_bytes(content[:-100])
            return there
        case "code in a pickle":
            torch.save({"h.0.attn.c_attn.weight": _Hostile()}, file)
        case "plain pickle":
            file.write_bytes(pickle.dumps({"a": Path("x")}, protocol=2))
        case "no state dict":
            torch.save({"epoch": 3}, file)
        case "empty file":
            file.touch()
        case "text":
            file.write_text("你好")
        case "LFS pointer":
            file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
        case "missing shard":
            index = path / "model.safetensors.index.json"
            index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
            return path
        case "wrong YAML":
            torch.save(weights, file)
            (path / "model.yaml").write_text("n_head: 3\n  n_layer: [\n")
        case "YAML list":
            torch.save(weights, file)
            (path / "model.yaml").write_text("- n_head\n")
        case "no heads":
            torch.save(weights, file)
        case "odd heads":
            torch.save(weights, file)
            (path / "config.json").write_text('{"n_head": 5}')
        case "heads no number":
            torch.save(weights, file)
            (path / "config.json").write_text('{"n_head": "many"}')
        case "unknown activation":
            torch.save(weights, file)
            (path / "config.json").write_text('{"n_head": 3, "activation_function": "zap"}')
        case "epsilon no number":
            torch.save(weights, file)
            (path / "config.json").write_text('{"n_head": 3, "layer_norm_epsilon": "small"}')
        case "scaled positions":
            config = {"model_type": "minimind", "num_attention_heads": 4, "inference_rope_scaling": True}
            return folder(path / "there", fabricate(hf_decoder_shapes()), config)
        case "lost head":
            config = {"num_attention_heads": 4, "tie_word_embeddings": False}
            return folder(path / "there", fabricate(hf_decoder_shapes(biased=True)), config)
        case "another shape":
            weights["h.1.ln_1.weight"] = torch.ones(7)
            torch.save(weights, file)
            (path / "config.json").write_text('{"n_head": 3}')
        case "lost layer":
            torch.save({k: v for k, v in fabricate(llama2_shapes(layers=3)).items() if "layers.1." not in k}, file)
            (path / "params.json").write_text('{"n_heads": 4}')
    return file


FAULTS = {
    "empty folder": "no weights in it",
    "two candidates": r"2 checkpoints in it \(model.safetensors, other.pth\)",
    "torn archive": "torn or no checkpoint of torch",
    "torn old pickle": "torn or no",
    "torn safetensors": "torn or no safetensors file",
    "code in a pickle": "only tensors and plain values are taken from pickles",
    "plain pickle": "the pickle wants pathlib.PosixPath",
    "no state dict": "no state dict in this pickle",
    "empty file": "an empty file",
    "text": "no weights known here",
    "LFS pointer": "a Git LFS pointer",
    "missing shard": "no such file, but model.safetensors.index.json names it",
    "wrong YAML": r"model.yaml:2: not YAML",
    "YAML list": "a configuration is a mapping",
    "no heads": "give the model's configuration with --config",
    "odd heads": "5 heads do not divide the width 24",
    "heads no number": "n_head: 'many' is no number above 0",
    "unknown activation": "GPT2LMHeadModel does not take this configuration",
    "epsilon no number": "GPT2Config does not take this configuration",
    "scaled positions": "inference_rope_scaling cannot be mapped exactly",
    "lost head": "lm_head.weight is missing",
    "another shape": r"transformer.h.1.ln_1.weight \[7\] for \[24\]",
    "lost layer": r"9 tensors missing \(model.layers.1",
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_one_line_and_leave_nothing(tmp_path: Path, case: str) -> None:
    source = _write(tmp_path / "case", case)
    config = tmp_path / "case" / "model.yaml"
    with pytest.raises(HanmoError, match=FAULTS[case]) as caught:
        import_model(source, tmp_path / "out", config=config if config.is_file() else None)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["case"] and not Path("ran").exists()


@pytest.mark.parametrize("form", ["safetensors", "archive", "old pickle"])
def test_cut_anywhere_is_one_line(tmp_path: Path, form: str) -> None:
    weights = fabricate(gpt2_shapes(layers=1))
    (tmp_path / "config.json").write_text('{"n_head": 3}')
    if form == "safetensors":
        save_file(weights, tmp_path / "weights")
    else:
        torch.save(weights, tmp_path / "weights", _use_new_zipfile_serialization=form == "archive")
    whole = (tmp_path / "weights").read_bytes()
    for length in sorted(random.Random(5).sample(range(len(whole) - 1), 25)):
        (tmp_path / "weights").write_bytes(whole[:length])
        with pytest.raises(HanmoError) as caught:
            import_model(tmp_path / "weights", tmp_path / "out")
        assert "\n" not in str(caught.value) and len(list(tmp_path.iterdir())) == 2


def test_leftovers_are_refused_by_name_and_listed_when_left_out(tmp_path: Path) -> None:
    weights = fabricate(gpt2_shapes() | {"adapter.weight": (3, 3), "h.0.attn.extra.weight": (2, 2)})
    source = folder(tmp_path / "there", weights, {**GPT2, "summary_type": "cls"})
    line = r"2 tensors without a place there \(adapter.weight, h.0.attn.extra.weight\); --no-strict"
    with pytest.raises(HanmoError, match=line):
        import_model(source, tmp_path / "out")
    record = import_model(source, tmp_path / "out", strict=False)
    assert record["unmapped"] == ["adapter.weight", "h.0.attn.extra.weight"]
    assert record["config_unused"] == ["summary_type"] and record == read_json(tmp_path / "out" / "import.json")


@pytest.mark.usefixtures("warm_stages")
def test_the_command_replaces_its_own_result_alone(tmp_path: Path) -> None:
    source = folder(tmp_path / "there", fabricate(gpt2_shapes()), None)
    settings = tmp_path / "gpt2.yaml"
    settings.write_text("n_head: 3\nlayer_norm_epsilon: 0.00001\n")
    out = tmp_path / "out"
    import_model(source, out, config=settings)
    done = hanmo(str(source), "--out", str(out), "--config", str(settings))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["class"] == "GPT2LMHeadModel"
    assert "GPT-2 -> GPT2LMHeadModel" in done.stderr and "no tokenizer taken" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(HanmoError, match="the folder is not empty"):
        import_model(source, tmp_path / "mine", config=settings)
    slip = hanmo(str(tmp_path / "nowhere"), "--out", str(out))
    assert slip.returncode == 2 and slip.stderr.strip().endswith("no such file or folder")


def test_a_tokenizer_for_more_rows_than_there_are_is_not_taken(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    source = folder(tmp_path / "there", fabricate(gpt2_shapes()), GPT2)
    with pytest.raises(HanmoError, match="a tokenizer of 400 tokens for 37 embeddings"):
        import_model(source, tmp_path / "out", tokenizer=tiny_tokenizer_dir)
    assert not (tmp_path / "out").exists()
