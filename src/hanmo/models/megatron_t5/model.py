"""Megatron's T5 as Randeng has it: not a stock T5, and no stock class computes it.

What differs from T5 (Raffel et al., arXiv:1910.10683): LayerNorm with mean and bias, biases in every projection,
learned absolute positions added to the words and no relative bias, scores divided by the square root of a head's width,
the exact GELU, and a bias behind the head, which is the word embedding. Modules are named as in published checkpoints,
whose weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import AutoModelForSeq2SeqLM
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hanmo.models.attention import eager
from hanmo.models.loss import IGNORE
from hanmo.models.megatron_t5.config import MegatronT5Config


class MegatronT5Embeddings(nn.Module):
    """Words and learned places, shared by both halves."""

    def __init__(self, config: MegatronT5Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.d_model)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, input_ids: Tensor | None, position_ids: Tensor, inputs_embeds: Tensor | None = None) -> Tensor:
        """[rows, length, d] of ids [rows, length] or their vectors, and places [rows, length]."""
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        return self.dropout(words + self.position_embeddings(position_ids))


class MegatronT5Attention(nn.Module):
    """Scaled attention of a half to itself, or of the decoder to the encoder's states."""

    def __init__(self, config: MegatronT5Config, layer_idx: int, is_causal: bool) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, is_causal
        self.head_dim, self.scaling = config.d_kv, config.d_kv**-0.5
        inner = config.num_heads * config.d_kv
        self.q = nn.Linear(config.d_model, inner)
        self.k = nn.Linear(config.d_model, inner)
        self.v = nn.Linear(config.d_model, inner)
        self.o = nn.Linear(inner, config.d_model)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        encoder_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """([rows, length, d], the weights where the implementation gives them).

        Args:
            encoder_states: [rows, encoder length, d]; None: attention to itself.
        """
        query = self._heads(self.q(hidden_states))
        crosses, cache, done = encoder_states is not None, past_key_values, False
        if isinstance(past_key_values, EncoderDecoderCache):
            done = crosses and bool(past_key_values.is_updated.get(self.layer_idx))
            cache = past_key_values.cross_attention_cache if crosses else past_key_values.self_attention_cache
        if done:  # the encoder's keys do not change while text is written
            assert cache is not None
            layer: Any = cache.layers[self.layer_idx]
            key, value = layer.keys, layer.values
        else:
            states = hidden_states if encoder_states is None else encoder_states
            key, value = self._heads(self.k(states)), self._heads(self.v(states))
            if cache is not None:
                key, value = cache.update(key, value, self.layer_idx)
                if crosses and isinstance(past_key_values, EncoderDecoderCache):
                    past_key_values.is_updated[self.layer_idx] = True
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or "eager", eager
        )
        found, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0, **kwargs)
        return self.o(found.reshape(*hidden_states.shape[:-1], -1)), weights

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)


class MegatronT5LayerSelfAttention(nn.Module):
    """Norm and attention to itself, added to the stream."""

    def __init__(self, config: MegatronT5Config, layer_idx: int, is_causal: bool) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.SelfAttention = MegatronT5Attention(config, layer_idx, is_causal)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """(the stream [rows, length, d], the weights)."""
        found, weights = self.SelfAttention(self.layer_norm(hidden_states), **kwargs)
        return hidden_states + self.dropout(found), weights


