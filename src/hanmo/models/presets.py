"""Presets of decoders by name: ours, stock Qwen3 in sizes from a toy to 1.5B, and the published ones of the field.

Qwen3 is what transformers, vLLM and llama.cpp all run unchanged: pre-norm RMSNorm, rotary positions, grouped-query
attention with normalised queries and keys, SwiGLU, no biases, input and output embeddings tied. A preset fixes the
shape; vocabulary and context come from the recipe, so the name of one of ours counts parameters at a vocabulary that
fits it. The published ones are stock classes as well, with the shapes that were released.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Preset:
    """Shape of a decoder: widths in channels, `ffn` the inner width of SwiGLU, heads of `head_dim` channels each.

    Attributes:
        family: `model_type` of transformers.
        vocab: tokens that the published model has; 0 where there is none.
        tied: whether its head is the input embedding.
    """

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    about: str
    family: str = "qwen3"
    vocab: int = 0
    tied: bool = True


def _tiny(hidden: int, ffn: int, layers: int, heads: int, about: str) -> Preset:
    """A model of Tiny LLM zh: stock Qwen2, with biases at queries, keys and values."""
    return Preset(hidden, ffn, layers, heads, heads, hidden // heads, about, "qwen2", 64798, False)


PRESETS: dict[str, Preset] = {
    "hanmo-1m": Preset(128, 384, 4, 4, 2, 32, "for tests: 1M parameters, seconds on a laptop"),
    "hanmo-2m": Preset(192, 640, 4, 6, 3, 32, "for the demo: learns a small world in minutes on two cores"),
    "hanmo-4m": Preset(256, 768, 5, 4, 2, 64, "a small world in more minutes, or rhymes"),
    "hanmo-8m": Preset(320, 960, 6, 5, 5, 64, "a first model of real text in half an hour on four cores"),
    "hanmo-16m": Preset(384, 1152, 8, 6, 3, 64, "an afternoon on a laptop"),
    "hanmo-42m": Preset(512, 1536, 12, 8, 4, 64, "a night on a laptop, an hour on a GPU"),
    "hanmo-92m": Preset(640, 2048, 18, 10, 5, 64, "hours on one GPU"),
    "hanmo-210m": Preset(896, 2816, 22, 14, 7, 64, "a day on one GPU"),
    "hanmo-440m": Preset(1152, 3584, 28, 18, 6, 64, "days on one GPU, a day on eight"),
    "hanmo-1b1": Preset(2048, 5632, 24, 16, 4, 128, "about TinyLlama's shape: days on eight GPUs"),
    "hanmo-1b5": Preset(2048, 6144, 28, 16, 8, 128, "a week on eight GPUs"),
    "tinyllm-16m": _tiny(120, 384, 6, 6, "Tiny LLM zh, 16.7M with ChatGLM3's vocabulary, context 512"),
    "tinyllm-42m": _tiny(288, 768, 6, 6, "Tiny LLM zh, 43.3M, context 512"),
    "tinyllm-92m": _tiny(512, 1408, 8, 8, "Tiny LLM zh, 92.1M, context 1024"),
    "tinyllm-210m": _tiny(768, 2048, 16, 12, "Tiny LLM zh, 212.8M, context 1024"),
    "tinyllm-440m": _tiny(1024, 2816, 24, 16, "Tiny LLM zh, 441M, context 1024"),
    "tinyllm-1b5": _tiny(2048, 5504, 24, 16, "Tiny LLM zh, 1.48B, context 1024"),
    "tinyllama-1.1b-zh": Preset(
        2048, 5632, 22, 32, 4, 64, "Chinese TinyLlama, 1,235,314,688 parameters", "llama", 65024, False
    ),
}


def full_name(name: str) -> str:
    """The key in `PRESETS`: "92m" is short for "hanmo-92m". An unknown name is an error that names the nearest."""
    found = name if name in PRESETS else f"hanmo-{name.lower()}"
    preset(found if found in PRESETS else name)
    return found


def preset(name: str) -> Preset:
    """Look a preset up; an unknown name is an error that names the nearest."""
    if name not in PRESETS:
        raise HanmoError(f"preset '{name}' is unknown{nearest(name, PRESETS)} (known: {', '.join(PRESETS)})")
    return PRESETS[name]


def build_config(name: str, vocab_size: int, context: int, tied: bool | None = None, **other: int) -> PreTrainedConfig:
    """The transformers configuration of a preset.

    Args:
        name: a key of `PRESETS`.
        other: fields of `Preset` that are to be other ones.
        vocab_size: rows of the embedding; ours round it up to a multiple of 64, which matrix products like.
        context: the longest sequence in tokens that the model is meant for.
        tied: the head is the input embedding; otherwise a matrix of its own, which costs no time. None: as the preset.
    """
    from transformers import AutoConfig

    shape = replace(preset(name), **other)
    return AutoConfig.for_model(
        shape.family,
        vocab_size=_rows(shape, vocab_size),
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=shape.tied if tied is None else tied,
        rms_norm_eps=1e-6,
        bos_token_id=None,
        eos_token_id=0,
        # A padding id would keep that row of the embedding untrained, and ours opens every document.
        pad_token_id=None,
        **_own(shape),
    )


def _own(shape: Preset) -> dict[str, Any]:
    """What only some classes have to be told."""
    own: dict[str, dict[str, Any]] = {
        "qwen3": {"head_dim": shape.head_dim, "attention_bias": False},
        "llama": {"head_dim": shape.head_dim, "attention_bias": False, "mlp_bias": False},
    }
    return own.get(shape.family, {})


def _rows(shape: Preset, vocab_size: int) -> int:
    return vocab_size if shape.vocab else (vocab_size + 63) // 64 * 64


def count_parameters(name: str, vocab_size: int) -> int:
    """Parameters of a preset in closed form (tied embeddings counted once)."""
    shape = preset(name)
    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * query + 2 * key_value)
    # Gains of queries and keys, or biases.
    attention += {"qwen3": 2 * shape.head_dim, "qwen2": query + 2 * key_value}.get(shape.family, 0)
    layer = attention + 3 * shape.hidden * shape.ffn + 2 * shape.hidden
    ends = (1 if shape.tied else 2) * _rows(shape, vocab_size) * shape.hidden
    return ends + shape.layers * layer + shape.hidden
