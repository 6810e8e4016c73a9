"""One forward and backward pass of GPT-2 over packed rows: learned positions, LayerNorm, biases."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Rows


class GPT2Step(PackedStep):
    """`PackedStep` for `GPT2LMHeadModel`; positions are counted from each document's start."""

    def _layers(self) -> nn.ModuleList:
        return self._decoder.h

    @staticmethod
    def _call(layer: Any, hidden: Tensor, *given: Any) -> Any:
        return layer(hidden, attention_mask=given[0])

    def _hidden(self, rows: Rows) -> Tensor:
        inputs, position = self._moved(rows.inputs, rows.position)
        embedded = (self._decoder.wte(inputs) + self._decoder.wpe(position)).to(self.dtype)
        return self._decoder.ln_f(self._through(embedded, self._visible(rows)).float()).to(self.dtype)
