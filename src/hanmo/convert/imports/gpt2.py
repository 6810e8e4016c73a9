"""GPT-2 in Hugging Face's names: Wenzhong, Yuyuan, GPT2-Chinese; with or without `transformer.` and the head."""

from __future__ import annotations

from hanmo.convert.imports.plan import DERIVED, Plan, Rule, apply, configure, layers, tie
from hanmo.convert.imports.source import Source
from hanmo.errors import HanmoError

_RULES: tuple[Rule, ...] = (
    # The causal mask and its fill value were saved as buffers once.
    (r"(?:transformer\.)?h\.\d+\.attn\.(?:masked_)?bias", DERIVED),
    (
        r"(?:transformer\.)?(wte\.weight|wpe\.weight|ln_f\.(?:weight|bias)"
        r"|h\.\d+\.(?:ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.(?:weight|bias))",
        r"transformer.\1",
    ),
    (r"lm_head\.weight", "lm_head.weight"),
)
_OWN_ROWS = 50257
#: Keys of GPT-2's configuration that no tensor tells; each with its default in the class.
_KEPT = (
    "activation_function",
    "layer_norm_epsilon",
    "initializer_range",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
)


def plan(source: Source) -> Plan:
    """Map GPT-2's tensors, which keep their `[in, out]` order in the stock class."""
    from transformers import GPT2Config, GPT2LMHeadModel

    keys = source.keys
    at = "transformer." if "transformer.wte.weight" in source.tensors else ""
    rows, width = source.shape(f"{at}wte.weight")
    heads = keys.heads("n_head", "num_attention_heads")
    if width % heads:
        raise HanmoError(f"{keys.where}: n_head: {heads} heads do not divide the width {width}")
    found = apply(_RULES, source)
    keys.get("n_embd", "n_layer", "n_positions", "n_ctx", "n_inner", "vocab_size", "use_cache")
    inner = source.shape(f"{at}h.0.mlp.c_fc.weight")[1]
    tied = tie(found, "transformer.wte.weight", "lm_head.weight", keys.get("tie_word_embeddings"), source)
    # GPT-2's own vocabulary ends with the token that opens and closes its documents.
    end = rows - 1 if rows == _OWN_ROWS else None
    ids = {role: keys.get(role, default=end) for role in ("bos_token_id", "eos_token_id")}
    ids["pad_token_id"] = keys.get("pad_token_id")
    values = {
        "vocab_size": rows,
        "n_positions": source.shape(f"{at}wpe.weight")[0],
        "n_embd": width,
        "n_layer": layers(source.tensors, r"(?:transformer\.)?h\.(\d+)\."),
        "n_head": heads,
        "n_inner": None if inner == 4 * width else inner,
        "tie_word_embeddings": tied,
        **{name: value for name in _KEPT if (value := keys.get(name)) is not None},
        **ids,
    }
    config = configure(GPT2Config, source, values)
    return Plan("GPT-2", GPT2LMHeadModel, config, found.tensors, found.derived, found.unused, found.unmapped, ids=ids)
