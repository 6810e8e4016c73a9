"""llama2.c and its kin (`wq`, `w1`, `tok_embeddings`): the state dicts of its training, llama2_torch, Meta's releases.

They rotate neighbouring pairs of a head's values, and the stock Llama rotates its halves against each other. So the
rows of `wq` and `wk` change their order in each head, (0, 1, 2, 3, ...) becoming (0, 2, ..., 1, 3, ...): every product
of a query with a key stays what it was. w1, w2 and w3 are gate, down and up.
"""

from __future__ import annotations

from typing import Any

from hanmo.convert.imports.plan import DERIVED, Plan, Rule, apply, configure, halves, layers, tie
from hanmo.convert.imports.source import Source
from hanmo.errors import HanmoError

_LAYER = r"layers\.(\d+)\."
_RULES: tuple[Rule, ...] = (
    (r"tok_embeddings\.weight", "model.embed_tokens.weight"),
    (r"norm\.weight", "model.norm.weight"),
    (r"output\.weight", "lm_head.weight"),
    (_LAYER + r"attention\.w([qkvo])\.(weight|bias)", r"model.layers.\1.self_attn.\2_proj.\3"),
    (_LAYER + r"attention_norm\.weight", r"model.layers.\1.input_layernorm.weight"),
    (_LAYER + r"ffn_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
    (_LAYER + r"feed_forward\.w1\.weight", r"model.layers.\1.mlp.gate_proj.weight"),
    (_LAYER + r"feed_forward\.w2\.weight", r"model.layers.\1.mlp.down_proj.weight"),
    (_LAYER + r"feed_forward\.w3\.weight", r"model.layers.\1.mlp.up_proj.weight"),
    (r"(?:freqs_cos|freqs_sin|freqs_cis|pos_cis|rope\.freqs|(?:layers\.\d+\.attention\.)?mask)", DERIVED),
)


def plan(source: Source) -> Plan:
    """Map a state dict of llama2.c's form onto Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    keys = source.keys
    rows, width = source.shape("tok_embeddings.weight")
    queries, pairs = source.shape("layers.0.attention.wq.weight")[0], source.shape("layers.0.attention.wk.weight")[0]
    head = _head_width(source, queries)
    if head == 0 or queries % head or pairs % head or head % 2:
        raise HanmoError(f"{source.path}: {queries} query and {pairs} key rows are not whole, even heads of {head}")
    if keys.get("use_scaled_rope"):
        raise HanmoError(
            f"{keys.where}: use_scaled_rope (Llama 3.1) is not imported; its authors publish a stock folder"
        )
    found = apply(_RULES, source)
    for name in list(found.tensors):
        for projection, heads in (("q_proj", queries // head), ("k_proj", pairs // head)):
            tensor = found.tensors[name]
            if f".{projection}." in name and tensor.shape[0] == heads * head:
                found.tensors[name] = halves(tensor, heads)
    tied = tie(found, "model.embed_tokens.weight", "lm_head.weight", None, source)
    theta = float(keys.number("rope_theta", default=1e4))
    keys.get(
        "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier"
    )
    values: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": source.shape("layers.0.feed_forward.w1.weight")[0],
        "num_hidden_layers": layers(source.tensors, _LAYER),
        "num_attention_heads": queries // head,
        "num_key_value_heads": pairs // head,
        "head_dim": head,
        "max_position_embeddings": int(keys.number("max_seq_len", default=2048)),
        "rms_norm_eps": float(keys.number("norm_eps", default=1e-5)),
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": "layers.0.attention.wq.bias" in source.tensors,
        "tie_word_embeddings": tied,
    }
    made = Plan(
        "llama2.c" if source.form == "llama2.c" else "llama2.c-style state dict",
        LlamaForCausalLM,
        # llama2.c puts 1 before every text, so that it also ends one.
        configure(LlamaConfig, source, {**values, "bos_token_id": 1, "eos_token_id": 2}),
        found.tensors,
        found.derived,
        found.unused,
        found.unmapped,
        ["rows of queries and keys re-ordered from rotated neighbours to rotated halves"],
        {"bos_token_id": 1, "eos_token_id": [2, 1]},
    )
    if source.form != "llama2.c" and not keys.values:
        made.notes.append(
            "no configuration: norms with 1e-05, rotary base 10000 and 2048 positions, as llama2.c has them"
        )
    return made


def _head_width(source: Source, queries: int) -> int:
    """Values of a head: from rotary tables where they were kept (a number for each pair), else from the settings."""
    for name in ("freqs_cos", "freqs_cis", "pos_cis", "rope.freqs"):
        if name in source.tensors:
            return 2 * source.tensors[name].shape[-1]
    return queries // source.keys.heads("n_heads")
