"""The families of models: the configuration of a new one, its parameters in closed form, and what it learns.

A family is a `model_type` of transformers, stock or registered by us (`hanmo.registration`). Its models learn one
thing, or several by the choice of whoever trains them:

    causal   the next token
    masked   tokens that were masked
    unified  both, and to continue a prefix that is seen whole, by token types
    spans    what was cut out, written by a decoder
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.models.presets import Preset, preset

#: The auto class of transformers that makes a model for each objective.
AUTO = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "unified": "AutoModelForMaskedLM",
    "spans": "AutoModelForSeq2SeqLM",
}


#: In the names of stock classes that fill masks.
_FILLS = ("ForMaskedLM", "BertForPreTraining", "ErnieForPreTraining")


@dataclass(frozen=True)
class Family:
    """What is made of a `Preset`.

    Attributes:
        keys: (shape, context) -> keys of the configuration, beside the vocabulary and `Preset.own`.
        count: (shape, rows of the vocabulary, context) -> parameters, those of tied matrices once.
        learns: the objectives that its models can have, the usual one first.
        what: the family in words.
        loads: where a saved folder loads without code of ours; "" where `import hanmo` is needed first.
        recipe: the file in recipes/ that trains one.
    """

    keys: Callable[[Preset, int], dict[str, Any]]
    count: Callable[[Preset, int, int], int]
    learns: tuple[str, ...] = ("causal",)
    what: str = ""
    loads: str = ""
    recipe: str = ""


def _llama(shape: Preset, context: int) -> dict[str, Any]:
    """Llama and what is built like it: RMSNorm, rotary positions, grouped queries, SwiGLU."""
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": context,
        "tie_word_embeddings": shape.tied,
        "rms_norm_eps": 1e-6,
    }


def _no_bias(shape: Preset, context: int) -> dict[str, Any]:
    return {**_llama(shape, context), "head_dim": shape.head_dim, "attention_bias": False}


def _count_llama(shape: Preset, rows: int, _: int) -> int:
    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * query + 2 * key_value)
    # Gains of queries and keys, or biases.
    attention += {"qwen3": 2 * shape.head_dim, "qwen2": query + 2 * key_value}.get(shape.family, 0)
    layer = attention + 3 * shape.hidden * shape.ffn + 2 * shape.hidden
    return (1 if shape.tied else 2) * rows * shape.hidden + shape.layers * layer + shape.hidden


def _qwen2_moe(shape: Preset, context: int) -> dict[str, Any]:
    """Experts and a shared one of the same width, which a gate of its own weighs."""
    return {
        **_llama(shape, context),
        "moe_intermediate_size": shape.ffn,
        "shared_expert_intermediate_size": shape.ffn,
        "norm_topk_prob": False,  # llama.cpp's graph has no other
    }


def _glm4_moe(shape: Preset, context: int) -> dict[str, Any]:
    """Qwen3's attention, experts and a shared one in every layer, no layers that predict several tokens."""
    return {
        **_no_bias(shape, context),
        "moe_intermediate_size": shape.ffn,
        "n_shared_experts": 1,
        "first_k_dense_replace": 0,
        "num_nextn_predict_layers": 0,
        "use_qk_norm": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    }


def _numbers(shape: Preset) -> tuple[int, int]:
    """Experts of a layer, and of them those chosen for a token."""
    return shape.own.get("n_routed_experts") or shape.own["num_experts"], shape.own["num_experts_per_tok"]


def _count_experts(shape: Preset, rows: int, context: int) -> int:
    """A Llama with one expert as its feed-forward part, the other experts, the router; gains or biases, a gate."""
    other = {"glm4_moe": 2 * shape.head_dim, "qwen2_moe": shape.heads * shape.head_dim}[shape.family]
    if shape.family == "qwen2_moe":
        other += 2 * shape.kv_heads * shape.head_dim + shape.hidden
    experts, _ = _numbers(shape)
    other += experts * (3 * shape.hidden * shape.ffn + shape.hidden)
    return _count_llama(shape, rows, context) + shape.layers * other


