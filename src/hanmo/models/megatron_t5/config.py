"""Configuration and presets of Megatron's T5."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from hanmo.errors import HanmoError, nearest

#: Randeng's vocabulary: BERT's 21,128 Chinese pieces, [BOS], [EOS] and 118 sentinels.
VOCABULARY = 21248
_BOS, _EOS = 21128, 21129


class MegatronT5Config(PreTrainedConfig):
    """Shape of an encoder-decoder; the names are T5's.

    `layer_norm_epsilon` and the activation ("gelu", the exact one) are Megatron's. Rows are at most
    `max_position_embeddings` tokens long, on either side.
    """

    model_type = "hanmo_megatron_t5"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (transformers wants this form)
    attribute_map = {  # noqa: RUF012
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }

    vocab_size: int = VOCABULARY
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 9
    num_decoder_layers: int | None = None
    num_heads: int = 8
    max_position_embeddings: int = 512
    dropout_rate: float | int = 0.1
    layer_norm_epsilon: float = 1e-5
    feed_forward_proj: str = "gelu"
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = _BOS
    eos_token_id: int | list[int] | None = _EOS
    decoder_start_token_id: int | None = _BOS
    is_encoder_decoder: bool = True
    use_cache: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: object) -> None:
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_layers
        super().__post_init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> MegatronT5Config:  # type: ignore[override]
        """This configuration, or the half's: caches are made for as many layers as the decoder's has."""
        config = super().get_text_config(decoder=decoder, encoder=encoder)
        if decoder and not encoder:
            config.num_layers = self.num_decoder_layers
        return config  # type: ignore[return-value]


@dataclass(frozen=True)
class T5Preset:
    """Shape of an encoder-decoder: width, feed-forward width, layers of each half, heads of `head_dim` channels."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    head_dim: int
    about: str


MEGATRON_T5: dict[str, T5Preset] = {
    "randeng-2m": T5Preset(128, 512, 3, 4, 32, "for a CPU and a vocabulary of its own: minutes"),
    "randeng-77m": T5Preset(512, 2048, 9, 8, 64, "an afternoon on one GPU"),
    "randeng-770m": T5Preset(1024, 4096, 24, 16, 64, "Randeng's large shape"),
}


def megatron_t5_config(
    name: str, vocab_size: int = VOCABULARY, context: int = 512, bos: int = _BOS, eos: int = _EOS, pad: int = 0
) -> MegatronT5Config:
    """The configuration of a preset.

    Args:
        name: a key of `MEGATRON_T5`.
        vocab_size: rows of the embedding; rounded up to a multiple of 64, which matrix products like.
        context: the longest row in tokens, of either half.
        bos, eos, pad: ids that open and end what the decoder writes, and that fill rows up.

    Raises:
        HanmoError: there is no such preset.
    """
    if name not in MEGATRON_T5:
        raise HanmoError(f"preset '{name}' is unknown{nearest(name, MEGATRON_T5)} (known: {', '.join(MEGATRON_T5)})")
    shape = MEGATRON_T5[name]
    return MegatronT5Config(
        vocab_size=(vocab_size + 63) // 64 * 64,
        d_model=shape.hidden,
        d_kv=shape.head_dim,
        d_ff=shape.ffn,
        num_layers=shape.layers,
        num_heads=shape.heads,
        max_position_embeddings=context,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
        decoder_start_token_id=bos,
    )


def count_megatron_t5(name: str, vocab_size: int = VOCABULARY, context: int = 512) -> int:
    """Parameters of a preset in closed form, the head counted with the embedding that it is.

    With width d, attention width a and feed-forward width f, attention has 4 d a + 3 a + d, the feed-forward part
    2 d f + f + d, and each part a norm of 2 d before it; an encoder layer has one attention, a decoder layer two.
    Beside the layers there are words, positions, two last norms and the head's bias. With the published vocabulary and
    512 positions that is 77,372,160 for 77m and 727,737,088 for 770m. (A list of weights names the embeddings three
    times, once for each half: counted so, the larger one has 772,301,568.)
    """
    shape, rows = MEGATRON_T5[name], (vocab_size + 63) // 64 * 64
    d, f, a = shape.hidden, shape.ffn, shape.heads * shape.head_dim
    attention, feed_forward = 4 * d * a + 3 * a + d + 2 * d, 2 * d * f + f + d + 2 * d
    layers = shape.layers * (3 * attention + 2 * feed_forward)
    return (rows + context) * d + layers + 4 * d + rows
