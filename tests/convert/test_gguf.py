"""The GGUF file itself: what stands in it, read back with gguf's own reader, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hanmo.convert import convert_gguf
from hanmo.convert import weights as stored
from hanmo.errors import HanmoError


def field(reader: gguf.GGUFReader, key: str) -> Any:
    found = reader.get_field(key)
    return None if found is None else found.contents()


@pytest.fixture
def model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))


def edit(path: Path, **changes) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    data.update(changes)
    path.write_text(json.dumps(data), encoding="utf-8")


def spoil_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_f32_holds_the_weights_exactly(tiny_model_dir: Path, tmp_path: Path) -> None:
    report = convert_gguf(tiny_model_dir, tmp_path / "m.gguf", "f32")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(report.path).tensors}
    assert len(tensors) == report.tensors
    with safe_open(str(tiny_model_dir / "model.safetensors"), framework="pt") as weights:
        assert len(list(weights.keys())) == len(tensors)
        for name, ours in (
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
            ("blk.3.attn_k_norm.weight", "model.layers.3.self_attn.k_norm.weight"),
            ("blk.3.ffn_down.weight", "model.layers.3.mlp.down_proj.weight"),
            ("output_norm.weight", "model.norm.weight"),
        ):
            assert np.array_equal(tensors[name].data, weights.get_tensor(ours).numpy())
    assert report.bytes == report.path.stat().st_size
    assert report.parameters == sum(int(tensor.n_elements) for tensor in tensors.values())


@pytest.mark.parametrize(("dtype", "kind"), [("f16", "F16"), ("bf16", "BF16"), ("q8_0", "Q8_0")])
def test_matrices_in_the_format_and_vectors_in_f32(tiny_model_dir: Path, tmp_path: Path, dtype: str, kind: str) -> None:
    report = convert_gguf(tiny_model_dir, tmp_path / "m.gguf", dtype)
    for tensor in gguf.GGUFReader(report.path).tensors:
        assert tensor.tensor_type.name == (kind if len(tensor.shape) == 2 else "F32")
    assert report.instead == {}


def test_metadata_and_vocabulary(tiny_model_dir: Path, tmp_path: Path) -> None:
    report = convert_gguf(tiny_model_dir, tmp_path / "m.gguf", "f16", name="翰墨小")
    reader = gguf.GGUFReader(report.path)
    expected = {
        "general.architecture": "qwen3",
        "general.name": "翰墨小",
        "general.license": None,
        "general.file_type": 1,
        "qwen3.context_length": 256,
        "qwen3.block_count": 4,
        "qwen3.embedding_length": 128,
        "qwen3.feed_forward_length": 384,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 32,
        "qwen3.attention.value_length": 32,
        "qwen3.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": (tiny_model_dir / "chat_template.jinja").read_text(encoding="utf-8"),
    }
    assert {key: field(reader, key) for key in expected} == expected
    assert field(reader, "qwen3.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    tokens, types = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    assert tokens[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert types[:3] == [gguf.TokenType.CONTROL] * 3
    # The tokenizer has 400 tokens, the embedding 448 rows.
    assert tokens[400:402] == ["[PAD400]", "[PAD401]"] and len(tokens) == 448
    assert types[399:401] == [gguf.TokenType.NORMAL, gguf.TokenType.UNUSED]
    assert report.padded_tokens == 48
    assert field(reader, "tokenizer.ggml.merges")[0].count(" ") == 1


def test_base_model_ends_with_the_document(model_dir: Path, tmp_path: Path) -> None:
    edit(model_dir / "generation_config.json", eos_token_id=[0])
    reader = gguf.GGUFReader(convert_gguf(model_dir, tmp_path / "m.gguf").path)
    assert field(reader, "tokenizer.ggml.eos_token_id") == 0
    assert field(reader, "tokenizer.ggml.eot_token_id") == 2


def test_the_model_card_gives_name_licence_and_languages(model_dir: Path, tmp_path: Path) -> None:
    card = (
        "---\nlicense: apache-2.0\nlanguage:\n- zh\ntags:\n- tiny\nmodel_name: 小墨\n"
        "base_model: 大墨\ndatasets:\n- laws\n- 诗\n---\n# 小墨\n"
    )
    (model_dir / "README.md").write_text(card, encoding="utf-8")
    reader = gguf.GGUFReader(convert_gguf(model_dir, tmp_path / "m.gguf").path)
    assert field(reader, "general.license") == "apache-2.0"
    assert field(reader, "general.name") == "小墨"
    assert field(reader, "general.languages") == ["zh"]
    assert field(reader, "general.base_model.0.name") == "大墨"
    assert [field(reader, f"general.dataset.{n}.name") for n in (0, 1)] == ["laws", "诗"]


def test_q8_rows_that_do_not_divide_stay_f16(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=400, hidden_size=64, intermediate_size=100, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=64, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    shutil.copytree(tiny_tokenizer_dir, tmp_path / "odd")
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "odd")
    report = convert_gguf(tmp_path / "odd", tmp_path / "m.gguf", "q8_0")
    assert report.instead == {"F16": ["blk.0.ffn_down.weight"]}
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(report.path).tensors}
    assert types["blk.0.ffn_down.weight"] == "F16" and types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["output.weight"] == "Q8_0"  # not tied: a matrix of its own


def test_sharded_bf16_weights(tiny_model_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="400KB")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "sharded")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    report = convert_gguf(tmp_path / "sharded", tmp_path / "m.gguf", "f32")
    embedding = gguf.GGUFReader(report.path).tensors[0]
    assert np.array_equal(embedding.data, model.state_dict()["model.embed_tokens.weight"].float().numpy())


def test_blocks_of_rows_give_the_same_file(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert_gguf(tiny_model_dir, tmp_path / "whole.gguf", "q8_0", name="x").path.read_bytes()
    monkeypatch.setattr(stored, "_BLOCK", 1000)
    assert convert_gguf(tiny_model_dir, tmp_path / "parts.gguf", "q8_0", name="x").path.read_bytes() == whole


# ---- what is refused ------------------------------------------------------------------------------------------------


def refused(model_dir: Path, tmp_path: Path, dtype: str = "f16") -> str:
    """The error's line; nothing may be left behind."""
    with pytest.raises(HanmoError) as caught:
        convert_gguf(model_dir, tmp_path / "out" / "m.gguf", dtype)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_format(model_dir: Path, tmp_path: Path) -> None:
    assert "did you mean 'q8_0'" in refused(model_dir, tmp_path, "q8-0")


