"""The step of ModernBERT (Warner et al., arXiv:2412.13663), whose layers look far and near in turn.

Every third layer sees the whole document and the others only what is near, with rotary positions of another base. Both
are the same code with another mask and other rotations, which the step gives them: one graph serves all. Only the first
layer is built otherwise, since the embedding's norm serves it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hanmo.models.attention import PRODUCTS, SHORT
from hanmo.models.parts import layers_of
from hanmo.pretrain.steps.encoder import EncoderStep
from hanmo.tokens.order import Rows


class ModernBertStep(EncoderStep):
    """Computes the summed loss of packed, masked rows for ModernBertForMaskedLM. Args as those of `EncoderStep`."""

    def _prepare(self, context: int) -> None:
        if self.device.type == "cpu" and context <= SHORT:
            self.model.set_attn_implementation(PRODUCTS)
        first, *others = layers_of(self.model)
        self._base = self.model.base_model
        self._kinds: list[str] = list(self.model.config.layer_types)
        self._first, self._others = self._stack([first], self._layer), self._stack(others, self._layer)

    @staticmethod
    def _layer(layer: Any, hidden: Tensor, mask: Tensor, cosine: Tensor, sine: Tensor) -> Any:
        return layer(hidden, attention_mask=mask, position_embeddings=(cosine, sine))

    def hidden(self, rows: Rows) -> Tensor:
        """Last hidden states [rows, context, d] in the compute dtype."""
        inputs, position, segment = self._moved(rows.inputs, rows.position, rows.segment)
        hidden = self._base.embeddings(input_ids=inputs).to(self.dtype)
        seen = segment[:, :, None] == segment[:, None, :]
        # Within a document, what is near in it is near in the row.
        place = torch.arange(segment.shape[1], device=self.device)
        near = (place[:, None] - place[None, :]).abs() <= self.model.config.sliding_window
        masks = {"full_attention": self._mask(seen), "sliding_attention": self._mask(seen & near)}
        with torch.no_grad():
            turns = {kind: self._base.rotary_emb(hidden, position, kind) for kind in set(self._kinds)}
        for number, kind in enumerate(self._kinds):
            given = masks[kind], *turns[kind]
            hidden = self._others.layer(number - 1, hidden, *given) if number else self._first.layer(0, hidden, *given)
        return self._base.final_norm(hidden.float()).to(self.dtype)

    def transform(self, hidden: Tensor) -> Tensor:
        """What the head makes of hidden states [n, d] before it compares them with the vocabulary, in fp32."""
        return self.model.head(hidden.float())
