"""Parts of the unified model's layers: Megatron's, with rotated queries and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hanmo.models.attention import eager
from hanmo.models.unified.config import UnifiedConfig


def rotary(position: Tensor, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cosines, sines) of the angles of rotary positions in half-split order, each [rows, length, width].

    Args:
        position: [rows, length], the place in the document.
        width: of a head.
        base: the slowest angle turns `base` times slower than the fastest, about.
        dtype: of the result; the angles are computed in at least fp32.
    """
    exact = torch.promote_types(dtype, torch.float32)
    turns = base ** (-torch.arange(0, width, 2, dtype=exact, device=position.device) / width)
    angles = (position.to(exact)[..., None] * turns).repeat(1, 1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotated(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Queries or keys [rows, heads, length, width], channel i turned with channel i + width/2 by the angles."""
    first, second = states.chunk(2, -1)
    return states * cosine[:, None] + torch.cat([-second, first], -1) * sine[:, None]


class UnifiedEmbeddings(nn.Module):
    """Words and token types; positions are attention's matter."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor | None, token_type_ids: Tensor, inputs_embeds: Tensor | None = None) -> Tensor:
        """[rows, length, d] of ids [rows, length] or their vectors, and types [rows, length]."""
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        return self.dropout(words + self.token_type_embeddings(token_type_ids))


class UnifiedSelfAttention(nn.Module):
    """Projections, rotation and attention, without the output's projection."""

    def __init__(self, config: UnifiedConfig, layer_idx: int) -> None:
        super().__init__()
        if config.hidden_size % (2 * config.num_attention_heads):
            raise ValueError(
                f"hidden_size {config.hidden_size} does not give {config.num_attention_heads} heads of even width"
            )
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        # Attention without a mask looks both ways; kernels that assume otherwise ask here.
        self.is_causal = False
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """([rows, length, d], the weights where the implementation gives them)."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        query, key = (rotated(part, *position_embeddings) for part in (query, key))
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or "eager", eager
        )
        dropout = self.attention_dropout if self.training else 0.0
        found, weights = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, is_causal=False, **kwargs
        )
        return found.reshape(*hidden_states.shape[:-1], -1), weights


class UnifiedOutput(nn.Module):
    """A projection that is added to the stream."""

    def __init__(self, width: int, config: UnifiedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, stream: Tensor) -> Tensor:
        """[rows, length, d]."""
        return stream + self.dropout(self.dense(hidden_states))


class UnifiedAttention(nn.Module):
    """Norm, attention and the output's projection, added to the stream."""

    def __init__(self, config: UnifiedConfig, layer_idx: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self = UnifiedSelfAttention(config, layer_idx)
        self.output = UnifiedOutput(config.hidden_size, config)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """(the stream [rows, length, d], the weights)."""
        found, weights = self.self(self.ln(hidden_states), **kwargs)
        return self.output(found, hidden_states), weights


class UnifiedIntermediate(nn.Module):
    """The wide half of the feed-forward part."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[rows, length, ffn]."""
        return self.activation(self.dense(hidden_states))
