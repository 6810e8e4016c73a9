"""The unified model (Zhouwenwang's structure): a pre-norm encoder whose token types say which way it reads.

The skeleton is Megatron's BERT (Shoeybi et al., arXiv:1909.08053): LayerNorm before attention and feed-forward part and
once behind the last layer, biases everywhere, token types. There are no position embeddings: queries and keys are
rotated (Su et al., arXiv:2104.09864), in half-split order, which fast kernels want; `hanmo convert import`
brings the interleaved order of published checkpoints into it. Logits are the last hidden states times the word
embeddings. Which token sees which is in `hanmo.models.unified.masks`.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hanmo.models.loss import IGNORE
from hanmo.models.unified.config import UnifiedConfig
from hanmo.models.unified.layers import UnifiedAttention, UnifiedEmbeddings, UnifiedIntermediate, UnifiedOutput, rotary
from hanmo.models.unified.masks import additive, segments, targets, visible


class UnifiedLayer(GradientCheckpointingLayer):
    """A layer: called alone, as a packed step does, it needs the mask and the angles and gives the stream."""

    def __init__(self, config: UnifiedConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = UnifiedAttention(config, layer_idx)
        self.ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = UnifiedIntermediate(config)
        self.output = UnifiedOutput(config.intermediate_size, config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The stream behind the layer, [rows, length, d].

        Args:
            hidden_states: [rows, length, d].
            attention_mask: [rows, 1, length, keys], 0 or -inf; None: everything is seen.
            position_embeddings: cosines and sines of `rotary`.
        """
        attended, _ = self.attention(
            hidden_states,
            attention_mask=attention_mask,
            position_embeddings=position_embeddings,
            past_key_values=past_key_values,
            **kwargs,
        )
        return self.output(self.intermediate(self.ln(attended)), attended)


