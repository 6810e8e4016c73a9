"""Presets of models by name: ours, stock Qwen3 in sizes from a toy to 1.5B, and the families of the field.

Qwen3 is what transformers, vLLM and llama.cpp all run unchanged: pre-norm RMSNorm, rotary positions, grouped-query
attention with normalised queries and keys, SwiGLU, no biases, input and output embeddings tied. A preset fixes the
shape; vocabulary and context come from the recipe, so the name of one of ours counts parameters at a vocabulary that
fits it. Those with a published vocabulary count what was published with that. `hanmo.models.families` has what each
family's configuration says, and what its models learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Preset:
    """Shape of a model: widths in channels, `ffn` the inner width, heads of `head_dim` channels each.

    Attributes:
        layers: how many; of an encoder-decoder, in each half.
        family: `model_type` of transformers.
        vocab: tokens that the published model has; 0 where there is none.
        context: tokens of the published model's rows; 0 where there is none.
        tied: whether its head is the input embedding.
        own: keys of its class's configuration that its family does not follow from the rest.
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
    context: int = 0
    tied: bool = True
    own: Mapping[str, Any] = field(default_factory=dict)


def _tiny(hidden: int, ffn: int, layers: int, heads: int, about: str, context: int = 1024) -> Preset:
    """A model of Tiny LLM zh: stock Qwen2, with biases at queries, keys and values."""
    return Preset(hidden, ffn, layers, heads, heads, hidden // heads, about, "qwen2", 64798, context, False)


def _experts(
    hidden: int,
    ffn: int,
    layers: int,
    heads: int,
    kv_heads: int,
    experts: int,
    chosen: int,
    about: str,
    family: str = "glm4_moe",
) -> Preset:
    """A mixture of experts with one shared expert, all of the inner width `ffn`.

    GLM-4-MoE's head is its own: vLLM does not tie it.
    """
    number = "n_routed_experts" if family == "glm4_moe" else "num_experts"
    own = {number: experts, "num_experts_per_tok": chosen}
    return Preset(hidden, ffn, layers, heads, kv_heads, hidden // heads, about, family, tied=False, own=own)


def _plain(
    family: str, hidden: int, layers: int, heads: int, about: str, vocab: int, context: int, **own: Any
) -> Preset:
    """A model with a feed-forward part of four widths and as many key heads as query heads."""
    return Preset(hidden, 4 * hidden, layers, heads, heads, hidden // heads, about, family, vocab, context, own=own)


def _modern(
    hidden: int, ffn: int, layers: int, heads: int, about: str, vocab: int = 50368, context: int = 8192
) -> Preset:
    """A ModernBERT, with the vocabulary and context of the published (English) ones."""
    return Preset(hidden, ffn, layers, heads, heads, hidden // heads, about, "modernbert", vocab, context)


#: LingLong's rows of tokens: characters, and words.
_LINGLONG, _LINGLONG_WORDS = 13312, 26240
#: BERT's 21,128 Chinese pieces, filled up by Megatron.
_MEGATRON = 21248
_GPT2 = 50257
_SPARSE = {"attn_mode": "sparse"}
_BLOCKS = {**_SPARSE, "attn_stride": 32, "attn_c": 4}


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
    "hanmo-moe-2m-a1m": _experts(128, 64, 4, 4, 2, 8, 2, "experts; for tests: seconds on a laptop"),
    "hanmo-moe-70m-a20m": _experts(
        384, 384, 8, 6, 3, 16, 2, "experts for a CPU: hanmo-16m's work, four times its size"
    ),
    "hanmo-moe-1b-a250m": _experts(1024, 448, 20, 16, 4, 32, 4, "experts: days on one GPU, a day on eight"),
    "hanmo-moe-2m-a1m-qwen2": _experts(128, 64, 4, 4, 2, 8, 2, "the same as a Qwen2-MoE, by a loss", "qwen2_moe"),
    "hanmo-moe-70m-a20m-qwen2": _experts(384, 384, 8, 6, 3, 16, 2, "the same as a Qwen2-MoE, by a loss", "qwen2_moe"),
    "tinyllm-16m": _tiny(120, 384, 6, 6, "Tiny LLM zh, 16.7M with ChatGLM3's vocabulary", 512),
    "tinyllm-42m": _tiny(288, 768, 6, 6, "Tiny LLM zh, 43.3M", 512),
    "tinyllm-92m": _tiny(512, 1408, 8, 8, "Tiny LLM zh, 92.1M"),
    "tinyllm-210m": _tiny(768, 2048, 16, 12, "Tiny LLM zh, 212.8M"),
    "tinyllm-440m": _tiny(1024, 2816, 24, 16, "Tiny LLM zh, 441M"),
    "tinyllm-1b5": _tiny(2048, 5504, 24, 16, "Tiny LLM zh, 1.48B"),
    "tinyllama-1.1b-zh": Preset(
        2048, 5632, 22, 32, 4, 64, "Chinese TinyLlama, 1,235,314,688 parameters", "llama", 65024, 2048, False
    ),
    "wenzhong-2m": _plain("gpt2", 192, 4, 6, "GPT-2 for a CPU and a vocabulary of its own: minutes", 0, 0),
    "wenzhong-110m": _plain("gpt2", 768, 12, 12, "Wenzhong's small shape, GPT-2's base", _GPT2, 1024),
    "wenzhong-3.5b": _plain("gpt2", 3072, 30, 32, "Wenzhong, 3.556B; Yuyuan is it, continued", _GPT2, 1024),
    # The blocks are shorter, so that a context of 256 has several.
    "linglong-1m": _plain("linglong", 128, 4, 4, "LingLong for a CPU: minutes", 0, 256, **_BLOCKS),
    "linglong-1m-backward": _plain(
        "linglong", 128, 4, 4, "LingLong for a CPU, from right to left", 0, 256, **_BLOCKS, backward=True
    ),
    "linglong-1m-pinyin": _plain(
        "linglong", 128, 4, 4, "LingLong for a CPU, with pinyin", 0, 256, **_BLOCKS, use_pinyin=True
    ),
    "linglong-106m": _plain("linglong", 768, 12, 16, "LingLong, dense", _LINGLONG, 1024),
    "linglong-106m-word": _plain("linglong", 768, 12, 16, "LingLong on words", _LINGLONG_WORDS, 1024),
    "linglong-317m": _plain("linglong", 1024, 24, 16, "LingLong, sparse", _LINGLONG, 1024, **_SPARSE),
    "linglong-317m-backward": _plain(
        "linglong", 1024, 24, 16, "LingLong from right to left", _LINGLONG, 1024, **_SPARSE, backward=True
    ),
    "linglong-318m-pinyin": _plain(
        "linglong", 1024, 24, 16, "LingLong with pinyin", _LINGLONG, 1024, **_SPARSE, use_pinyin=True
    ),
    "erlangshen-2m": _plain("megatron-bert", 192, 4, 6, "fills masks; for a CPU: minutes", 0, 0),
    "erlangshen-110m": _plain("megatron-bert", 768, 12, 12, "fills masks; BERT base's shape", _MEGATRON, 512),
    "erlangshen-330m": _plain("megatron-bert", 1024, 24, 16, "fills masks; BERT large's shape", _MEGATRON, 512),
    "erlangshen-1.3b": _plain("megatron-bert", 2048, 24, 8, "fills masks; Erlangshen 1.3B", _MEGATRON, 512),
    "modernbert-2m": _modern(192, 288, 6, 6, "fills masks, rotary and partly local; for a CPU: minutes", 0, 0),
    "modernbert-150m": _modern(768, 1152, 22, 12, "fills masks; ModernBERT base's shape"),
    "modernbert-395m": _modern(1024, 2624, 28, 16, "fills masks; ModernBERT large's shape"),
    "zhouwenwang-2m": _plain("hanmo_unified", 192, 4, 6, "fills masks and writes; for a CPU: minutes", 0, 0),
    "zhouwenwang-110m": _plain("hanmo_unified", 768, 12, 12, "fills masks and writes", _MEGATRON, 512),
    "zhouwenwang-1.3b": _plain("hanmo_unified", 2048, 24, 8, "Zhouwenwang's large shape", _MEGATRON, 512),
    "randeng-2m": _plain("hanmo_megatron_t5", 128, 3, 4, "fills gaps; for a CPU: minutes", 0, 0),
    "randeng-77m": _plain("hanmo_megatron_t5", 512, 9, 8, "fills gaps: an afternoon on one GPU", _MEGATRON, 512),
    "randeng-770m": _plain("hanmo_megatron_t5", 1024, 24, 16, "Randeng's large shape", _MEGATRON, 512),
    "t5-1m": Preset(128, 256, 3, 4, 4, 32, "stock T5 1.1 for a CPU: minutes", "t5"),
    "t5-60m": Preset(512, 1024, 8, 6, 6, 64, "stock T5 1.1, the small one, tied", "t5", 32128, 512),
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


def build_config(name: str, vocab_size: int, context: int, tied: bool | None = None, **other: Any) -> PreTrainedConfig:
    """The transformers configuration of a preset.

    Args:
        name: a key of `PRESETS`.
        other: fields of `Preset` that are to be other ones.
        vocab_size: rows of the embedding; where no published model has a number of its own, it is rounded up to a
            multiple of 64, which matrix products like.
        context: the longest sequence in tokens that the model is meant for.
        tied: the head is the input embedding; otherwise a matrix of its own, which costs no time. None: as the preset.
    """
    from transformers import AutoConfig

    from hanmo.models.families import FAMILIES

    shape = replace(preset(name), **other)
    shape = replace(shape, tied=shape.tied if tied is None else tied)
    keys = FAMILIES[shape.family].keys(shape, context)
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    # A padding id would keep that row of the embedding untrained, and ours opens every document.
    return AutoConfig.for_model(shape.family, **{"vocab_size": _rows(shape, vocab_size), **ids, **keys, **shape.own})


def _rows(shape: Preset, vocab_size: int) -> int:
    return vocab_size if shape.vocab else (vocab_size + 63) // 64 * 64


def count_parameters(name: str, vocab_size: int, context: int = 512) -> int:
    """Parameters of a preset (tied embeddings counted once).

    Args:
        context: of models with a table of positions.
    """
    from hanmo.models.families import FAMILIES

    shape = preset(name)
    return FAMILIES[shape.family].count(shape, _rows(shape, vocab_size), context)


def count_active(name: str, vocab_size: int, context: int = 512) -> int:
    """Parameters of a preset that a token meets: all, but of its experts those that are chosen."""
    from hanmo.models.families import idle_in_experts

    return count_parameters(name, vocab_size, context) - idle_in_experts(preset(name))
