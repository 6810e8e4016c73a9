"""What the steps of all objectives share: layers run by one compiled graph, and going on where no compiler works."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hanmo.console import console
from hanmo.models.loss import chunk_step, chunk_step_frozen
from hanmo.tokens.order import Rows


class StackStep:
    """A step through layers that are alike but for their weights, and a fused loss behind them.

    One compiled graph serves all layers: a fifth to a twentieth of the time that compiling the whole model takes.

    Args:
        layers: of the model.
        call: (a layer, the stream, what else `_through` is given) -> the stream behind it.
        learns: whether the head does.
        dtype: compute dtype; weights stay fp32 and are cast inside the graph, so that gradients arrive in fp32.
        compiled: compile the layer and the loss; goes on in eager mode where no compiler works, with one message.
        recompute: keep only every layer's input for the backward pass, which then runs the layer's forward pass again:
            a third more arithmetic, the same bits.
        options: of the compiler.
    """

    def __init__(
        self,
        layers: nn.ModuleList,
        call: Callable[..., Tensor],
        learns: bool,
        dtype: torch.dtype,
        compiled: bool,
        recompute: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.recompute = recompute
        self.dtype = dtype
        self._layers: list[Any] = [dict(layer.named_parameters()) for layer in layers]
        first = layers[0]

        def layer(weights: dict[str, Tensor], hidden: Tensor, *given: Tensor, block: Any = first) -> Tensor:
            """One layer, [rows, context, d] -> the same, with the weights given."""
            cast = {name: value.to(dtype) for name, value in weights.items()}
            return call(lambda *a, **k: torch.func.functional_call(block, cast, a, k), hidden, *given)

        def eager_layer(*arguments: Any) -> Tensor:
            # Without a compiler the block holds the weights while it is called, so each thread needs one of its own.
            if not hasattr(own, "block"):
                own.block = copy.deepcopy(first)
            return layer(*arguments, block=own.block)

        own = threading.local()
        self._eager_layer, self._eager_chunk = eager_layer, chunk_step if learns else chunk_step_frozen
        self._layer: Callable[..., Tensor] = eager_layer
        self._chunk: Callable[..., Any] = self._eager_chunk
        if compiled:
            self._layer = torch.compile(layer, dynamic=False, options=options)
            self._chunk = torch.compile(self._eager_chunk, dynamic=False, options=options)

    def _through(self, hidden: Tensor, *given: Tensor) -> Tensor:
        """The stream [rows, context, d] behind all layers."""
        for weights in self._layers:
            if self.recompute:
                # No layer draws random numbers, so that their state need not be kept and set again.
                hidden = checkpoint(self._layer, weights, hidden, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = self._layer(weights, hidden, *given)
        return hidden

    def loss(self, rows: Rows) -> Tensor:
        """Sum of the cross-entropies over all targets of `rows`, in nats; call `.backward()` on a multiple of it."""
        try:
            return self._sum(rows)
        except Exception as error:
            # Only the compiler's own failures are forgiven, and only on the way that has an alternative.
            compiler = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
            if not compiler or self._layer is self._eager_layer:
                raise
            self._without_compiler(error)
            return self._sum(rows)

    def _sum(self, rows: Rows) -> Tensor:
        raise NotImplementedError

    def _without_compiler(self, error: Exception) -> None:
        console.print(f"[yellow]torch.compile does not work here ({type(error).__name__}); going on without it[/]")
        self._layer, self._chunk = self._eager_layer, self._eager_chunk
