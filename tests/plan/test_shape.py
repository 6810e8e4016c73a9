"""Shapes: parameters by part as transformers builds them, of presets and of other projects' config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanmo.errors import HanmoError
from hanmo.models.presets import count_parameters
from hanmo.plan.shape import of_folder, of_new
from hanmo.pretrain.settings import PretrainSettings

#: The Chinese TinyLlama (Llama) and Tiny LLM zh's 92m (whose tensors are Qwen2's).
TINYLLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 65024,
    "tie_word_embeddings": False,
}
TINY_LLM = {
    "model_type": "qwen2",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 64798,
    "tie_word_embeddings": False,
}


def write_config(folder: Path, config: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["hanmo-1m", "hanmo-4m", "hanmo-1b5"])
def test_presets(name: str) -> None:
    shape = of_new(PretrainSettings(preset=name), 8192)
    assert shape.parameters == count_parameters(name, 8192)
    assert shape.embedding == 8192 * shape.hidden, "tied: one matrix serves both ends"
    attention = 12 * shape.layers * shape.query * 512
    assert shape.flops == 6 * shape.parameters + attention


def test_other_families_by_their_config(tmp_path: Path) -> None:
    llama = of_folder(write_config(tmp_path / "llama", TINYLLAMA), 2048)
    assert llama.parameters == 1_235_314_688 and llama.embedding == 2 * 65024 * 2048 and llama.key == 256
    qwen = of_folder(write_config(tmp_path / "qwen", TINY_LLM), 1024)
    assert qwen.parameters == pytest.approx(92.1e6, rel=1e-3)
    assert qwen.flops == 6 * (qwen.parameters - 64798 * 512) + 12 * 8 * 512 * 1024, "the input embedding is looked up"


def test_no_decoder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match=r"no model there"):
        of_folder(tmp_path, 512)
    with pytest.raises(HanmoError, match=r"config.json is of no decoder that can be planned"):
        of_folder(write_config(tmp_path, {"model_type": "vit"}), 512)
