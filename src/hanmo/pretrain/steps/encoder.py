"""One forward and backward pass of an encoder over packed rows with masks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanmo.errors import HanmoError
from hanmo.models.loss import IGNORE, linear_cross_entropy
from hanmo.models.parts import layers_of, modules_of
from hanmo.pretrain.steps.stack import StackStep
from hanmo.tokens.order import Rows

#: Positions whose logits are held at a time.
_CHUNK = 256
#: How far the packed step's logits may be from the model's own.
_TOLERANCE = 1e-4


class EncoderStep(StackStep):
    """Computes the summed loss of packed, masked rows for a stock encoder.

    Args:
        model: BertForMaskedLM or what has its parts (Ernie, MegatronBert): `embeddings`, layers that take a 4-d mask,
            and a head `cls.predictions`.
        context: tokens in a row.
        dtype, compiled, recompute, options: as those of `StackStep`.
        separator: the id behind which the second part of a pair begins (token type 1); None: there are no pairs.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        compiled: bool,
        context: int,
        recompute: bool = False,
        options: dict[str, Any] | None = None,
        separator: int | None = None,
    ) -> None:
        super().__init__(model, dtype, compiled, recompute, options)
        self._separator = separator
        parts = modules_of(model)
        self._embeddings = parts["embeddings"][0]
        self._norm: nn.Module | None = parts["norm"][0] if "norm" in parts else None
        self._predictions = model.cls.predictions
        decoder = model.get_output_embeddings()
        self._head, self._bias = decoder.weight, decoder.bias
        self._types = int(getattr(model.config, "type_vocab_size", 1))
        self._through = self._stack(layers_of(model), self._call)

    @staticmethod
    def _call(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        found = layer(hidden, attention_mask=mask)
        return found[0] if isinstance(found, tuple) else found

    def hidden(self, inputs: Tensor, position: Tensor, segment: Tensor) -> Tensor:
        """Last hidden states [rows, context, d] in the compute dtype.

        Args:
            inputs, position, segment: [rows, context], as in `Rows`.
        """
        embedded = self._embeddings(
            input_ids=inputs, position_ids=position.long(), token_type_ids=self._token_types(inputs, position)
        ).to(self.dtype)
        apart = segment[:, :, None] != segment[:, None, :]
        mask = torch.zeros(apart.shape, dtype=self.dtype, device=self.device).masked_fill_(apart, float("-inf"))
        hidden = self._through(embedded, mask[:, None])
        return hidden if self._norm is None else self._norm(hidden.float()).to(self.dtype)

    def _token_types(self, inputs: Tensor, position: Tensor) -> Tensor:
        """1 behind the first separator of a document's piece, else 0: [rows, context]."""
        if self._separator is None or self._types < 2:
            return torch.zeros_like(inputs)
        ends = (inputs == self._separator).long()
        before = ends.cumsum(1) - ends
        # What was counted when the piece began, which is where its position is 0.
        begun = torch.where(position == 0, before, 0).cummax(1).values
        return (before - begun).clamp(0, 1)

    def _sum(self, rows: Rows) -> Tensor:
        inputs, targets, position, segment = self._moved(rows.inputs, rows.targets, rows.position, rows.segment)
        hidden = self.hidden(inputs, position, segment)
        places = torch.nonzero(targets.flatten() != IGNORE)[:, 0]
        picked = self._predictions.transform(hidden.flatten(0, 1)[places].float()).to(self.dtype)
        answers = targets.flatten()[places]
        # Whole chunks, so that the compiled loss sees one shape.
        lack = -len(places) % _CHUNK
        picked, weight = with_bias(F.pad(picked, (0, 0, 0, lack)), self._head, self._bias)
        answers = F.pad(answers, (0, lack), value=IGNORE)
        return linear_cross_entropy(picked, weight, answers, chunk=_CHUNK, step=self._chunk)


def with_bias(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """A head's bias as eight more columns of its weight, so that the fused loss needs to know of none.

    hidden [n, d] gets a one and seven zeros; weight [V, d] the bias and seven zeros: products like multiples of eight.
    """
    if bias is None:
        return hidden, weight
    ones = torch.zeros(len(hidden), 8, dtype=hidden.dtype, device=hidden.device)
    ones[:, 0] = 1
    return torch.cat([hidden, ones], 1), torch.cat([weight, F.pad(bias[:, None], (0, 7))], 1)


def check_encoder(model: Any, given: Any) -> None:
    """See that the packed step computes this encoder's own hidden states for two short documents in one row.

    Raises:
        HanmoError: it cannot run the model, or computes something else.
    """
    name = type(model).__name__
    cannot = f"{given}: {name}: not an encoder that the packed step can run"
    known = "BertForMaskedLM, ErnieForMaskedLM and MegatronBertForMaskedLM can be continued"
    length = 8
    ids = torch.arange(2 * length)[None] % model.get_input_embeddings().weight.shape[0]
    position = torch.arange(length).repeat(2)[None]
    segment = torch.arange(2).repeat_interleave(length)[None]
    model.eval()
    try:
        with torch.no_grad():
            step = EncoderStep(model, torch.float32, compiled=False, context=2 * length)
            ours = step._predictions(step.hidden(ids, position, segment))[0]
            own = torch.cat([model(input_ids=part).logits[0] for part in ids.split(length, 1)])
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError, HanmoError) as error:
        said = " ".join(str(error).split())[:100]
        raise HanmoError(f"{cannot} ({type(error).__name__}: {said}); {known}") from None
    finally:
        model.train()
    if not torch.allclose(ours, own, rtol=_TOLERANCE, atol=_TOLERANCE * float(own.abs().max())):
        raise HanmoError(f"{cannot} (other logits than its own on a probe); {known}")