def test_unknown_architecture(model_dir: Path, tmp_path: Path) -> None:
    edit(model_dir / "config.json", architectures=["MambaForCausalLM"])
    message = refused(model_dir, tmp_path)
    assert "MambaForCausalLM" in message and "what can be converted: Qwen3ForCausalLM" in message


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "yarn"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"vocab_size": 512}, "vocab_size"),
        ({"num_hidden_layers": 5}, "missing"),
        ({"tie_word_embeddings": False}, "output.weight"),
    ],
)
def test_config_that_is_not_what_llama_cpp_runs(model_dir: Path, tmp_path: Path, change: dict, word: str) -> None:
    edit(model_dir / "config.json", **change)
    assert word in refused(model_dir, tmp_path)


def test_no_and_torn_weights(model_dir: Path, tmp_path: Path) -> None:
    path = model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    assert "torn" in refused(model_dir, tmp_path)
    path.unlink()
    assert "no such file" in refused(model_dir, tmp_path)


def test_not_a_number_and_too_large_for_f16(model_dir: Path, tmp_path: Path) -> None:
    spoil_weights(model_dir, lambda weights: weights["model.layers.1.mlp.up_proj.weight"].fill_(1e6))
    assert "beyond the range of F16; convert to bf16 or f32" in refused(model_dir, tmp_path)
    spoil_weights(model_dir, lambda weights: weights["model.norm.weight"].fill_(float("nan")))
    assert "NaN" in refused(model_dir, tmp_path, "f32")


def test_a_tensor_without_a_name_in_llama_cpp(model_dir: Path, tmp_path: Path) -> None:
    spoil_weights(model_dir, lambda weights: weights.update({"model.extra.weight": torch.ones(3)}))
    assert "model.extra.weight" in refused(model_dir, tmp_path)


def test_full_disk(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(self, file) -> None:
        written.append(self.name)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write(bytes(self.nbytes))

    monkeypatch.setattr(stored.Tensor, "tofile", write)
    message = refused(model_dir, tmp_path)
    assert "the disk is full" in message and "m.gguf" in message
