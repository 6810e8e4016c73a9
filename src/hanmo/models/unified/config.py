"""Configuration and presets of the unified model."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from hanmo.errors import HanmoError, nearest

#: The vocabulary of the published models: BERT's 21,128 Chinese pieces filled up for even products.
VOCABULARY = 21248


class UnifiedConfig(PreTrainedConfig):
    """Shape of a unified model; the names are MegatronBert's, so that its configurations carry over.

    `max_position_embeddings` is only the context that the model was made for: rotary positions know no longest row.
    """

    model_type = "hanmo_unified"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (transformers wants this form)

    vocab_size: int = VOCABULARY
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    rope_theta: float | int = 10000.0
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True


@dataclass(frozen=True)
class UnifiedPreset:
    """Shape of a unified model: width, layers, heads and the feed-forward width."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    about: str


UNIFIED: dict[str, UnifiedPreset] = {
    "unified-2m": UnifiedPreset(192, 4, 6, 768, "for a CPU and a vocabulary of its own: minutes"),
    "unified-110m": UnifiedPreset(768, 12, 12, 3072, "Zhouwenwang's small shape, that of BERT base"),
    "unified-1.3b": UnifiedPreset(2048, 24, 8, 8192, "Zhouwenwang's large shape, that of Erlangshen 1.3B"),
}


def unified_config(name: str, vocab_size: int = VOCABULARY, context: int = 512) -> UnifiedConfig:
    """The configuration of a preset.

    Args:
        name: a key of `UNIFIED`.
        vocab_size: rows of the embedding; rounded up to a multiple of 64, which matrix products like.
        context: the longest row in tokens that the model is meant for.

    Raises:
        HanmoError: there is no such preset.
    """
    if name not in UNIFIED:
        raise HanmoError(f"preset '{name}' is unknown{nearest(name, UNIFIED)} (known: {', '.join(UNIFIED)})")
    shape = UNIFIED[name]
    return UnifiedConfig(
        vocab_size=(vocab_size + 63) // 64 * 64,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        max_position_embeddings=context,
    )


def count_unified(name: str, vocab_size: int = VOCABULARY) -> int:
    """Parameters of a preset in closed form, the head counted with the embedding that it is.

    With width d and feed-forward width f a layer has 4 d² + 4 d (attention), 2 d f + f + d (feed-forward) and 4 d (two
    norms); beside the layers there are the rows of the vocabulary, two token types and the last norm. There are no
    positions, no transform before the head and no pooler. With the published vocabulary of 21,248 that is 101,376,000
    for the shape published as 110M (BERT base with its positions, pooler and transform has 103M there) and
    1,252,122,624 for 1.3B.
    """
    shape, rows = UNIFIED[name], (vocab_size + 63) // 64 * 64
    d, f = shape.hidden, shape.ffn
    layer = 4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d
    return rows * d + 2 * d + shape.layers * layer + 2 * d
