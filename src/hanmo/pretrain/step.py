"""One forward and backward pass over a micro-batch of packed rows.

Weights live in fp32 and are cast to the compute dtype inside the compiled graph, so that gradients arrive in fp32 and
add up there over micro-batches. The embedding is looked up in fp32: its gradient is a sum over all places of a token,
which bf16 would round away for frequent characters. The head and the loss run chunk by chunk (`hanmo.models.loss`).
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hanmo.console import console
from hanmo.models.attention import PRODUCTS, SHORT
from hanmo.models.loss import chunk_step, chunk_step_frozen, linear_cross_entropy
from hanmo.models.varlen import VARLEN, boundaries, usable
from hanmo.tokens.order import Rows

#: Tokens whose logits are held at a time on a CPU, which its caches like; and bytes of logits on other devices, whose
#: products want to be large.
LOSS_CHUNK, LOSS_BYTES = 1024, 1 << 29


class PackedStep:
    """Computes the summed loss of packed rows for a stock decoder, documents apart from each other.

    Args:
        model: a transformers causal LM whose decoder takes `inputs_embeds`, `position_ids` and a 4-d mask.
        dtype: compute dtype.
        compiled: compile the layer and the loss; falls back to eager where no compiler works, with one message.
        context: tokens in a row; short rows on a CPU take an attention of their own (`hanmo.models.attention`), rows
            on CUDA one that goes by documents (`hanmo.models.varlen`).
        recompute: keep only every layer's input for the backward pass, which then runs the layer's forward pass again:
            a third more arithmetic, the same bits.
        options: of the compiler.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        compiled: bool,
        context: int,
        recompute: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.recompute = recompute
        self.dtype = dtype
        self.device = next(model.parameters()).device
        self._varlen = usable(self.device, dtype)
        if self._varlen:
            model.set_attn_implementation(VARLEN)
        elif self.device.type == "cpu" and context <= SHORT:
            model.set_attn_implementation(PRODUCTS)
        self._decoder = model.get_decoder()
        self._loss_chunk = LOSS_CHUNK
        if self.device.type != "cpu":  # the largest power of two whose fp32 logits fit
            rows = model.get_output_embeddings().weight.shape[0]
            self._loss_chunk = max(LOSS_CHUNK, 1 << (LOSS_BYTES // 4 // rows).bit_length() - 1)
        self._layers: list[Any] = [dict(layer.named_parameters()) for layer in self._decoder.layers]
        block = self._decoder.layers[0]

        def layer(
            weights: dict[str, Tensor], hidden: Tensor, mask: Tensor, cosine: Tensor, sine: Tensor, block: Any = block
        ) -> Tensor:
            """One decoder layer, [rows, context, d] -> the same, with the weights given."""
            cast = {name: value.to(dtype) for name, value in weights.items()}
            rotary = {"attention_mask": mask, "position_embeddings": (cosine, sine)}
            return torch.func.functional_call(block, cast, (hidden,), rotary)

        def eager_layer(*arguments: Any) -> Tensor:
            # Without a compiler the block holds the weights while it is called, so each thread needs one of its own.
            if not hasattr(own, "block"):
                own.block = copy.deepcopy(block)
            return layer(*arguments, block=own.block)

        own = threading.local()

        # All layers are alike but for their weights, so that one compiled graph serves them all: a fifth to a
        # twentieth of the time that compiling the whole decoder takes.
        self._eager_layer = eager_layer
        self._layer = torch.compile(layer, dynamic=False, options=options) if compiled else eager_layer
        learns = model.get_output_embeddings().weight.requires_grad
        self._eager_chunk = chunk_step if learns else chunk_step_frozen
        self._chunk = (
            torch.compile(self._eager_chunk, dynamic=False, options=options) if compiled else self._eager_chunk
        )

    def _visible(self, rows: Rows) -> Tensor:
        """What tells attention the documents: a mask [rows, 1, context, context], or `boundaries`."""
        if self._varlen:
            return torch.from_numpy(boundaries(rows.position)).to(self.device, non_blocking=True)
        segment = torch.from_numpy(rows.segment).to(self.device, non_blocking=True)
        length = segment.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        visible = (segment[:, :, None] == segment[:, None, :]) & causal
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~visible, float("-inf"))[:, None]

    def _hidden(self, inputs: Tensor, position: Tensor, visible: Tensor) -> Tensor:
        """Last hidden states [rows, context, d] in the compute dtype."""
        embedded = F.embedding(inputs, self.model.get_input_embeddings().weight).to(self.dtype)
        with torch.no_grad():
            cosine, sine = self._decoder.rotary_emb(embedded, position)
        hidden = embedded
        for weights in self._layers:
            given = (weights, hidden, visible, cosine, sine)
            if self.recompute:
                # No layer draws random numbers, so that their state need not be kept and set again.
                hidden = checkpoint(self._layer, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = self._layer(*given)
        gain = self._decoder.norm
        return F.rms_norm(hidden.float(), (hidden.shape[-1],), gain.weight, gain.variance_epsilon).to(self.dtype)

    def loss(self, rows: Rows) -> Tensor:
        """Sum of the cross-entropies over all targets of `rows`, in nats; call `.backward()` on a multiple of it."""
        inputs, targets, position = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (rows.inputs, rows.targets, rows.position)
        )
        try:
            hidden = self._hidden(inputs, position, self._visible(rows))
            head = self.model.get_output_embeddings().weight
            return linear_cross_entropy(
                hidden.flatten(0, 1), head, targets.flatten(), chunk=self._loss_chunk, step=self._chunk
            )
        except Exception as error:
            # Only the compiler's own failures are forgiven, and only on the way that has an alternative.
            compiler = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
            if not compiler or self._layer is self._eager_layer:
                raise
            self._without_compiler(error)
            return self.loss(rows)

    def _without_compiler(self, error: Exception) -> None:
        console.print(f"[yellow]torch.compile does not work here ({type(error).__name__}); going on without it[/]")
        self._layer, self._chunk = self._eager_layer, self._eager_chunk
