"""One forward and backward pass of the unified model over packed rows with token types."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.models.attention import PRODUCTS, SHORT
from hanmo.models.loss import IGNORE, linear_cross_entropy
from hanmo.models.unified.layers import rotary
from hanmo.models.unified.masks import additive, targets, visible
from hanmo.pretrain.steps.probing import probing
from hanmo.pretrain.steps.stack import StackStep
from hanmo.tokens.order import Rows

#: Answers whose logits are held at a time.
_CHUNK = 512
#: How far the packed step's logits may be from the model's own.
_TOLERANCE = 1e-4


class UnifiedStep(StackStep):
    """Computes the summed loss of packed rows for `UnifiedForMaskedLM`, documents apart from each other.

    Args:
        model: the model.
        context: tokens in a row.
        dtype, compiled, recompute, options: as those of `StackStep`.
    """

    laned = True

    def _prepare(self, context: int) -> None:
        model = self.model
        if self.device.type == "cpu" and context <= SHORT:
            model.set_attn_implementation(PRODUCTS)
        config = model.config
        self._width, self._base = config.hidden_size // config.num_attention_heads, config.rope_theta
        self._through = self._stack(model.bert.encoder.layer, self._call)

    @staticmethod
    def _call(layer: Any, hidden: Tensor, *given: Any) -> Tensor:
        mask, cosine, sine = given
        return layer(hidden, attention_mask=mask, position_embeddings=(cosine, sine))

    def hidden(self, inputs: Tensor, types: Tensor, position: Tensor, segment: Tensor) -> Tensor:
        """Last hidden states [rows, context, d] in the compute dtype.

        Args:
            inputs, types, position, segment: [rows, context], as in `Rows`.
        """
        base = self.model.bert
        embedded = base.embeddings(inputs, types).to(self.dtype)
        mask = additive(visible(types, segment), self.dtype)
        hidden = self._through(embedded, mask, *rotary(position, self._width, self._base, self.dtype))
        return base.encoder.ln(hidden.float()).to(self.dtype)

    def _sum(self, rows: Rows) -> Tensor:
        inputs, labels, position, segment = self._moved(rows.inputs, rows.targets, rows.position, rows.segment)
        types = torch.zeros_like(inputs) if rows.types is None else self._moved(rows.types)[0]
        hidden = self.hidden(inputs, types, position, segment).flatten(0, 1)
        # A place may answer for itself, for the token behind it, or for both.
        answers = torch.cat([answer.flatten() for answer in targets(labels, types, segment)])
        places = torch.nonzero(answers != IGNORE)[:, 0]
        # Whole chunks, so that the compiled loss sees one shape.
        lack = -len(places) % _CHUNK
        picked = F.pad(hidden[places % len(hidden)], (0, 0, 0, lack))
        answers = F.pad(answers[places], (0, lack), value=IGNORE)
        return linear_cross_entropy(picked, self.model.lm_head.weight, answers, chunk=_CHUNK, step=self._chunk)


def check_unified(model: Any, given: Any) -> None:
    """See that the packed step computes this model's own logits: two documents in one row, a prefix model and a masked.

    Raises:
        HanmoError: it cannot run the model, or computes something else.
    """
    cannot = f"{given}: {type(model).__name__}: not a unified model that the packed step can run"
    length = 8
    ids = torch.arange(2 * length)[None] % model.get_input_embeddings().weight.shape[0]
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1] + [0] * length])
    position = torch.arange(length).repeat(2)[None]
    segment = torch.arange(2).repeat_interleave(length)[None]
    with probing(model, cannot):
        step = UnifiedStep(model, torch.float32, compiled=False, context=2 * length)
        ours = model.lm_head(step.hidden(ids, types, position, segment))
        alone = zip(ids.split(length, 1), types.split(length, 1), strict=True)
        own = torch.cat([model(input_ids=part, token_type_ids=kinds).logits for part, kinds in alone], 1)
    if not torch.allclose(ours, own, rtol=_TOLERANCE, atol=_TOLERANCE * float(own.abs().max())):
        raise HanmoError(f"{cannot} (other logits than its own on a probe)")
