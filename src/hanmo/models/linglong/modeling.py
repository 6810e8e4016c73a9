"""LingLong as a class of transformers: GPT-2 with layer norms first, sparse attention in odd layers, maybe pinyin.

Facts of the architecture are those of the project's README (version 0.10.3); the scheme is GPT-2's (Radford et al.
2019) with the sparse patterns of Child et al. (2019, arXiv:1904.10509). Weights of the projections are stored
`[in, out]` under the names of the published Hugging Face form, so that its folders load as they are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hanmo.models.attention import eager
from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.models.linglong.places import behind, from_the_start, up_to
from hanmo.models.linglong.sparse import (
    Dense,
    Pattern,
    Places,
    Visible,
    aligned_blocks,
    attend,
    dense,
    orderly,
    packed_blocks,
)
from hanmo.models.loss import IGNORE


def _output(features: int, given: int) -> Conv1D:
    """A projection whose result is added to the stream. It says so itself, since transformers draws weights only of
    modules that hold some, and not of those around them.
    """
    made = Conv1D(features, given)
    made.adds_to_stream = True  # type: ignore[assignment]
    return made


class LingLongAttention(nn.Module):
    """Attention of a layer; which keys a query sees is told with each call."""

    is_causal = True

    def __init__(self, config: LingLongConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.n_embd // config.n_head
        self.attention_dropout = float(config.attn_pdrop)
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = _output(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden: Tensor, visible: Visible, cache: Cache | None = None) -> Tensor:
        """[rows, length, d] -> the same."""
        rows, length, width = hidden.shape
        parts = self.c_attn(hidden).view(rows, length, 3, -1, self.head_dim)
        query, key, value = (part.transpose(1, 2) for part in parts.unbind(2))
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
            if not isinstance(visible, Dense):
                # Groups are for the first call, when the cache holds just these; one of fixed size has room behind.
                key, value = key[:, :, :length], value[:, :, :length]
        function = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation or "eager", eager)

        def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            dropout = self.attention_dropout if self.training else 0.0
            return function(self, query, key, value, mask, scaling=self.head_dim**-0.5, dropout=dropout)[0]

        found = attend(query, key, value, visible, attention)
        return self.resid_dropout(self.c_proj(found.reshape(rows, length, width).contiguous()))


class LingLongMLP(nn.Module):
    """Feed-forward part of a layer."""

    def __init__(self, config: LingLongConfig) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Conv1D(inner, config.n_embd)
        self.c_proj = _output(config.n_embd, inner)
        self.act = ACT2FN[config.activation_function]
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(hidden))))


class LingLongBlock(GradientCheckpointingLayer):
    """A layer. All are alike: what makes one sparse is the `visible` that it is given."""

    def __init__(self, config: LingLongConfig, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = LingLongAttention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = LingLongMLP(config)

    def forward(self, hidden: Tensor, visible: Visible, cache: Cache | None = None) -> Tensor:
        """[rows, length, d] -> the same."""
        hidden = hidden + self.attn(self.ln_1(hidden), visible, cache)
        return hidden + self.mlp(self.ln_2(hidden))


class LingLongPreTrainedModel(PreTrainedModel):
    """What both classes share: names and fresh weights."""

    config_class = LingLongConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LingLongBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": LingLongBlock}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """N(0, 0.02), biases 0, gains 1; what is added to the stream is smaller the more layers add to it."""
        std = self.config.initializer_range
        if isinstance(module, Conv1D):
            if getattr(module, "adds_to_stream", False):
                std /= math.sqrt(2 * self.config.n_layer)
            init.normal_(module.weight, mean=0.0, std=std)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding | nn.Linear):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


class LingLongModel(LingLongPreTrainedModel):
    """The layers without the head."""

    def __init__(self, config: LingLongConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_position, config.n_embd)
        if config.use_pinyin:
            self.pinyin = nn.Embedding(config.n_vocab_pinyin, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(LingLongBlock(config, number) for number in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.wte = value

    @property
    def pattern(self) -> Pattern | None:
        """What odd layers see; None where they are dense."""
        return Pattern(self.config.attn_stride, self.config.attn_c) if self.config.attn_mode == "sparse" else None

    def embed(self, input_ids: Tensor, position_ids: Tensor, pinyin_ids: Tensor | None = None) -> Tensor:
        """The stream [rows, length, d] before the first layer, without dropout; ids are int64 [rows, length].

        Raises:
            ValueError: pinyin ids are missing, or not wanted.
        """
        return self._with_pinyin(self.wte(input_ids) + self.wpe(position_ids), pinyin_ids)

    def _with_pinyin(self, stream: Tensor, pinyin_ids: Tensor | None) -> Tensor:
        if self.config.use_pinyin != (pinyin_ids is not None):
            raise ValueError(
                "this model adds pinyin to its tokens: give pinyin_ids, or pinyin_of when it generates"
                if self.config.use_pinyin
                else "pinyin_ids: this model has no pinyin embedding (use_pinyin is false)"
            )
        return stream if pinyin_ids is None else stream + self.pinyin(pinyin_ids)

    def visible(
        self, position_ids: Tensor | None, segment_ids: Tensor | None, rows: int, length: int, dtype: torch.dtype
    ) -> tuple[Visible, Visible]:
        """What even and odd layers see of whole rows.

        Args:
            position_ids: int64 [rows, length], from 0 in each document; None where `segment_ids` is.
            segment_ids: int64 [rows, length]; tokens of a row see each other where it is the same, and `PADDING` is
                padding. None: each row is one document from its first token on.
        """
        pattern = self.pattern
        if segment_ids is None or position_ids is None:
            flash = self.config._attn_implementation == "sdpa"  # it is causal by itself, without a mask
            place = torch.arange(length, device=self.device)[None]
            one = Places(place, place, torch.zeros_like(place))
            even: Visible = Dense(None) if flash else dense(one, one, None, dtype)
            if pattern is None or length <= pattern.stride:
                return even, even
            return even, aligned_blocks(length, rows, pattern, dtype, self.device)
        index = torch.arange(length, device=segment_ids.device).expand_as(segment_ids)
        places = Places(index, position_ids.expand_as(segment_ids), segment_ids)
        even = dense(places, places, None, dtype)
        if pattern is None:
            return even, even
        # The check reads values: it is left out where a compiler traces, for which whoever calls it must know better.
        if not torch.compiler.is_compiling() and not orderly(places):
            return even, dense(places, places, pattern, dtype)
        return even, (packed_blocks(places, pattern, dtype) if length > pattern.stride else even)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        pinyin_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """See `LingLongForCausalLM.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.wte(input_ids)
        assert inputs_embeds is not None
        rows, length = inputs_embeds.shape[:2]
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if past_key_values is not None and not (isinstance(past, int) and past == 0):
            if segment_ids is not None:
                raise ValueError("segment_ids: packed documents cannot be continued behind a cache")
            position, even, odd = behind(past_key_values, past, attention_mask, inputs_embeds, self.pattern)
            position_ids = position if position_ids is None else position_ids
        else:
            position_ids, segment_ids = from_the_start(attention_mask, position_ids, segment_ids, length)
            even, odd = self.visible(position_ids, segment_ids, rows, length, inputs_embeds.dtype)
            room = past_key_values.get_mask_sizes(length, 0)[0] if past_key_values is not None else length
            even, odd = (up_to(item, room, length, inputs_embeds) for item in (even, odd))
        if position_ids is None:
            if length > self.config.n_position:
                raise ValueError(f"{length} tokens are more than this model's {self.config.n_position} positions")
            position_ids = torch.arange(length, device=inputs_embeds.device)[None]
        hidden = self.drop(self._with_pinyin(inputs_embeds + self.wpe(position_ids), pinyin_ids))
        for number, block in enumerate(self.h):
            hidden = block(hidden, odd if number % 2 else even, past_key_values)
        return BaseModelOutputWithPast(
            last_hidden_state=self.ln_f(hidden),  # type: ignore[arg-type]
            past_key_values=past_key_values if use_cache else None,
        )


class LingLongForCausalLM(LingLongPreTrainedModel, GenerationMixin):
    """LingLong with its head, which is the token embedding."""

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012

    def __init__(self, config: LingLongConfig) -> None:
        super().__init__(config)
        self.transformer = LingLongModel(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        pinyin_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss where labels are given.

        Args:
            input_ids: int64 [rows, length].
            attention_mask: [rows, past + length], 0 at padding, on whichever side it stands.
            position_ids: int64 [rows, length], places in the document; counted from the mask, the segments or the start
                of the row where not given. Given alone, with positions that begin anew, they are documents in one row.
            segment_ids: int64 [rows, length], which document of a packed row each token is of (documents stand in one
                piece); documents do not see each other. Sparse layers count blocks from each document's start, so that
                what a document gives does not depend on its place in a row.
            pinyin_ids: int64 [rows, length], of models with `use_pinyin`.
            labels: int64 [rows, length], as `input_ids` (they are shifted in here), -100 where there is none. The first
                token of a packed document is no target.
            logits_to_keep: only those of so many tokens at the end, or of these places; 0 keeps all.

        Raises:
            ValueError: inputs that do not go together.
        """
        found = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            segment_ids=segment_ids,
            pinyin_ids=pinyin_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(found.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            if segment_ids is not None:
                begins = torch.zeros_like(segment_ids, dtype=torch.bool)
                begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
                labels = labels.masked_fill(begins, IGNORE)
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=found.past_key_values, hidden_states=found.hidden_states
        )

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        """Generation with a cache of fixed size would make a causal mask; layers here want to know the padding."""
        return attention_mask

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pinyin_of: Any = None,
        pinyin_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As transformers wants it, with pinyin for the tokens that are fed next (see `generation.PinyinOf`)."""
        from hanmo.models.linglong.generation import pinyin_of_rows

        base: Any = super()
        inputs = base.prepare_inputs_for_generation(input_ids, attention_mask=attention_mask, **kwargs)
        if pinyin_ids is not None:
            raise ValueError(
                "pinyin_ids: they end with the prompt; give pinyin_of, which reads what is written as well"
            )
        if pinyin_of is not None:
            fed = inputs["input_ids"].shape[1]
            inputs["pinyin_ids"] = pinyin_of_rows(pinyin_of, input_ids, attention_mask)[:, -fed:].contiguous()
        return inputs


AutoConfig.register(LingLongConfig.model_type, LingLongConfig, exist_ok=True)
AutoModel.register(LingLongConfig, LingLongModel, exist_ok=True)
AutoModelForCausalLM.register(LingLongConfig, LingLongForCausalLM, exist_ok=True)
