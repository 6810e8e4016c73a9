"""One forward and backward pass of LingLong over packed rows: dense and sparse layers in turn, maybe pinyin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hanmo.models.linglong.sparse import Blocks, Dense, Places, Visible, dense, packed_blocks
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Rows


class LingLongStep(PackedStep):
    """`PackedStep` for `LingLongForCausalLM`; positions, and the blocks of sparse layers, begin with each document.

    The layers are alike and differ in what they are given, so that two graphs serve all: one for a mask over whole
    rows, one for groups of queries. Shapes of the groups depend on the length of a row alone, never on where documents
    begin in it.
    """

    # Groups of queries want a mask of their own, and one attention serves both kinds of layers.
    by_documents = False

    def _layers(self) -> nn.ModuleList:
        return self._decoder.h

    @staticmethod
    def _call(layer: Any, hidden: Tensor, *given: Any) -> Any:
        """Tensors alone go through the compiler: (mask) of a dense layer, (mask, chosen) of a sparse one."""
        return layer(hidden, Dense(*given) if len(given) == 1 else Blocks(given[0].shape[-2], 2, given[1], given[0]))

    def _looks(self, position: Tensor, segment: Tensor) -> tuple[Visible, Visible]:
        """What even and odd layers see."""
        index = torch.arange(segment.shape[1], device=self.device).expand_as(segment)
        places = Places(index, position, segment)
        even, pattern = dense(places, places, None, self.dtype), self._decoder.pattern
        if pattern is None or segment.shape[1] <= pattern.stride:
            return even, even
        return even, packed_blocks(places, pattern, self.dtype)

    def _hidden(self, rows: Rows) -> Tensor:
        inputs, position, segment = self._moved(rows.inputs, rows.position, rows.segment)
        position = position.long()
        readings = None if rows.pinyin is None else self._moved(rows.pinyin)[0]
        hidden = self._decoder.embed(inputs, position, readings).to(self.dtype)
        with torch.no_grad():
            looks = [_tensors(look) for look in self._looks(position, segment.long())]
        for number in range(len(self._through)):
            hidden = self._through.layer(number, hidden, *looks[number % 2])
        return self._decoder.ln_f(hidden.float()).to(self.dtype)


def _tensors(look: Visible) -> tuple[Tensor, ...]:
    if isinstance(look, Blocks):
        return look.mask, look.chosen
    assert look.mask is not None
    return (look.mask,)
