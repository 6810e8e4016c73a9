"""Which model classes can be written for llama.cpp, and how each one's config.json and weights read in GGUF's terms.

To add a family: a function that writes its hyperparameters (and refuses what llama.cpp's graph of it lacks), and a line
in `ARCHITECTURES`. The names of tensors come from gguf's own map; where a family's matrices stand differently in GGUF,
its line says which (`layout`).

Of the two stock classes that route by sigmoid scores with a loss-free bias (`e_score_correction_bias`), GLM-4-MoE is
the one here: its attention is that of Qwen3 (grouped heads, normalised queries and keys, whole rotary positions), so
that its engines' paths are the plain ones, and transformers, llama.cpp and vLLM run it at any width. DeepSeek-V3
compresses keys and values through a low rank, which small models do not need and which each engine computes in a
backend of its own. A GLM-4-MoE for vLLM has to have a head of its own: vLLM (0.32) does not tie it to the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from hanmo.errors import HanmoError

Config = dict[str, Any]

#: How a matrix is stored against GGUF's [out, in]: as it is, transposed, or with the halves of every head interleaved.
ROWS, COLUMNS, ROTARY = "rows", "columns", "rotary"


@dataclass(frozen=True)
class Architecture:
    """A family that llama.cpp knows.

    Attributes:
        arch: gguf's id of it.
        write: writes its hyperparameters.
        layout: pattern of a tensor's name -> `COLUMNS` or `ROTARY`; all others are `ROWS`.
        tied: what a config.json without `tie_word_embeddings` means.
        own_head: llama.cpp does not take the embedding for the head: a tied one is written twice.
        encoder: it writes nothing; llama.cpp makes vectors of texts with it.
        left_out: pattern of names of tensors that llama.cpp has no use for.
        absent: tensors of single layers that there are none of, by their names in GGUF.
    """

    arch: gguf.MODEL_ARCH
    write: Callable[[gguf.GGUFWriter, Config, Path], None]
    layout: tuple[tuple[str, str], ...] = ()
    tied: bool = False
    own_head: bool = False
    encoder: bool = False
    left_out: str = ""
    absent: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The family's name in GGUF."""
        return gguf.MODEL_ARCH_NAMES[self.arch]

    def layout_of(self, source: str) -> str:
        """How the tensor `source` of a model folder stands there."""
        return next((layout for pattern, layout in self.layout if re.search(pattern, source)), ROWS)


def find(config: Config, path: Path) -> Architecture:
    """The family of a config.json; `path` names the file in the error for an unknown one."""
    classes = config.get("architectures") or [config.get("model_type", "of no class")]
    for name in classes:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    for name in map(str, classes):
        if (place := _elsewhere(name)) is not None:
            raise HanmoError(f"{path}: {name} cannot be written as GGUF: llama.cpp cannot run it; {place}")
    raise HanmoError(
        f"{path}: {', '.join(map(str, classes))} cannot be written as GGUF; "
        f"what can be converted: {', '.join(ARCHITECTURES)}"
    )


#: Classes that GGUF is not for -> where they can go instead.
_ELSEWHERE: tuple[tuple[str, str], ...] = (
    (
        r"LingLong|Unified|MegatronT5",
        "it goes to its Hugging Face folder, which transformers reads behind `import hanmo`",
    ),
    (
        r"(ModernBert|^Bert)For(Sequence|Token)Classification",
        "it goes to its Hugging Face folder, which transformers reads and vLLM serves as a pooling model",
    ),
    (
        r"MegatronBert",
        "its norms stand before each part, llama.cpp's BERT has them behind; it goes to its Hugging Face folder, which "
        "transformers reads as it is, and to ONNX (`hanmo convert onnx`)",
    ),
    (r"Bert|Ernie|T5", "it goes to its Hugging Face folder, which transformers reads as it is"),
)


def _elsewhere(name: str) -> str | None:
    return next((place for pattern, place in _ELSEWHERE if re.search(pattern, name)), None)


