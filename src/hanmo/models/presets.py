"""Presets of the default decoder: stock Qwen3 in sizes from a toy to 1.5B.

Qwen3 is what transformers, vLLM and llama.cpp all run unchanged: pre-norm RMSNorm, rotary positions, grouped-query
attention with normalised queries and keys, SwiGLU, no biases, input and output embeddings tied. A preset fixes the
shape; vocabulary and context come from the recipe, so a preset's name counts parameters at a vocabulary that fits it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hanmo.errors import HanmoError, nearest

if TYPE_CHECKING:
    from transformers import Qwen3Config


@dataclass(frozen=True)
class Preset:
    """Shape of a decoder: widths in channels, `ffn` the inner width of SwiGLU, heads of `head_dim` channels each."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    about: str


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


def build_config(name: str, vocab_size: int, context: int, tied: bool = True, **other: int) -> Qwen3Config:
    """The transformers configuration of a preset.

    Args:
        name: a key of `PRESETS`.
        other: fields of `Preset` that are to be other ones.
        vocab_size: rows of the embedding; rounded up to a multiple of 64, which matrix products like.
        context: the longest sequence in tokens that the model is meant for.
        tied: the head is the input embedding; otherwise a matrix of its own, which costs no time.
    """
    from transformers import Qwen3Config

    shape = replace(preset(name), **other)
    return Qwen3Config(
        vocab_size=(vocab_size + 63) // 64 * 64,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        rms_norm_eps=1e-6,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=0,
        # A padding id would keep that row of the embedding untrained, and ours opens every document.
        pad_token_id=None,
    )


def count_parameters(name: str, vocab_size: int) -> int:
    """Parameters of a preset in closed form (tied embeddings counted once)."""
    shape = preset(name)
    rows = (vocab_size + 63) // 64 * 64
    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * query + 2 * key_value) + 2 * shape.head_dim
    layer = attention + 3 * shape.hidden * shape.ffn + 2 * shape.hidden
    return rows * shape.hidden + shape.layers * layer + shape.hidden
