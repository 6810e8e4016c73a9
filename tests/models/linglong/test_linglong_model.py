"""LingLong as a class of transformers: parameters, fresh weights, folders, refusals."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.models.linglong.modeling import LingLongForCausalLM
from hanmo.models.parts import modules_of
from hanmo.models.presets import build_config


def test_fresh_weights() -> None:
    torch.manual_seed(0)
    model = LingLongForCausalLM(build_config("linglong-1m", 1024, 256, own={"use_pinyin": True}))
    assert model.lm_head.weight is model.transformer.wte.weight
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (1 if "ln_" in name and name.endswith("weight") else 0)).all(), name
        else:
            wanted = 0.02 / math.sqrt(2 * 4) if "c_proj" in name else 0.02
            assert abs(float(parameter.detach().std()) / wanted - 1) < 0.03, name


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_folders_load_by_the_auto_classes(make: Callable[..., Any], mode: str, tmp_path: Path) -> None:
    model = make(attn_mode=mode, use_pinyin=True)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights
    ids, pinyin = torch.randint(0, 50, (2, 30)), torch.randint(0, 20, (2, 30))
    wanted = model(ids, pinyin_ids=pinyin).logits
    # The published form may hold the tied head as well.
    for more in ({}, {"lm_head.weight": weights["transformer.wte.weight"].clone()}):
        save_file({**weights, **more}, tmp_path / "model.safetensors", {"format": "pt"})
        again, said = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert isinstance(again, LingLongForCausalLM) and again.lm_head.weight is again.transformer.wte.weight
        torch.testing.assert_close(again(ids, pinyin_ids=pinyin).logits, wanted, atol=0, rtol=0)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, LingLongConfig)
    assert (config.attn_mode, config.attn_stride, config.use_pinyin, config.n_position) == (mode, 8, True, 64)


@pytest.mark.parametrize("first", ["import hanmo", "import transformers.modeling_layers"])
def test_importing_hanmo_is_enough_in_any_order(first: str) -> None:
    code = f"{first}\nimport sys, hanmo\nlight = 'torch' not in sys.modules\nimport transformers\n"
    code += "c = transformers.AutoConfig.for_model('linglong', n_layer=1, n_embd=16)\n"
    code += "print(type(transformers.AutoModelForCausalLM.from_config(c)).__name__, light)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["LingLongForCausalLM", str(first == "import hanmo")]


def test_refusals(make: Callable[..., Any]) -> None:
    ids = torch.randint(0, 50, (1, 12))
    with pytest.raises(ValueError, match="pinyin_of"):
        make(use_pinyin=True)(ids)
    with pytest.raises(ValueError, match="no pinyin embedding"):
        make()(ids, pinyin_ids=ids)
    cache = make()(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="segment_ids"):
        make()(ids[:, :1], past_key_values=cache, segment_ids=ids[:, :1])
    with pytest.raises(ValueError, match="65 tokens are more than this model's 64"):
        make()(torch.zeros(1, 65, dtype=torch.int64))
    for odd in ({"attn_mode": "local"}, {"n_head": 5}, {"attn_c": 9}):
        with pytest.raises(Exception, match=next(iter(odd)) if "n_head" not in odd else "n_embd"):
            make(**odd)


def test_padding_on_either_side_changes_nothing(make: Callable[..., Any]) -> None:
    model = make(attn_mode="sparse")
    ids = torch.randint(1, 50, (1, 21))
    wanted = model(ids).logits
    filling = torch.zeros(1, 14, dtype=torch.int64)
    for parts, part in (((filling, ids), slice(14, None)), ((ids, filling), slice(0, 21))):
        row = torch.cat(parts, 1)
        found = model(row, attention_mask=(row > 0).long()).logits
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found[:, part], wanted, atol=2e-5, rtol=1e-4)


def test_recomputing_layers_gives_the_same_gradients(make: Callable[..., Any]) -> None:
    ids = torch.randint(0, 50, (2, 30))
    found = []
    for recompute in (False, True):
        model = make(attn_mode="sparse", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train()
        if recompute:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_its_parts_have_the_names_of_all_families(make: Callable[..., Any]) -> None:
    names = modules_of(make())
    assert {"embeddings", "layers.0", "layers.1.attention", "layers.1.mlp", "norm", "head"} <= names.keys()
    found = make()(torch.randint(0, 50, (1, 5)), output_hidden_states=True).hidden_states
    assert len(found) == 3