def layers_of(config: Config) -> int:
    """Layers of the decoder."""
    return config["n_layer"] if "n_layer" in config else config["num_hidden_layers"]


def experts_of(config: Config) -> int:
    """Routed experts of a layer; 0 in a dense model."""
    return config.get("num_experts") or config.get("n_routed_experts") or 0


def _decoder(writer: gguf.GGUFWriter, config: Config, path: Path) -> int:
    """What all families with rotary positions, RMSNorm and SwiGLU share; returns the width of a head."""
    _require(config, path, "hidden_act", "silu")
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(_rope_theta(config, path))
    writer.add_vocab_size(config["vocab_size"])
    return head_dim


def _head_width(writer: gguf.GGUFWriter, head_dim: int) -> None:
    """Where the heads' width is not the model's over their number, GGUF has to say it."""
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)


def _qwen3(writer: gguf.GGUFWriter, config: Config, path: Path) -> None:
    """Qwen3: grouped-query attention with normalised queries and keys, SwiGLU, no biases."""
    _require(config, path, "attention_bias", False)
    _require(config, path, "use_sliding_window", False)
    _head_width(writer, _decoder(writer, config, path))


def _qwen2(writer: gguf.GGUFWriter, config: Config, path: Path) -> None:
    """Qwen2 (Tiny LLM zh): biases at queries, keys and values."""
    _require(config, path, "use_sliding_window", False)
    _square_heads(config, path, _decoder(writer, config, path))


def _llama(writer: gguf.GGUFWriter, config: Config, path: Path) -> None:
    """Llama: no biases; GGUF keeps the first release's order of queries and keys, whose rotary pairs are neighbours."""
    _require(config, path, "attention_bias", False)
    _require(config, path, "mlp_bias", False)
    head_dim = _decoder(writer, config, path)
    _head_width(writer, head_dim)
    writer.add_rope_dimension_count(head_dim)


def _gpt2(writer: gguf.GGUFWriter, config: Config, path: Path) -> None:
    """GPT-2 (Wenzhong): learnt positions, LayerNorm, biases everywhere, matrices as [in, out]."""
    _require(config, path, "activation_function", "gelu_new")
    for key, value in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        _require(config, path, key, value)
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])


