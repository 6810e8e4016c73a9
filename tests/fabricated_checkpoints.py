"""Fabricated checkpoints: the exact names of each project at tiny sizes, and how near an import must come."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from plain_references import fabricate

#: Largest difference of logits of order 1 to 10 between the imported model in float32 and the float64 reference.
EXACT = 1e-5
IDS = [3, 17, 5, 29, 11, 2, 23, 8, 30]

Shapes = dict[str, tuple[int, ...]]


def hf_decoder_shapes(
    rows: int = 37,
    width: int = 24,
    ffn: int = 40,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 4,
    head: int = 6,
    biased: bool = False,
    normed: bool = False,
    at: str = "model.",
) -> Shapes:
    shapes: Shapes = {f"{at}embed_tokens.weight": (rows, width), f"{at}norm.weight": (width,)}
    for number in range(layers):
        here = f"{at}layers.{number}."
        for p, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            shapes[f"{here}self_attn.{p}_proj.weight"] = (count * head, width)
            if biased:
                shapes[f"{here}self_attn.{p}_proj.bias"] = (count * head,)
        if normed:
            shapes |= {f"{here}self_attn.{p}_norm.weight": (head,) for p in "qk"}
        shapes[f"{here}self_attn.o_proj.weight"] = (width, heads * head)
        shapes |= {f"{here}mlp.{p}_proj.weight": (ffn, width) for p in ("gate", "up")}
        shapes[f"{here}mlp.down_proj.weight"] = (width, ffn)
        shapes |= {f"{here}{p}_layernorm.weight": (width,) for p in ("input", "post_attention")}
    return shapes


def llama2_shapes(
    rows: int = 37,
    width: int = 24,
    ffn: int = 40,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    biased: bool = False,
) -> Shapes:
    head = width // heads
    shapes: Shapes = {"tok_embeddings.weight": (rows, width), "norm.weight": (width,)}
    for number in range(layers):
        here = f"layers.{number}."
        for p, out in (("q", width), ("k", kv_heads * head), ("v", kv_heads * head), ("o", width)):
            shapes[f"{here}attention.w{p}.weight"] = (out, width)
            if biased:
                shapes[f"{here}attention.w{p}.bias"] = (out,)
        shapes |= {f"{here}{p}_norm.weight": (width,) for p in ("attention", "ffn")}
        shapes |= {f"{here}feed_forward.{p}.weight": (ffn, width) for p in ("w1", "w3")}
        shapes[f"{here}feed_forward.w2.weight"] = (width, ffn)
    return shapes


def gpt2_shapes(rows: int = 37, width: int = 24, layers: int = 2, positions: int = 16, at: str = "") -> Shapes:
    shapes: Shapes = {f"{at}wte.weight": (rows, width), f"{at}wpe.weight": (positions, width)}
    for number in range(layers):
        here = f"{at}h.{number}."
        for name, form in (
            ("attn.c_attn", (width, 3 * width)),
            ("attn.c_proj", (width, width)),
            ("mlp.c_fc", (width, 4 * width)),
            ("mlp.c_proj", (4 * width, width)),
        ):
            shapes |= {f"{here}{name}.weight": form, f"{here}{name}.bias": (form[1],)}
        shapes |= {f"{here}{p}.{q}": (width,) for p in ("ln_1", "ln_2") for q in ("weight", "bias")}
    return shapes | {f"{at}ln_f.weight": (width,), f"{at}ln_f.bias": (width,)}


def encoder_shapes(
    at: str, before: bool = True, pooler: bool = True, rows: int = 37, width: int = 24, ffn: int = 40, layers: int = 2
) -> Shapes:
    """MegatronBert's names (`before`: norms before each part) or BERT's."""

    def linear(name: str, out: int, into: int) -> Shapes:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name: str) -> Shapes:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    shapes: Shapes = {
        f"{at}embeddings.word_embeddings.weight": (rows, width),
        f"{at}embeddings.position_embeddings.weight": (16, width),
        f"{at}embeddings.token_type_embeddings.weight": (2, width),
    }
    if not before:
        shapes |= norm(f"{at}embeddings.LayerNorm")
    for number in range(layers):
        here = f"{at}encoder.layer.{number}."
        for p in ("query", "key", "value"):
            shapes |= linear(f"{here}attention.self.{p}", width, width)
        shapes |= linear(f"{here}attention.output.dense", width, width)
        shapes |= linear(f"{here}intermediate.dense", ffn, width) | linear(f"{here}output.dense", width, ffn)
        if before:
            shapes |= norm(f"{here}attention.ln") | norm(f"{here}ln")
        else:
            shapes |= norm(f"{here}attention.output.LayerNorm") | norm(f"{here}output.LayerNorm")
    if before:
        shapes |= norm(f"{at}encoder.ln")
    return shapes | (linear(f"{at}pooler.dense", width, width) if pooler else {})


def mask_head_shapes(rows: int = 37, width: int = 24) -> Shapes:
    head = "cls.predictions."
    return {
        f"{head}bias": (rows,),
        f"{head}transform.dense.weight": (width, width),
        f"{head}transform.dense.bias": (width,),
        f"{head}transform.LayerNorm.weight": (width,),
        f"{head}transform.LayerNorm.bias": (width,),
    }


def linglong_shapes(rows: int = 37, width: int = 24, layers: int = 3, positions: int = 32) -> Shapes:
    """LingLong's legacy form: 12 tensors a layer and 4 more, no head."""
    norm, shapes = {"weight": (width,), "bias": (width,)}, Shapes()
    for number in range(layers):
        here = f"transformer.blocks.{number}."
        for name, form in (
            ("attn.c_attn", (width, 3 * width)),
            ("attn.c_proj", (width, width)),
            ("mlp.c_fc", (width, 4 * width)),
            ("mlp.c_proj", (4 * width, width)),
        ):
            shapes |= {f"{here}{name}.w": form, f"{here}{name}.b": (form[1],)}
        shapes |= {f"{here}{p}.{q}": form for p in ("ln_1", "ln_2") for q, form in norm.items()}
    assert len(shapes) == 12 * layers
    tables: Shapes = {"transformer.wte.weight": (rows, width), "transformer.wpe.weight": (positions, width)}
    return shapes | tables | {f"transformer.ln_f.{q}": form for q, form in norm.items()}


