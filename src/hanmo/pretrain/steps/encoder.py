"""One forward and backward pass of an encoder over packed rows with masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hanmo.errors import HanmoError
from hanmo.models.loss import IGNORE, linear_cross_entropy
from hanmo.models.parts import layers_of, modules_of
from hanmo.pretrain.objectives.pairs import IN_ORDER, PairRows
from hanmo.pretrain.steps.probing import probing
from hanmo.pretrain.steps.stack import StackStep
from hanmo.tokens.order import Rows

#: Positions whose logits are held at a time.
_CHUNK = 256
#: How far the packed step's logits may be from the model's own.
_TOLERANCE = 1e-4


class EncoderStep(StackStep):
    """Computes the summed loss of packed, masked rows for a stock encoder.

    With `PairRows` and a model that has a head for it (`BertForPreTraining` and its like), the loss of sentence order
    is added: each pair's nats times its masked tokens, so that the whole by the number of masked tokens is the sum of
    two means, as in ALBERT, whatever else is in the batch.

    Families that are built otherwise override `_prepare`, `hidden` and `transform`.

    Args:
        model: BertForMaskedLM or what has its parts (Ernie, MegatronBert): `embeddings`, layers that take a 4-d mask,
            and a head `cls.predictions`.
        context: tokens in a row.
        dtype, compiled, recompute, options: as those of `StackStep`.
        separator: the id behind which the second part of a pair begins (token type 1); None: there are no pairs.
    """

    laned = True

    def __init__(self, model: Any, *given: Any, separator: int | None = None, **named: Any) -> None:
        self._separator, self._head = separator, model.get_output_embeddings()
        super().__init__(model, *given, **named)

    def _prepare(self, context: int) -> None:
        parts = modules_of(self.model)
        self._embeddings = parts["embeddings"][0]
        self._norm: nn.Module | None = parts["norm"][0] if "norm" in parts else None
        self._predictions = self.model.cls.predictions
        self._types = int(getattr(self.model.config, "type_vocab_size", 1))
        self._through = self._stack(layers_of(self.model), self._call)

    @staticmethod
    def _call(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        found = layer(hidden, attention_mask=mask)
        return found[0] if isinstance(found, tuple) else found

    def hidden(self, rows: Rows) -> Tensor:
        """Last hidden states [rows, context, d] in the compute dtype."""
        inputs, position, segment = self._moved(rows.inputs, rows.position, rows.segment)
        embedded = self._embeddings(
            input_ids=inputs, position_ids=position.long(), token_type_ids=self._token_types(inputs, position)
        ).to(self.dtype)
        hidden = self._through(embedded, self._mask(segment[:, :, None] == segment[:, None, :]))
        return hidden if self._norm is None else self._norm(hidden.float()).to(self.dtype)

    def _mask(self, seen: Tensor) -> Tensor:
        """[rows, length, length] bool -> [rows, 1, length, length], 0 where a query sees a key and -inf elsewhere."""
        return torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(~seen, float("-inf"))[:, None]

    def transform(self, hidden: Tensor) -> Tensor:
        """What the head makes of hidden states [n, d] before it compares them with the vocabulary, in fp32."""
        return self._predictions.transform(hidden.float())

    def logits(self, rows: Rows) -> Tensor:
        """Of every token of the vocabulary at every place: [rows, context, V]."""
        return self._head(self.transform(self.hidden(rows).flatten(0, 1))).unflatten(0, rows.inputs.shape)

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
        hidden = self.hidden(rows)
        (targets,) = self._moved(rows.targets)
        places = torch.nonzero(targets.flatten() != IGNORE)[:, 0]
        picked = self.transform(hidden.flatten(0, 1)[places]).to(self.dtype)
        answers = targets.flatten()[places]
        # Whole chunks, so that the compiled loss sees one shape.
        lack = -len(places) % _CHUNK
        picked, weight = with_bias(F.pad(picked, (0, 0, 0, lack)), self._head.weight, self._head.bias)
        answers = F.pad(answers, (0, lack), value=IGNORE)
        loss = linear_cross_entropy(picked, weight, answers, chunk=_CHUNK, step=self._chunk)
        if isinstance(rows, PairRows) and rows.order is not None:
            loss = loss + self._order_loss(hidden, rows, rows.order)
        return loss

    def _order_loss(self, hidden: Tensor, rows: PairRows, order: NDArray[np.int64]) -> Tensor:
        """Sum over pairs of the nats that their order costs, each times the masked tokens of the pair."""
        asked = np.flatnonzero(order)
        places, counts, labels = self._moved(asked, rows.masked().flat[asked], order.flat[asked] - IN_ORDER)
        pooled = self.model.base_model.pooler(hidden.flatten(0, 1)[places].float()[:, None])
        nats = F.cross_entropy(self.model.cls.seq_relationship(pooled), labels, reduction="none")
        return (nats * counts).sum()


def with_bias(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """A head's bias as eight more columns of its weight, so that the fused loss needs to know of none.

    hidden [n, d] gets a one and seven zeros; weight [V, d] the bias and seven zeros: products like multiples of eight.
    """
    if bias is None:
        return hidden, weight
    ones = torch.zeros(len(hidden), 8, dtype=hidden.dtype, device=hidden.device)
    ones[:, 0] = 1
    return torch.cat([hidden, ones], 1), torch.cat([weight, F.pad(bias[:, None], (0, 7))], 1)


def check_encoder(model: Any, given: Any, build: Callable[..., Any]) -> None:
    """See that the packed step computes this encoder's own hidden states for two short documents in one row.

    Args:
        build: of the step.

    Raises:
        HanmoError: it cannot run the model, or computes something else.
    """
    name = type(model).__name__
    cannot = f"{given}: {name}: not an encoder that the packed step can run"
    known = "BERT, Ernie, MegatronBert and ModernBERT can be continued"
    length = 8
    ids = np.arange(2 * length)[None] % model.get_input_embeddings().weight.shape[0]
    position = np.tile(np.arange(length, dtype=np.int32), 2)[None]
    segment = np.repeat(np.arange(2, dtype=np.int32), length)[None]
    attention = model.config._attn_implementation
    with probing(model, cannot, f"; {known}"):
        step = build(model, torch.float32, compiled=False, context=2 * length)
        ours = step.logits(Rows(ids, ids, position, segment))[0]
        model.set_attn_implementation(attention)
        own = torch.cat([model(input_ids=part)[0][0] for part in torch.from_numpy(ids).split(length, 1)])
    if not torch.allclose(ours, own, rtol=_TOLERANCE, atol=_TOLERANCE * float(own.abs().max())):
        raise HanmoError(f"{cannot} (other logits than its own on a probe); {known}")