def idle_in_experts(shape: Preset) -> int:
    """Parameters of the experts that are not chosen for a token; 0 where there are none."""
    if "num_experts_per_tok" not in shape.own:
        return 0
    experts, chosen = _numbers(shape)
    return shape.layers * (experts - chosen) * 3 * shape.hidden * shape.ffn


def _gpt2(shape: Preset, context: int) -> dict[str, Any]:
    return {
        "n_embd": shape.hidden,
        "n_inner": shape.ffn,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_positions": context,
        "tie_word_embeddings": shape.tied,
    }


def _linglong(shape: Preset, context: int) -> dict[str, Any]:
    keys = _gpt2(shape, context)
    return {**keys, "n_position": keys.pop("n_positions")}


def _layer(d: int, f: int, attentions: int = 1) -> int:
    """A layer with biases: attention 4 d² + 4 d, feed-forward part 2 d f + f + d, and before each a norm of 2 d."""
    return attentions * (4 * d * d + 4 * d + 2 * d) + 2 * d * f + f + d + 2 * d


def _count_gpt2(shape: Preset, rows: int, context: int) -> int:
    d = shape.hidden
    pinyin = 1354 * d if shape.own.get("use_pinyin") else 0
    return (rows + context) * d + pinyin + shape.layers * _layer(d, shape.ffn) + 2 * d


def _bert(shape: Preset, context: int) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": context,
        "tie_word_embeddings": shape.tied,
    }


def _count_megatron_bert(shape: Preset, rows: int, context: int) -> int:
    """Words, positions, two token types; layers; the last norm; a transform with its norm before the head; its bias."""
    d = shape.hidden
    return (rows + context + 2) * d + shape.layers * _layer(d, shape.ffn) + 2 * d + d * d + d + 2 * d + rows


def _modernbert(shape: Preset, context: int) -> dict[str, Any]:
    """Pre-norm without biases, rotary positions, GeGLU; every third layer sees all, the others 64 tokens to each side.

    The marks' ids are the tokenizer's, and the class's own lie outside of small vocabularies.
    """
    marks = {"cls_token_id": None, "sep_token_id": None}
    keys = _bert(shape, context)
    return keys | marks | {"local_attention": 128, "global_attn_every_n_layers": 3}


def _count_modernbert(shape: Preset, rows: int, _: int) -> int:
    """Words and their norm; layers, the first without a norm before attention; the last norm; a transform with its
    norm before the head; its bias. With the published 50,368 tokens that is 149,655,232 for the base."""
    d, f = shape.hidden, shape.ffn
    layers = shape.layers * (4 * d * d + 3 * d * f + 2 * d) - d
    return rows * d + d + layers + d + d * d + d + rows


def _count_unified(shape: Preset, rows: int, _: int) -> int:
    """Words and two token types; layers; the last norm. No positions, no transform, no pooler.

    With the published vocabulary of 21,248 that is 101,376,000 for the shape published as 110M (BERT base with its
    positions, pooler and transform has 103M there) and 1,252,122,624 for 1.3B.
    """
    return (rows + 2) * shape.hidden + shape.layers * _layer(shape.hidden, shape.ffn) + 2 * shape.hidden


def _t5(shape: Preset, context: int) -> dict[str, Any]:
    return {
        "d_model": shape.hidden,
        "d_kv": shape.head_dim,
        "d_ff": shape.ffn,
        "num_layers": shape.layers,
        "num_heads": shape.heads,
        "max_position_embeddings": context,
        "decoder_start_token_id": 0,
    }


def _count_megatron_t5(shape: Preset, rows: int, context: int) -> int:
    """Words and positions; an attention in each layer of the encoder and two in the decoder's; last norms; a bias.

    With the published vocabulary and 512 positions that is 77,372,160 for 77m and 727,737,088 for 770m. (A list of
    weights names the embeddings three times, once for each half: counted so, the larger one has 772,301,568.)
    """
    d, halves = shape.hidden, _layer(shape.hidden, shape.ffn) + _layer(shape.hidden, shape.ffn, 2)
    return (rows + context) * d + shape.layers * halves + 4 * d + rows