def linglong_newer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Legacy weights under the names of the Hugging Face form."""
    found = {}
    for name, tensor in state.items():
        name = name.replace("transformer.blocks.", "transformer.h.")
        if name.endswith((".w", ".b")):
            name = name[:-1] + {"w": "weight", "b": "bias"}[name[-1]]
        found[name] = tensor.clone()
    return found


def zhouwenwang(at: str, layers: int = 2, head: int = 6, seed: int = 1) -> dict[str, torch.Tensor]:
    """MegatronBert's tensors without positions, with the rates of each layer's rotation and the counting buffer."""
    shapes = {name: form for name, form in encoder_shapes(at, layers=layers).items() if "position_emb" not in name}
    state = fabricate(shapes, seed)
    rates = torch.exp(torch.arange(0, head, 2) * -math.log(1e4) / head)
    state |= {f"{at}encoder.layer.{n}.attention.self.rope_emb.div_term": rates.clone() for n in range(layers)}
    return state | {f"{at}embeddings.position_ids": torch.arange(16)[None]}


def randeng(
    part: str = "T5Layer", rows: int = 60, width: int = 24, inner: int = 18, ffn: int = 40, positions: int = 40
) -> dict[str, torch.Tensor]:
    """Megatron-T5 with two layers that read and three that write; `part`: what a layer's parts are named after."""

    def linear(name: str, out: int, into: int) -> Shapes:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name: str) -> Shapes:
        return linear(name, width, width) | {f"{name}.weight": (width,)}

    tables = {"word_embeddings.weight": (rows, width), "position_embeddings.weight": (positions, width)}
    shapes: Shapes = {f"shared.{name}": form for name, form in tables.items()} | {"lm_head_bias": (rows,)}
    for half, layers in (("encoder", 2), ("decoder", 3)):
        for number in range(layers):
            here = f"{half}.block.{number}.{part}"
            attentions = ["SelfAttention.SelfAttention", "CrossAttention.EncDecAttention"]
            for attention in attentions[: 1 + (half == "decoder")]:
                shapes |= norm(f"{here}{attention.split('.')[0]}.layer_norm")
                for p in "qkv":
                    shapes |= linear(f"{here}{attention}.{p}", inner, width)
                shapes |= linear(f"{here}{attention}.o", width, inner)
            shapes |= norm(f"{here}FF.layer_norm")
            shapes |= linear(f"{here}FF.DenseReluDense.wi", ffn, width)
            shapes |= linear(f"{here}FF.DenseReluDense.wo", width, ffn)
        shapes |= norm(f"{half}.final_layer_norm")
    state = fabricate(shapes)
    for half in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"):
        state |= {f"{half}.{name}": state[f"shared.{name}"].clone() for name in tables}
        state[f"{half}.position_ids"] = torch.arange(positions)[None]
    return state


def folder(path: Path, weights: dict[str, Any], config: dict[str, Any] | None, safe: bool = True) -> Path:
    """A Hugging Face folder as the project publishes it."""
    path.mkdir(parents=True)
    if safe:
        save_file({name: tensor.clone() for name, tensor in weights.items()}, path / "model.safetensors")
    else:
        torch.save(weights, path / "pytorch_model.bin")
    if config is not None:
        (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def logits(auto: Any, path: Path, types: list[int] | None = None) -> torch.Tensor:
    """What plain `from_pretrained` computes for `IDS` in float32; nothing may be missing or left over."""
    model, info = auto.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    more = {} if types is None else {"token_type_ids": torch.tensor([types])}
    with torch.inference_mode():
        output = model.eval()(input_ids=torch.tensor([IDS]), **more)
    return (output.logits if hasattr(output, "logits") else output.last_hidden_state)[0]


def distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute difference, after a look that the reference says anything at all."""
    assert found.shape == reference.shape and reference.abs().max() > 0.1
    return float((found.double() - reference).abs().max())