def _qwen2_moe(writer: gguf.GGUFWriter, config: Config, path: Path) -> None:
    """Qwen2-MoE: softmax over all experts, the chosen ones' shares as they are, a gated shared expert beside them."""
    _require(config, path, "use_sliding_window", False)
    _require(config, path, "norm_topk_prob", False)
    _require(config, path, "decoder_sparse_step", 1)
    _require(config, path, "qkv_bias", True)
    if config.get("mlp_only_layers"):
        raise HanmoError(
            f"{path}: mlp_only_layers is not empty; llama.cpp's graph of this model has experts everywhere"
        )
    _square_heads(config, path, _decoder(writer, config, path))
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _glm4_moe(writer: gguf.GGUFWriter, config: Config, path: Path) -> None:
    """GLM-4-MoE: sigmoid scores with the loss-free bias, shared experts, the first layers dense."""
    _require(config, path, "n_group", 1)
    _require(config, path, "topk_group", 1)
    if config.get("num_nextn_predict_layers", 1):
        # transformers leaves these layers away when it loads such a folder, so they are not there to be written.
        raise HanmoError(
            f"{path}: num_nextn_predict_layers is {config.get('num_nextn_predict_layers', 1)}; models that predict "
            "several tokens at once cannot be converted (0 where there are no such layers)"
        )
    head_dim = _decoder(writer, config, path)
    _head_width(writer, head_dim)
    rope = config.get("rope_parameters") or {}
    part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 0.5))
    writer.add_rope_dimension_count(int(head_dim * part))
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _modern_bert(writer: gguf.GGUFWriter, config: Config, path: Path) -> None:
    """ModernBERT: no mask, every third layer sees all and the others a window, two bases of rotary positions, GeGLU."""
    for key, value in (
        ("hidden_activation", "gelu"),
        ("attention_bias", False),
        ("mlp_bias", False),
        ("norm_bias", False),
    ):
        _require(config, path, key, value)
    every, layers = config.get("global_attn_every_n_layers", 3), config["num_hidden_layers"]
    kinds = config.get("layer_types") or []
    _require({"layers that see all": every}, path, "layers that see all", 3)
    if any(kind != ("sliding_attention" if index % 3 else "full_attention") for index, kind in enumerate(kinds)):
        raise HanmoError(f"{path}: layer_types is {kinds}; llama.cpp lets layers 0, 3, 6, … see all")
    rope = config.get("rope_parameters") or {}
    bases = {
        kind: _rope_theta({"rope_parameters": rope.get(kind) or {"rope_theta": config.get(old)}}, path)
        for kind, old in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta"))
    }
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["norm_eps"])
    writer.add_sliding_window(config["local_attention"])
    writer.add_sliding_window_pattern(every)
    writer.add_rope_freq_base(bases["full_attention"])
    writer.add_rope_freq_base_swa(bases["sliding_attention"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _bert(writer: gguf.GGUFWriter, config: Config, path: Path) -> None:
    """BERT: norms behind each part, learnt positions and kinds of text, biases everywhere."""
    _require(config, path, "hidden_act", "gelu")
    _require(config, path, "position_embedding_type", "absolute")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config.get("layer_norm_eps", 1e-12))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_token_type_count(config.get("type_vocab_size", 2))
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _require(config: Config, path: Path, key: str, value: Any) -> None:
    found = config.get(key, value)
    if found != value:
        raise HanmoError(f"{path}: {key} is {found!r}; llama.cpp's graph of this model has {value!r} only")


def _square_heads(config: Config, path: Path, head_dim: int) -> None:
    """llama.cpp's graphs of Qwen2 divide the width among the heads."""
    _require({**config, "head_dim": head_dim}, path, "head_dim", config["hidden_size"] // config["num_attention_heads"])


def _rope_theta(config: Config, path: Path) -> float:
    """The base of the rotary positions; transformers 5 keeps it in `rope_parameters`, earlier ones beside it."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise HanmoError(f"{path}: rope_type is {kind!r}; only plain rotary positions (default) can be converted")
    return float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)


#: Class in config.json -> how it is written.
ARCHITECTURES: dict[str, Architecture] = {
    "Qwen3ForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN3, _qwen3),
    "Qwen2ForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN2, _qwen2),
    "LlamaForCausalLM": Architecture(gguf.MODEL_ARCH.LLAMA, _llama, layout=((r"\.(q_proj|k_proj)\.weight$", ROTARY),)),
    "GPT2LMHeadModel": Architecture(
        gguf.MODEL_ARCH.GPT2, _gpt2, layout=((r"\.(c_attn|c_proj|c_fc)\.weight$", COLUMNS),), tied=True
    ),
    "Qwen2MoeForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN2MOE, _qwen2_moe, own_head=True),
    **dict.fromkeys(
        ("ModernBertForMaskedLM", "ModernBertModel"),
        Architecture(
            gguf.MODEL_ARCH.MODERN_BERT,
            _modern_bert,
            tied=True,
            encoder=True,
            left_out=r"^(head|decoder)\.",
            absent=("blk.0.attn_norm.weight",),
        ),
    ),
    **dict.fromkeys(
        ("BertForMaskedLM", "BertForPreTraining", "BertModel"),
        Architecture(
            gguf.MODEL_ARCH.BERT,
            _bert,
            tied=True,
            encoder=True,
            left_out=r"^cls\.|^(bert\.)?(pooler\.|embeddings\.position_ids$)",
            absent=("output_norm.weight",),
        ),
    ),
    "Glm4MoeForCausalLM": Architecture(gguf.MODEL_ARCH.GLM4_MOE, _glm4_moe),
}
