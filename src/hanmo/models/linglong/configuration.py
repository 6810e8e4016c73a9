"""The configuration of a LingLong model."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

#: Rows of the published pinyin vocabulary.
PINYIN_ROWS = 1354


@strict
class LingLongConfig(PreTrainedConfig):
    """Shape and rules of a LingLong model; the keys are those of its published configurations.

    Args:
        vocab_size: rows of the token embedding, which is the head as well.
        n_position: rows of the position embedding: the longest text in tokens.
        n_embd, n_layer, n_head: width, layers, heads of each layer.
        n_inner: width of the feed-forward parts; None is four times `n_embd`.
        activation_function: exact GELU is what the published weights were trained with.
        attn_mode: "dense", or "sparse": layers 1, 3, 5 … see their own block and the last columns of earlier blocks.
        attn_stride: tokens in a block.
        attn_c: columns of a block that later blocks see.
        use_pinyin: an embedding of pinyin ids is added to that of the tokens.
        n_vocab_pinyin: its rows.
        backward: trained on texts in reverse order; see `hanmo.models.linglong.generation`.

    Raises:
        ValueError: what no model can have.
    """

    model_type = "linglong"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012
    attribute_map = {  # noqa: RUF012
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_position",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 13312
    n_position: int = 1024
    n_embd: int = 1024
    n_layer: int = 24
    n_head: int = 16
    n_inner: int | None = None
    activation_function: str = "gelu"
    resid_pdrop: float | int = 0.1
    embd_pdrop: float | int = 0.1
    attn_pdrop: float | int = 0.1
    layer_norm_epsilon: float = 1e-8
    initializer_range: float = 0.02
    attn_mode: str = "dense"
    attn_stride: int = 128
    attn_c: int = 8
    use_pinyin: bool = False
    n_vocab_pinyin: int = PINYIN_ROWS
    backward: bool = False
    use_cache: bool = True
    bos_token_id: int | None = 10
    eos_token_id: int | list[int] | None = 8
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.n_inner is None:
            self.n_inner = 4 * self.n_embd

    def validate_architecture(self) -> None:
        """Called by transformers when a configuration is made."""
        if self.attn_mode not in ("dense", "sparse"):
            raise ValueError(f"attn_mode: '{self.attn_mode}' is neither dense nor sparse")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd: {self.n_embd} does not divide into {self.n_head} heads")
        if not 0 < self.attn_c <= self.attn_stride:
            raise ValueError(f"attn_c: {self.attn_c} is not between 1 and attn_stride ({self.attn_stride})")