class UnifiedEncoder(nn.Module):
    """The layers and the norm behind them."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(UnifiedLayer(config, number) for number in range(config.num_hidden_layers))
        self.ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """[rows, length, d]."""
        for layer in self.layer:
            hidden_states = layer(hidden_states, **kwargs)
        return self.ln(hidden_states)


class UnifiedPreTrainedModel(PreTrainedModel):
    """What transformers must know of the class."""

    config: UnifiedConfig  # type: ignore[assignment]
    config_class = UnifiedConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["UnifiedLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": UnifiedLayer, "attentions": UnifiedAttention}  # noqa: RUF012


class UnifiedModel(UnifiedPreTrainedModel):
    """The model without its head."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config)
        self.embeddings = UnifiedEmbeddings(config)
        self.encoder = UnifiedEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put other word embeddings in."""
        self.embeddings.word_embeddings = value  # type: ignore[assignment]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        sees_all: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Last hidden states [rows, length, d], behind the last norm.

        Args:
            input_ids: [rows, length]; `inputs_embeds` [rows, length, d] in its place.
            attention_mask: [rows, cached + length], 0 at padding, on whichever side.
            token_type_ids: [rows, length], 0 or 1 (see `hanmo.models.unified.masks`). Left out: 0, and 1 behind a
                cache.
            position_ids: [rows, length]; where they begin anew in rows without padding, another document begins. Left
                out: places in the row, padding not counted.
            segment_ids: [rows, length], a number for each packed document.
            past_key_values: keys and values of the tokens before. They are exact for what no later token changes, so
                that behind a cache the first token must be of type 1.
            sees_all: token types only say which of two texts a token is of, and hide nothing.

        Raises:
            ValueError: a token of type 0 behind a cache, or documents packed behind one.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of them")
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None
        (rows, length), device = given.shape[:2], given.device
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        both_ways = sees_all or (token_type_ids is None and not past)
        if token_type_ids is None:
            token_type_ids = torch.full((rows, length), int(past > 0), dtype=torch.long, device=device)
        elif past and not bool((token_type_ids[:, 0] != 0).all()):
            raise ValueError(
                "behind a cache the first token must be of type 1: the cached tokens would have seen one of type 0; "
                "give it type 1, or run the whole row without a cache"
            )
        packed = position_ids is not None and attention_mask is None and not past
        if segment_ids is None and packed:
            segment_ids = segments(position_ids)  # type: ignore[arg-type]
        if segment_ids is not None and past:
            raise ValueError("documents packed into a row cannot go on from a cache; give each a row of its own")
        if position_ids is None:
            position_ids = _positions(attention_mask, rows, past, length, device)
        hidden = self.embeddings(input_ids, token_type_ids, inputs_embeds)
        keys = past + length
        if past_key_values is not None:
            keys = past_key_values.get_mask_sizes(length, 0)[0]
        mask = None  # everything is seen
        if not both_ways or past or keys != length or attention_mask is not None or segment_ids is not None:
            seen = visible(torch.zeros_like(token_type_ids) if sees_all else token_type_ids, segment_ids)
            # Every token before a row's new ones is seen; places that a cache of a fixed size has not filled are not.
            seen = F.pad(F.pad(seen, (past, 0), value=True), (0, keys - past - length), value=False)
            if attention_mask is not None:
                there = attention_mask.to(device=device, dtype=torch.bool)
                seen = seen & F.pad(there, (0, keys - there.shape[1]), value=False)[:, None, :]
                # Padding sees itself, or its softmax would be over nothing.
                own = torch.arange(keys, device=device) == torch.arange(past, past + length, device=device)[:, None]
                seen = seen | own
            mask = additive(seen, hidden.dtype)
        angles = rotary(
            position_ids,
            self.config.hidden_size // self.config.num_attention_heads,
            self.config.rope_theta,
            hidden.dtype,
        )
        hidden = self.encoder(
            hidden, attention_mask=mask, position_embeddings=angles, past_key_values=past_key_values, **kwargs
        )
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)


def _positions(mask: Tensor | None, rows: int, past: int, length: int, device: torch.device) -> Tensor:
    """Places in the row, padding not counted: [rows, length]."""
    if mask is None:
        return torch.arange(past, past + length, device=device).expand(rows, -1)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, past : past + length].to(device)


class UnifiedForMaskedLM(UnifiedPreTrainedModel, GenerationMixin):
    """The model with its head, for all three tasks: it fills masks, and it writes."""

    #: The type of tokens whose types are not said; None: as the model without its head takes them.
    _untold: int | None = None
    _tied_weights_keys = {"lm_head.weight": "bert.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config)
        self.bert = UnifiedModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [rows, length, vocabulary], and with `labels` the loss in nats.

        Args:
            labels: [rows, length], the text's ids where something is to be learned and -100 elsewhere. One of type 0 is
                answered at its own place, one of type 1 by the token before it (`masks.targets`).
            logits_to_keep: logits of the last so many places only (0: of all), or of the places named.
            num_items_in_batch: what the loss is divided by; else the number of labels that count.
        """
        if token_type_ids is None and self._untold is not None:
            given = input_ids if input_ids is not None else inputs_embeds
            assert given is not None
            token_type_ids = torch.full(given.shape[:2], self._untold, device=given.device)
        outputs = self.bert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            segment_ids=segment_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        loss = None
        if labels is not None:
            types = torch.zeros_like(labels) if token_type_ids is None else token_type_ids
            if segment_ids is None and position_ids is not None and attention_mask is None:
                segment_ids = segments(position_ids)
            answers = targets(labels, types, segment_ids)
            every = logits if hidden.shape[1] == logits.shape[1] else self.lm_head(hidden)
            total = sum(
                F.cross_entropy(every.float().flatten(0, 1), answer.flatten(), ignore_index=IGNORE, reduction="sum")
                for answer in answers
            )
            count = sum((answer != IGNORE).sum() for answer in answers)
            loss = total / (count if num_items_in_batch is None else num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What `generate` gives the model: what is written is of type 1, and so is a prompt whose types are not said.

        Types 0 for the prompt (what a BERT tokenizer gives) make it a prefix that sees itself whole.
        """
        if kwargs.get("token_type_ids") is None:
            kwargs["token_type_ids"] = torch.ones_like(input_ids)
        return super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]

    def _update_model_kwargs_for_generation(  # type: ignore[override]
        self, outputs: Any, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False, num_new_tokens: int = 1
    ) -> dict[str, Any]:
        found = super()._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder, num_new_tokens)
        if found.get("token_type_ids") is not None:
            # transformers repeats the last type of the prompt.
            found["token_type_ids"][:, -num_new_tokens:] = 1
        return found

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        """The mask as it is: the model makes its own of it, also for caches of a fixed size."""
        return attention_mask


class UnifiedForCausalLM(UnifiedForMaskedLM):
    """The same weights for who takes them for a decoder: tokens whose types are not said are of type 1.

    Whoever asks transformers for a causal model (to measure, to tune, to serve) says no types, and would otherwise be
    answered by a model that has seen the answer.
    """

    _untold = 1


AutoModel.register(UnifiedConfig, UnifiedModel)
AutoModelForMaskedLM.register(UnifiedConfig, UnifiedForMaskedLM)
AutoModelForCausalLM.register(UnifiedConfig, UnifiedForCausalLM)

# Its heads need these classes and register themselves; whichever of the two modules is imported first, both are there.
importlib.import_module("hanmo.models.unified.heads")