def _stock_t5(shape: Preset, context: int) -> dict[str, Any]:
    keys = _t5(shape, context)
    del keys["max_position_embeddings"]  # it knows distances alone
    return {**keys, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": shape.tied}


def _count_t5(shape: Preset, rows: int, _: int) -> int:
    """No biases; norms of d; two matrices into the feed-forward part; 32 biases by distance for each head of a half."""
    d, attention = shape.hidden, 4 * shape.hidden * shape.heads * shape.head_dim + shape.hidden
    layer = 2 * (3 * d * shape.ffn + d) + 3 * attention
    return rows * d + shape.layers * layer + 2 * 32 * shape.heads + 2 * d


_ENGINES = "transformers, vLLM, llama.cpp"
FAMILIES: dict[str, Family] = {
    "qwen3": Family(_no_bias, _count_llama, what="decoder", loads=_ENGINES, recipe="real-small.yaml"),
    "qwen2": Family(_llama, _count_llama, what="decoder", loads=_ENGINES, recipe="real-small.yaml"),
    "llama": Family(
        lambda shape, context: {**_no_bias(shape, context), "mlp_bias": False},
        _count_llama,
        what="decoder",
        loads=_ENGINES,
        recipe="real-small.yaml",
    ),
    "qwen2_moe": Family(
        _qwen2_moe, _count_experts, what="decoder, mixture of experts", loads=_ENGINES, recipe="real-small.yaml"
    ),
    "glm4_moe": Family(
        _glm4_moe, _count_experts, what="decoder, mixture of experts", loads=_ENGINES, recipe="real-small.yaml"
    ),
    "gpt2": Family(_gpt2, _count_gpt2, what="decoder", loads=_ENGINES, recipe="yuyuan.yaml"),
    "linglong": Family(_linglong, _count_gpt2, what="decoder, sparse or dense", recipe="linglong.yaml"),
    "megatron-bert": Family(
        _bert, _count_megatron_bert, ("masked",), what="encoder", loads="transformers", recipe="encoder.yaml"
    ),
    "modernbert": Family(
        _modernbert, _count_modernbert, ("masked",), what="encoder", loads="transformers", recipe="encoder.yaml"
    ),
    "hanmo_unified": Family(
        _bert, _count_unified, ("unified",), what="encoder and decoder in one", recipe="unified.yaml"
    ),
    "t5": Family(
        _stock_t5, _count_t5, ("spans",), what="encoder and decoder", loads="transformers", recipe="randeng.yaml"
    ),
    "hanmo_megatron_t5": Family(_t5, _count_megatron_t5, ("spans",), what="encoder and decoder", recipe="randeng.yaml"),
}


def learns(name: str) -> tuple[str, ...]:
    """The objectives that a preset's models can have, the usual one first."""
    return FAMILIES[preset(name).family].learns


def objective_of(folder: Path) -> str:
    """What the model in a folder learns, by its config.json: of ours by its family, of stock ones by its class."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if family := FAMILIES.get(str(config.get("model_type"))):
        return family.learns[0]
    classes = " ".join(map(str, config.get("architectures") or ()))
    if any(form in classes for form in _FILLS):
        return "masked"
    return "spans" if "ForConditionalGeneration" in classes else "causal"


def must_write(folder: Path, otherwise: str = "`hanmo model fill` shows what it does") -> None:
    """See that the model in a folder is none that only fills masks: stock classes for writing would load it, too.

    Raises:
        HanmoError: it is one; with what to do `otherwise`.
    """
    if objective_of(folder) == "masked":
        raise HanmoError(f"{folder}: an encoder, which fills masks and writes no text; {otherwise}")
