"""Importing LingLong weights: fabricated checkpoints against a plain float64 computation of the architecture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.models.linglong.convert import import_hf, import_legacy

V, C, D, L, HEADS, STRIDE, COLUMNS, PINYIN = 40, 32, 24, 3, 4, 5, 2, 1354
YAML = {"n_ctx": C, "n_vocab": V, "n_head": HEADS, "epsilon": 1e-8, "embd_dropout": 0.1, "attn_dropout": 0.1}
SPARSE = {"mode": "sparse", "stride": STRIDE, "c": COLUMNS}
Array = NDArray[np.float64]


def legacy(pinyin: bool = False) -> dict[str, Tensor]:
    """A legacy state dict: 12 tensors a layer and 4 more."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int, around: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3 + around

    state = {"transformer.wte.weight": drawn(V, D), "transformer.wpe.weight": drawn(C, D)}
    for i in range(L):
        at = f"transformer.blocks.{i}"
        for norm in ("ln_1", "ln_2"):
            state[f"{at}.{norm}.weight"], state[f"{at}.{norm}.bias"] = drawn(D, around=1), drawn(D)
        for name, shape in (
            ("attn.c_attn", (D, 3 * D)),
            ("attn.c_proj", (D, D)),
            ("mlp.c_fc", (D, 4 * D)),
            ("mlp.c_proj", (4 * D, D)),
        ):
            state[f"{at}.{name}.w"], state[f"{at}.{name}.b"] = drawn(*shape), drawn(shape[1])
    state["transformer.ln_f.weight"], state["transformer.ln_f.bias"] = drawn(D, around=1), drawn(D)
    assert len(state) == 12 * L + 4
    if pinyin:
        state["transformer.wpinyin.weight"] = drawn(PINYIN, D)
    return state


