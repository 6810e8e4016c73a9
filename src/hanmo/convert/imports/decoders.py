"""Decoders with the names of Hugging Face's Llama: Tiny LLM zh, MiniMind, and reward models made of them.

What they compute is told by which tensors there are:

| tensors | computes | class |
|---|---|---|
| q, k, v with biases, o without | Tiny LLM zh | Qwen2 |
| `q_norm`, `k_norm` of one head's width | MiniMind | Qwen3 |
| neither | MiniMind before the norms | Llama |

All three rotate halves (x1, x2 -> -x2, x1), normalise by the root mean square before attention and MLP, and gate by
SiLU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hanmo.convert.imports.plan import DERIVED, UNUSED, Plan, Rule, apply, configure, layers, tie
from hanmo.convert.imports.source import Keys, Source
from hanmo.errors import HanmoError

_LAYER = (
    r"layers\.\d+\.(?:self_attn\.[qkvo]_proj\.(?:weight|bias)|self_attn\.[qk]_norm\.weight"
    r"|mlp\.(?:gate|up|down)_proj\.weight|(?:input|post_attention)_layernorm\.weight)"
)
_RULES: tuple[Rule, ...] = (
    (rf"(?:model\.)?(embed_tokens\.weight|norm\.weight|{_LAYER})", r"model.\1"),
    (r"(?:model\.)?(?:layers\.\d+\.self_attn\.)?rotary_emb\.(?:inv_freq|cos_cached|sin_cached)", DERIVED),
    (r"(?:model\.)?freqs_(?:cos|sin)", DERIVED),
)
_HEAD: Rule = (r"lm_head\.weight", "lm_head.weight")
_SCORE: tuple[Rule, ...] = ((r"score\.weight", "score.weight"), (r"lm_head\.weight", UNUSED))


class _Family(NamedTuple):
    """What a project's code assumes where the configuration is silent."""

    name: str
    eps: float
    theta: float
    context: int


_TINYLLM = _Family("Tiny LLM zh", 1e-6, 1e4, 2048)
_MINIMIND = _Family("MiniMind", 1e-6, 1e6, 32768)
_MINIMIND_2 = _Family("MiniMind 2", 1e-5, 1e6, 32768)
_LLAMA = _Family("Llama", 1e-6, 1e4, 2048)

#: Values of `model_type` whose code is known to compute what the table says; the stock ones keep their configuration.
TYPES = {None, "tinyllm", "minimind"}
STOCK = {"qwen2", "qwen3", "llama"}


def plan(source: Source) -> Plan:
    """Map a decoder with Llama's names. `recognise` has looked at its type."""
    import transformers

    keys, at = source.keys, "model." if "model.embed_tokens.weight" in source.tensors else ""
    layer = f"{at}layers.0.self_attn."
    normed, biased = f"{layer}q_norm.weight" in source.tensors, f"{layer}q_proj.bias" in source.tensors
    if normed:
        base, family = "Qwen3", _MINIMIND
    elif biased and f"{layer}o_proj.bias" not in source.tensors:
        base, family = "Qwen2", _TINYLLM
    else:
        base, family = "Llama", _MINIMIND_2 if keys.get("model_type") == "minimind" else _LLAMA
    reward = "score.weight" in source.tensors
    found = apply(_RULES + (_SCORE if reward else (_HEAD,)), source)
    rows, width = source.shape(f"{at}embed_tokens.weight")
    queries, pairs = source.shape(f"{layer}q_proj.weight")[0], source.shape(f"{layer}k_proj.weight")[0]
    if normed:
        head = source.shape(f"{layer}q_norm.weight")[0]
    else:
        head, rest = divmod(queries, keys.heads("num_attention_heads"))
        if rest:
            raise HanmoError(f"{keys.where}: num_attention_heads does not divide the {queries} rows of {layer}q_proj")
    if head == 0 or queries % head or pairs % head:
        raise HanmoError(f"{source.path}: {queries} query and {pairs} key rows are not whole heads of {head}")
    stock = keys.get("model_type") in STOCK
    shape: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": source.shape(f"{at}layers.0.mlp.gate_proj.weight")[0],
        "num_hidden_layers": layers(source.tensors, r"(?:model\.)?layers\.(\d+)\."),
        "num_attention_heads": queries // head,
        "num_key_value_heads": pairs // head,
        "tie_word_embeddings": _tied(found, keys, source, reward),
    }
    if base != "Qwen2" or head * (queries // head) != width:
        shape["head_dim"] = head
    if base != "Qwen2":
        shape["attention_bias"] = biased
    config_class = getattr(transformers, f"{base}Config")
    if stock and f"{base}Config".lower().startswith(str(keys.get("model_type"))):
        values = {k: v for k, v in keys.values.items() if k not in ("auto_map", "layer_types", "quantization_config")}
        keys.get(*keys.values)
        config = configure(config_class, source, {**values, **shape})
        name = f"{base}, stock"
    else:
        config = configure(config_class, source, {**shape, **_values(keys, family)})
        name = family.name
    if reward:
        config.num_labels = source.shape("score.weight")[0]
        name += " reward model"
    made = Plan(
        name,
        getattr(transformers, f"{base}{'ForSequenceClassification' if reward else 'ForCausalLM'}"),
        config,
        found.tensors,
        found.derived,
        found.unused,
        found.unmapped,
    )
    if not reward:
        made.ids = {role: keys.get(role) for role in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if not keys.values:
        made.notes.append(
            f"no configuration: norms with {family.eps:g}, rotary base {family.theta:g} and {family.context} "
            f"positions, as {family.name}'s own code has them"
        )
    if reward and config.pad_token_id is None:
        made.notes.append("no pad_token_id: it scores one text at a time until config.json names one")
    return made


def _tied(found: Any, keys: Keys, source: Source, reward: bool) -> bool:
    said = keys.get("tie_word_embeddings")
    return bool(said) if reward else tie(found, "model.embed_tokens.weight", "lm_head.weight", said, source)


def _values(keys: Keys, family: _Family) -> dict[str, Any]:
    """What no tensor tells, from the configuration, else as the family's code assumes."""
    rope = keys.get("rope_parameters", default={})
    scaled = keys.get("rope_scaling", default=rope)
    if not isinstance(rope, dict) or not isinstance(scaled, dict):
        raise HanmoError(f"{keys.where}: rope_parameters and rope_scaling are groups of keys")
    form = scaled.get("rope_type", scaled.get("type", "default"))
    if form != "default":
        mend = "set inference_rope_scaling to false and rope_scaling to null, as it was trained"
        raise HanmoError(f"{keys.where}: rope_scaling ({form}) of a custom class cannot be mapped exactly; {mend}")
    if keys.get("inference_rope_scaling"):
        raise HanmoError(f"{keys.where}: inference_rope_scaling cannot be mapped exactly; set it to false")
    keys.get("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    keys.get("vocab_size", "head_dim", "use_moe", "flash_attn", "use_cache", "bos_token_id")
    theta = keys.number("rope_theta", default=rope.get("rope_theta") or family.theta)
    return {
        "hidden_act": keys.get("hidden_act", default="silu"),
        "max_position_embeddings": int(keys.number("max_position_embeddings", default=family.context)),
        "rms_norm_eps": float(keys.number("rms_norm_eps", default=family.eps)),
        "initializer_range": float(keys.number("initializer_range", default=0.02)),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(theta)},
        "bos_token_id": keys.get("bos_token_id"),
        "eos_token_id": keys.get("eos_token_id"),
        "pad_token_id": keys.get("pad_token_id"),
    }
