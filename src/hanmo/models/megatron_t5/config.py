"""Configuration of Megatron's T5."""

from __future__ import annotations

from transformers import PreTrainedConfig

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
        "intermediate_size": "d_ff",
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