class MegatronT5LayerCrossAttention(nn.Module):
    """Norm and attention to the encoder's states, added to the stream."""

    def __init__(self, config: MegatronT5Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.EncDecAttention = MegatronT5Attention(config, layer_idx, is_causal=False)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """(the stream [rows, length, d], the weights)."""
        found, weights = self.EncDecAttention(self.layer_norm(hidden_states), **kwargs)
        return hidden_states + self.dropout(found), weights


class MegatronT5Dense(nn.Module):
    """The feed-forward part."""

    def __init__(self, config: MegatronT5Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff)
        self.wo = nn.Linear(config.d_ff, config.d_model)
        self.activation = ACT2FN[config.feed_forward_proj]
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[rows, length, d]."""
        return self.wo(self.dropout(self.activation(self.wi(hidden_states))))


class MegatronT5LayerFF(nn.Module):
    """Norm and feed-forward part, added to the stream."""

    def __init__(self, config: MegatronT5Config) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.DenseReluDense = MegatronT5Dense(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[rows, length, d]."""
        return hidden_states + self.dropout(self.DenseReluDense(self.layer_norm(hidden_states)))


class MegatronT5Block(GradientCheckpointingLayer):
    """A layer of the encoder, or of the decoder, which also looks at the encoder."""

    def __init__(self, config: MegatronT5Config, layer_idx: int, is_decoder: bool) -> None:
        super().__init__()
        self.T5LayerSelfAttention = MegatronT5LayerSelfAttention(config, layer_idx, is_decoder)
        self.T5LayerCrossAttention = MegatronT5LayerCrossAttention(config, layer_idx) if is_decoder else None
        self.T5LayerFF = MegatronT5LayerFF(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        encoder_states: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The stream behind the layer, [rows, length, d]; masks are [rows, 1, length, keys] as attention takes them."""
        hidden_states, _ = self.T5LayerSelfAttention(
            hidden_states, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
        )
        if self.T5LayerCrossAttention is not None:
            hidden_states, _ = self.T5LayerCrossAttention(
                hidden_states,
                attention_mask=encoder_mask,
                encoder_states=encoder_states,
                past_key_values=past_key_values,
                **kwargs,
            )
        return self.T5LayerFF(hidden_states)


class MegatronT5PreTrainedModel(PreTrainedModel):
    """What transformers must know of the class."""

    config: MegatronT5Config  # type: ignore[assignment]
    config_class = MegatronT5Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MegatronT5Block"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    # A buffer of published checkpoints that counts from 0.
    _keys_to_ignore_on_load_unexpected = [r"position_ids"]  # noqa: RUF012
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": MegatronT5Block,
        "attentions": MegatronT5LayerSelfAttention,
        "cross_attentions": MegatronT5LayerCrossAttention,
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MegatronT5ForConditionalGeneration):
            init.zeros_(module.lm_head_bias)


class MegatronT5Stack(MegatronT5PreTrainedModel):
    """One half: embeddings, layers and a norm."""

    def __init__(self, config: MegatronT5Config, shared: MegatronT5Embeddings, is_decoder: bool) -> None:
        super().__init__(config)
        self.is_decoder = is_decoder
        self.embed_tokens = shared
        count = config.num_decoder_layers if is_decoder else config.num_layers
        assert count is not None
        self.block = nn.ModuleList(MegatronT5Block(config, number, is_decoder) for number in range(count))
        self.final_layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Last hidden states [rows, length, d], behind the last norm.

        Args:
            input_ids: [rows, length]; `inputs_embeds` [rows, length, d] in its place.
            attention_mask: [rows, cached + length], 0 at padding, which is not counted as a place.
            encoder_hidden_states, encoder_attention_mask: what the decoder looks at, [rows, encoder length, d] and
                [rows, encoder length].

        Raises:
            ValueError: the row is longer than there are positions.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of them")
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None
        if not self.is_decoder:
            past_key_values = None
        elif use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        length, past = given.shape[1], int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        if attention_mask is not None and attention_mask.dim() == 2:
            place = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, past : past + length]
        else:
            place = torch.arange(past, past + length, device=given.device)[None]
        longest = self.config.max_position_embeddings
        if past + length > longest and int(place.max()) >= longest:
            raise ValueError(f"{past + length} tokens in a row, and the model has {longest} positions; cut the text")
        hidden = self.embed_tokens(input_ids, place, inputs_embeds)
        cross = None
        if self.is_decoder:
            own = past_key_values
            if isinstance(own, EncoderDecoderCache):
                own = own.self_attention_cache
            mask = create_causal_mask(self.config, hidden, attention_mask, past_key_values=own)
            cross = create_bidirectional_mask(
                self.config, hidden, encoder_attention_mask, encoder_hidden_states=encoder_hidden_states
            )
        else:
            mask = create_bidirectional_mask(self.config, hidden, attention_mask)
        for block in self.block:
            hidden = block(hidden, mask, encoder_hidden_states, cross, past_key_values=past_key_values, **kwargs)
        hidden = self.dropout(self.final_layer_norm(hidden))
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden, past_key_values=past_key_values)


class MegatronT5ForConditionalGeneration(MegatronT5PreTrainedModel, GenerationMixin):
    """Encoder, decoder and the head that is the word embedding with a bias."""

    _tied_weights_keys = {  # noqa: RUF012
        f"{half}.embed_tokens.{what}.weight": f"shared.{what}.weight"
        for half in ("encoder", "decoder")
        for what in ("word_embeddings", "position_embeddings")
    }

    def __init__(self, config: MegatronT5Config) -> None:
        super().__init__(config)
        self.shared = MegatronT5Embeddings(config)
        self.encoder = MegatronT5Stack(config, self.shared, is_decoder=False)
        self.decoder = MegatronT5Stack(config, self.shared, is_decoder=True)
        self.lm_head_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.shared.word_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Logits [rows, decoder length, vocabulary], and with `labels` the loss in nats.

        Args:
            input_ids, attention_mask: of the encoder, [rows, encoder length].
            decoder_input_ids, decoder_attention_mask: what is written so far, [rows, decoder length].
            encoder_outputs: in place of the encoder's inputs.
            labels: [rows, decoder length], -100 where nothing is to be learned; without decoder inputs these are the
                labels behind the opening token.
            num_items_in_batch: what the loss is divided by; else the number of labels that count.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
            )
        elif not isinstance(encoder_outputs, BaseModelOutput | BaseModelOutputWithPastAndCrossAttentions):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        logits = F.linear(outputs.last_hidden_state, self.shared.word_embeddings.weight, self.lm_head_bias)
        loss = None
        if labels is not None:
            total = F.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
            )
            loss = total / ((labels != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch)
        return Seq2SeqLMOutput(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The labels moved one place on, behind the opening token; padding where nothing is to be learned."""
        opening, padding = self.config.decoder_start_token_id, self.config.pad_token_id
        if opening is None or padding is None:
            raise ValueError("labels alone need decoder_start_token_id and pad_token_id in the configuration")
        start = torch.full_like(labels[:, :1], opening)
        return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, padding)], 1)


AutoModelForSeq2SeqLM.register(MegatronT5Config, MegatronT5ForConditionalGeneration)