def newer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of the Hugging Face form."""
    found = {}
    for name, tensor in state.items():
        name = name.replace("transformer.blocks.", "transformer.h.")
        if name.endswith((".w", ".b")):
            name = name[:-1] + {"w": "weight", "b": "bias"}[name[-1]]
        found[name] = tensor.clone()
    return found


_erf = np.vectorize(math.erf)


def exact_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def tanh_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def norm(x: Array, gain: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-8) * gain + bias


def logits(
    state: dict[str, Tensor], ids: list[int], sparse: bool, pinyin: list[int] | None = None, gelu: Any = exact_gelu
) -> Array:
    """One text through the architecture as its description says, query by query, in float64."""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]
    if pinyin is not None:
        x = x + w["transformer.wpinyin.weight"][pinyin]
    width = D // HEADS
    for i in range(L):
        at = {name.removeprefix(f"transformer.blocks.{i}."): value for name, value in w.items()}
        qkv = norm(x, at["ln_1.weight"], at["ln_1.bias"]) @ at["attn.c_attn.w"] + at["attn.c_attn.b"]
        q, k, v = qkv[:, :D], qkv[:, D : 2 * D], qkv[:, 2 * D :]
        mixed = np.zeros_like(x)
        for place in range(len(ids)):
            seen = [
                other
                for other in range(place + 1)
                if not (sparse and i % 2 == 1)
                or other // STRIDE == place // STRIDE
                or other % STRIDE >= STRIDE - COLUMNS
            ]
            for head in range(HEADS):
                part = slice(head * width, (head + 1) * width)
                scores = k[seen, part] @ q[place, part] / math.sqrt(width)
                weights = np.exp(scores - scores.max())
                mixed[place, part] = weights @ v[seen, part] / weights.sum()
        x = x + mixed @ at["attn.c_proj.w"] + at["attn.c_proj.b"]
        inner = gelu(norm(x, at["ln_2.weight"], at["ln_2.bias"]) @ at["mlp.c_fc.w"] + at["mlp.c_fc.b"])
        x = x + inner @ at["mlp.c_proj.w"] + at["mlp.c_proj.b"]
    return norm(x, w["transformer.ln_f.weight"], w["transformer.ln_f.bias"]) @ w["transformer.wte.weight"].T


IDS = np.random.default_rng(0).integers(0, V, 23).tolist()
READ = np.random.default_rng(1).integers(0, PINYIN, 23).tolist()


def close(model: Any, wanted: Array, pinyin: bool = False) -> None:
    given = {"pinyin_ids": torch.tensor([READ])} if pinyin else {}
    with torch.no_grad():
        found = model.double()(torch.tensor([IDS]), **given).logits[0].numpy()
    assert np.abs(found - wanted).max() < 1e-9 * np.abs(wanted).max()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("pinyin", [False, True])
def test_legacy_weights_give_the_logits_of_the_architecture(sparse: bool, pinyin: bool) -> None:
    state = legacy(pinyin)
    config = {**YAML, **(SPARSE if sparse else {"mode": "dense"}), "backward": True}
    model, left_out = import_legacy({**state, "reward_head.weight": torch.zeros(1, D)}, {"model": config, "seed": 1})
    assert left_out == ["reward_head.weight"]
    assert model.config.use_pinyin is pinyin and model.config.backward and model.config.layer_norm_epsilon == 1e-8
    assert (model.config.n_layer, model.config.n_head, model.config.n_embd) == (L, HEADS, D)
    close(model, logits(state, IDS, sparse, READ if pinyin else None), pinyin)


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards"])
def test_the_newer_form_gives_them_too(form: str, tmp_path: Path) -> None:
    state = legacy()
    weights = newer(state)
    if form != "shards":  # the tied head is there in some files and absent in others
        weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
    config = {
        "architectures": ["LingLongForCausalLM"],
        "model_type": "linglong",
        **{"vocab_size": V, "n_position": C, "n_embd": D, "n_layer": L, "n_head": HEADS, "n_inner": None},
        **{"activation_function": "gelu_new", "layer_norm_epsilon": 1e-8, "attn_pdrop": 0.1, "embd_pdrop": 0.1},
        **{"bos_token_id": 10, "eos_token_id": 8, "pad_token_id": 0, "use_pinyin": False, "backward": False},
        **{"attn_mode": "sparse", "attn_stride": STRIDE, "attn_c": COLUMNS, "torch_dtype": "float32"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    if form == "bin":
        torch.save(weights, tmp_path / "pytorch_model.bin")
    elif form == "safetensors":
        save_file(weights, tmp_path / "model.safetensors")
    else:
        names = sorted(weights)
        parts = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
        for part, inside in parts.items():
            save_file({name: weights[name] for name in inside}, tmp_path / part)
        index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    exact, approximate = (logits(state, IDS, True, gelu=gelu) for gelu in (exact_gelu, tanh_gelu))
    assert np.abs(exact - approximate).max() > 1e-5
    model, left_out = import_hf(tmp_path)
    assert left_out == [] and model.config.activation_function == "gelu"
    close(model, exact)
    close(import_hf(tmp_path, activation="gelu_new").model, approximate)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state, yaml = legacy(), {**YAML, **SPARSE}
    del state["transformer.blocks.1.mlp.c_fc.b"]
    with pytest.raises(HanmoError, match=r"1 tensors are missing, among them transformer\.h\.1\.mlp\.c_fc\.bias"):
        import_legacy(state, yaml)
    with pytest.raises(HanmoError, match=r"transformer\.wpe\.weight: its shape is \[32, 24\] and not \[64, 24\]"):
        import_legacy(legacy(), {**yaml, "n_ctx": 64})
    with pytest.raises(HanmoError, match="no pinyin table"):
        import_legacy(legacy(), {**yaml, "use_pinyin": True})
    with pytest.raises(HanmoError, match="not the token embedding"):
        import_legacy({**legacy(), "lm_head.weight": torch.zeros(V, D)}, yaml)
    with pytest.raises(HanmoError, match=r"transformer\.wte\.weight"):
        import_legacy({"model.embed_tokens.weight": torch.zeros(V, D)}, yaml)
    with pytest.raises(HanmoError, match=r"config\.json"):
        import_hf(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(HanmoError, match="'gpt2' and not 'linglong'"):
        import_hf(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "linglong"}')
    with pytest.raises(HanmoError, match="neither"):
        import_hf(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(HanmoError, match="cannot be read"):
        import_hf(tmp_path)
