"""One forward and backward pass over a micro-batch of packed rows.

Weights live in fp32 and are cast to the compute dtype inside the compiled graph, so that gradients arrive in fp32 and
add up there over micro-batches. The embedding is looked up in fp32: its gradient is a sum over all places of a token,
which bf16 would round away for frequent characters. The head and the loss run chunk by chunk (`hanmo.models.loss`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanmo.models.attention import PRODUCTS, SHORT
from hanmo.models.loss import linear_cross_entropy
from hanmo.models.varlen import VARLEN, boundaries, usable
from hanmo.pretrain.steps.stack import StackStep
from hanmo.tokens.order import Rows

#: Tokens whose logits are held at a time on a CPU, which its caches like; and bytes of logits on other devices, whose
#: products want to be large.
LOSS_CHUNK, LOSS_BYTES = 1024, 1 << 29


class PackedStep(StackStep):
    """Computes the summed loss of packed rows for a stock decoder, documents apart from each other.

    Families that are built otherwise override `_layers`, `_call` and `_hidden` (see `hanmo.pretrain.steps`).

    Args:
        model: a transformers causal LM whose decoder takes `inputs_embeds`, `position_ids` and a 4-d mask.
        context: tokens in a row; short rows on a CPU take an attention of their own (`hanmo.models.attention`), rows
            on CUDA one that goes by documents (`hanmo.models.varlen`).
        dtype, compiled, recompute, options: as those of `StackStep`.
    """

    laned = True
    #: Whether its attention may go by documents on CUDA (`hanmo.models.varlen`).
    by_documents = True

    def _prepare(self, context: int) -> None:
        model = self.model
        self._varlen = self.by_documents and usable(self.device, self.dtype)
        if self._varlen:
            model.set_attn_implementation(VARLEN)
        elif self.device.type == "cpu" and context <= SHORT:
            model.set_attn_implementation(PRODUCTS)
        self._decoder = model.get_decoder()
        head = model.get_output_embeddings().weight
        self._loss_chunk = LOSS_CHUNK
        if self.device.type != "cpu":  # the largest power of two whose fp32 logits fit
            self._loss_chunk = max(LOSS_CHUNK, 1 << (LOSS_BYTES // 4 // head.shape[0]).bit_length() - 1)
        self._through = self._stack(self._layers(), self._call)

    def _layers(self) -> nn.ModuleList:
        return self._decoder.layers

    @staticmethod
    def _call(layer: Any, hidden: Tensor, *given: Any) -> Any:
        mask, cosine, sine = given
        return layer(hidden, attention_mask=mask, position_embeddings=(cosine, sine))

    def _visible(self, rows: Rows) -> Tensor:
        """What tells attention the documents: a mask [rows, 1, context, context], or `boundaries`."""
        if self._varlen:
            return self._moved(boundaries(rows.position))[0]
        (segment,) = self._moved(rows.segment)
        length = segment.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        visible = (segment[:, :, None] == segment[:, None, :]) & causal
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~visible, float("-inf"))[:, None]

    def _hidden(self, rows: Rows) -> Tensor:
        """Last hidden states [rows, context, d] in the compute dtype."""
        inputs, position = self._moved(rows.inputs, rows.position)
        embedded = F.embedding(inputs, self.model.get_input_embeddings().weight).to(self.dtype)
        with torch.no_grad():
            cosine, sine = self._decoder.rotary_emb(embedded, position)
        hidden = self._through(embedded, self._visible(rows), cosine, sine)
        gain = self._decoder.norm
        return F.rms_norm(hidden.float(), (hidden.shape[-1],), gain.weight, gain.variance_epsilon).to(self.dtype)

    def _sum(self, rows: Rows) -> Tensor:
        return self._cross_entropy(self._hidden(rows), rows)

    def _cross_entropy(self, hidden: Tensor, rows: Rows) -> Tensor:
        """The sum over all targets, of last hidden states [rows, context, d]."""
        (targets,) = self._moved(rows.targets)
        head = self.model.get_output_embeddings().weight
        return linear_cross_entropy(
            hidden.flatten(0, 1), head, targets.flatten(), chunk=self._loss_chunk, step=self._chunk
        )
