"""Folders of our own classes: safetensors alone, a shared tensor once, and the same bits when they are read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.models.megatron_t5.config import MegatronT5Config
from hanmo.models.unified.config import UnifiedConfig

LINGLONG = {"vocab_size": 50, "n_position": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "attn_stride": 8, "attn_c": 2}
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 50}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
#: A configuration, the class that reads it, and the tensors that stand behind two names.
CASES = {
    "linglong": (LingLongConfig(**LINGLONG, attn_mode="sparse"), AutoModelForCausalLM, {"lm_head.weight"}),
    "linglong with pinyin": (LingLongConfig(**LINGLONG, use_pinyin=True), AutoModelForCausalLM, {"lm_head.weight"}),
    "unified": (UnifiedConfig(**WIDE), AutoModelForMaskedLM, {"lm_head.weight"}),
    "unified as a decoder": (UnifiedConfig(**WIDE), AutoModelForCausalLM, {"lm_head.weight"}),
    "megatron_t5": (
        MegatronT5Config(**T5, max_position_embeddings=32, decoder_start_token_id=1),
        AutoModelForSeq2SeqLM,
        {
            f"{half}.embed_tokens.{what}_embeddings.weight"
            for half in ("encoder", "decoder")
            for what in ("word", "position")
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["whole", "in shards", "bf16"])
def test_round_trip(tmp_path: Path, case: str, form: str) -> None:
    config, auto, shared = CASES[case]
    torch.manual_seed(0)
    model: Any = auto.from_config(config).eval()
    model.to(torch.bfloat16 if form == "bf16" else torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="20KB" if form == "in shards" else "1GB")
    files = sorted(path.name for path in tmp_path.iterdir())
    weights = [name for name in files if name.endswith(".safetensors")]
    assert (len(weights) > 1) == (form == "in shards") and not any(name.endswith((".bin", ".py")) for name in files)
    stored: list[str] = []
    for name in weights:
        with safe_open(tmp_path / name, framework="pt") as file:
            stored += file.keys()
    assert len(stored) == len(set(stored)) and set(stored) == set(model.state_dict()) - shared
    again, info = auto.from_pretrained(tmp_path, output_loading_info=True, dtype="auto")
    assert type(again) is type(model) and not any(info.values()) and again.dtype == model.dtype
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    # What was one parameter is one again: a step would not tear it in two.
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())
    read = AutoConfig.from_pretrained(tmp_path)
    assert type(read) is type(config) and read.vocab_size == 50
    ids = torch.tensor([[3, 7, 9, 11]])
    more = {"decoder_input_ids": torch.tensor([[1, 5]])} if "t5" in case else {}
    more |= {"pinyin_ids": ids} if "pinyin" in case else {}
    with torch.no_grad():
        assert torch.equal(again.eval()(ids, **more).logits, model(ids, **more).logits)
