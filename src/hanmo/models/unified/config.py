"""Configuration of the unified model."""

from __future__ import annotations

from transformers import PreTrainedConfig

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
