"""One forward and backward pass of an encoder-decoder over packed rows: stock T5, and Megatron's (Randeng).

A row holds the pieces of several documents on the encoder's side, and their answers on the decoder's. A piece sees
itself whole, an answer what is before it in itself and the whole of its own piece; neither sees another document.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.models.attention import PRODUCTS, SHORT
from hanmo.models.loss import IGNORE, linear_cross_entropy
from hanmo.pretrain.steps.encoder import with_bias
from hanmo.pretrain.steps.probing import probing
from hanmo.pretrain.steps.stack import StackStep
from hanmo.tokens.order import Rows

#: Answers whose logits are held at a time.
_CHUNK = 512
#: How far the packed step's logits may be from the model's own.
_TOLERANCE = 1e-4


class Seq2SeqStep(StackStep):
    """Computes the summed loss of packed rows with what the encoder reads; families say the rest.

    Args:
        model: an encoder-decoder whose halves have `block` and `final_layer_norm`.
        context: places of the encoder's side.
        dtype, compiled, recompute, options: as those of `StackStep`.
    """

    laned = True

    def _prepare(self, context: int) -> None:
        self._read = self._stack(self.model.encoder.block, self._call)
        self._write = self._stack(self.model.decoder.block, self._call)

    @staticmethod
    def _call(layer: Any, hidden: Tensor, *given: Any) -> Any:
        """A layer on the stream: of the encoder given (mask, bias), of the decoder also (states, mask to them)."""
        raise NotImplementedError

    def _embedded(self, inputs: Tensor, position: Tensor) -> Tensor:
        raise NotImplementedError

    def _bias(self, half: Any, length: int) -> Tensor | None:
        """What is added to the scores of a half by distance: [1, heads, length, length]."""
        return None

    def _head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [n, d] and the weight [V, d] whose product the logits are."""
        raise NotImplementedError

    def hidden(self, read: tuple[Tensor, Tensor, Tensor], written: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Last hidden states of the decoder [rows, places, d] in the compute dtype.

        Args:
            read, written: ids, positions and segments of the two sides, each [rows, places of that side].
        """
        encoder, decoder = self.model.encoder, self.model.decoder
        inputs, position, segment = read
        own = self._additive(segment[:, :, None] == segment[:, None, :])
        states = self._embedded(inputs, position).to(self.dtype)
        states = self._read(states, own, self._bias(encoder, inputs.shape[1]))
        states = encoder.final_layer_norm(states.float()).to(self.dtype)
        inputs, position, answered = written
        length = inputs.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        own = self._additive((answered[:, :, None] == answered[:, None, :]) & before)
        asked = answered[:, :, None] == segment[:, None, :]
        # A place that belongs to no piece sees all of them, or its softmax would be over nothing.
        asked = asked | ~asked.any(-1, keepdim=True)
        hidden = self._embedded(inputs, position).to(self.dtype)
        hidden = self._write(hidden, own, self._bias(decoder, length), states, self._additive(asked))
        return decoder.final_layer_norm(hidden.float()).to(self.dtype)

    def _additive(self, seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~seen, float("-inf"))[:, None]

    def _sum(self, rows: Rows) -> Tensor:
        assert rows.read is not None
        read, (targets,) = rows.read, self._moved(rows.targets)
        hidden = self.hidden(
            tuple(self._moved(read.inputs, read.position, read.segment)),  # type: ignore[arg-type]
            tuple(self._moved(rows.inputs, rows.position, rows.segment)),  # type: ignore[arg-type]
        )
        places = torch.nonzero(targets.flatten() != IGNORE)[:, 0]
        # Whole chunks, so that the compiled loss sees one shape.
        lack = -len(places) % _CHUNK
        picked, weight = self._head(F.pad(hidden.flatten(0, 1)[places], (0, 0, 0, lack)))
        answers = F.pad(targets.flatten()[places], (0, lack), value=IGNORE)
        return linear_cross_entropy(picked, weight, answers, chunk=_CHUNK, step=self._chunk)


class MegatronT5Step(Seq2SeqStep):
    """`Seq2SeqStep` for Megatron's T5: learned positions, a head with a bias."""

    def _prepare(self, context: int) -> None:
        super()._prepare(context)
        if self.device.type == "cpu" and context <= SHORT:
            self.model.set_attn_implementation(PRODUCTS)

    @staticmethod
    def _call(layer: Any, hidden: Tensor, *given: Any) -> Tensor:
        mask, _, *other = given
        return layer(hidden, mask, *other)

    def _embedded(self, inputs: Tensor, position: Tensor) -> Tensor:
        return self.model.shared(inputs, position.long())

    def _head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return with_bias(hidden, self.model.shared.word_embeddings.weight, self.model.lm_head_bias)


class T5Step(Seq2SeqStep):
    """`Seq2SeqStep` for stock T5: scores get a bias by distance, which the first layer of a half has for all of it.

    Distances in a row are those in its documents, since no document sees another.
    """

    def as_modules(self) -> None:
        """Refused: outside of its layer, the bias by distance cannot be gathered.

        Raises:
            HanmoError: always.
        """
        raise HanmoError("parallel: fsdp, zero3: a stock T5 cannot be cut over processes here; set parallel: ddp")

    @staticmethod
    def _call(layer: Any, hidden: Tensor, *given: Any) -> Tensor:
        mask, bias, *other = given
        return layer(hidden, mask, bias, *other)[0]

    def _embedded(self, inputs: Tensor, position: Tensor) -> Tensor:
        return self.model.shared(inputs)

    def _bias(self, half: Any, length: int) -> Tensor:
        attention = half.block[0].layer[0].SelfAttention
        return attention.compute_bias(length, length, device=self.device).to(self.dtype)

    def _head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.model.model_dim**-0.5 if self.model.config.scale_decoder_outputs else 1.0
        return hidden * scale, self.model.lm_head.weight


def seq2seq_flops(model: Any, read: int, written: int) -> int:
    """FLOPs of training an encoder-decoder on a place of the encoder's side (see `hanmo.models.flops`).

    Args:
        read, written: places of a row on the encoder's side, and on the decoder's.
    """
    config = model.config
    share, width = written / read, config.num_heads * config.d_kv

    def weights(half: Any, crossing: bool) -> int:
        keys = ("EncDecAttention.k.", "EncDecAttention.v.")
        named = half.block.named_parameters()
        return sum(p.numel() for name, p in named if any(key in name for key in keys) == crossing)

    # The decoder's keys and values of what was read are made of the encoder's places.
    once = weights(model.encoder, False) + weights(model.decoder, True)
    again = weights(model.decoder, False) + model.get_input_embeddings().weight.numel()
    pairs = config.num_layers * read + config.num_decoder_layers * share * (written + read)
    return math.ceil(6 * (once + share * again) + 12 * width * pairs)


def check_seq2seq(model: Any, given: Any, build: Any) -> None:
    """See that the packed step computes this model's own logits for two short documents in one row.

    Args:
        build: makes the step, as `hanmo.pretrain.steps.step_of` gives it.

    Raises:
        HanmoError: it cannot run the model, or computes something else.
    """
    cannot = f"{given}: {type(model).__name__}: not an encoder-decoder that the packed step can run"
    known = "T5 and Megatron's T5 can be continued"
    length, answer = 8, 4
    ids = torch.arange(2 * length)[None] % model.get_input_embeddings().weight.shape[0]
    read, written = (
        (ids[:, : 2 * size], torch.arange(size).repeat(2)[None], torch.arange(2).repeat_interleave(size)[None])
        for size in (length, answer)
    )
    with probing(model, cannot, f"; {known}"):
        step = build(model, torch.float32, compiled=False, context=2 * length)
        hidden, weight = step._head(step.hidden(read, written).flatten(0, 1))
        alone = zip(read[0].split(length, 1), written[0].split(answer, 1), strict=True)
        own = torch.cat([model(input_ids=one, decoder_input_ids=other).logits[0] for one, other in alone])
        ours = hidden @ weight.T
    if not torch.allclose(ours, own, rtol=_TOLERANCE, atol=_TOLERANCE * float(own.abs().max())):
        raise HanmoError(f"{cannot} (other logits than its own on a probe); {known}")
