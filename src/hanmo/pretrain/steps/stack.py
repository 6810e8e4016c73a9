"""What all steps share: layers run by one compiled graph, and going on where no compiler works."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.models.fp8 import convert
from hanmo.models.loss import chunk_step, chunk_step_frozen
from hanmo.pretrain.distributed import World
from hanmo.tokens.order import Rows


def without_weights(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters have shapes and nothing else, so that it costs no memory.

    It computes only while `torch.func.functional_call` lends it weights, and none of them is a weight of the model: a
    compiler would take a layer that is called with its own weights for another kind of layer, and compile both.
    """
    bare = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, bare)


class Stack:
    """Layers that are alike but for their weights.

    One compiled graph serves all of them: a fifth to a twentieth of the time that compiling the whole model takes.

    Args:
        layers: of the model.
        call: (a layer, the stream, what else `layer` is given) -> the stream behind it, or a tuple that begins with it.
        dtype: compute dtype; weights stay fp32 and are cast inside the graph, so that gradients arrive in fp32.
        compiled: compile the layer.
        recompute: keep only every layer's input for the backward pass, which then runs the layer's forward pass again:
            a third more arithmetic, the same bits.
        options: of the compiler.
        exact: ends of the names of weights that stay fp32.
        fp8: products of linear layers in 8 bits (`hanmo.models.fp8`).
    """

    def __init__(
        self,
        layers: Sequence[nn.Module] | nn.ModuleList,
        call: Callable[..., Any],
        dtype: torch.dtype,
        compiled: bool,
        recompute: bool = False,
        options: dict[str, Any] | None = None,
        exact: tuple[str, ...] = (),
        fp8: bool = False,
    ) -> None:
        self.recompute, self._fp8 = recompute, fp8
        self._modules, self._call = list(layers), call
        self._layers: list[Any] = [dict(layer.named_parameters()) for layer in layers]
        own = threading.local()

        def block() -> nn.Module:
            """The block that the weights are put into while it is called: no two threads may share one."""
            if not hasattr(own, "block"):
                own.block = without_weights(self._modules[0])
                if fp8:  # the copy alone: the model stays what it is, and is saved as that
                    convert(own.block)
            return own.block

        traced = block()

        def run(weights: dict[str, Tensor], hidden: Tensor, *given: Any) -> Any:
            """One layer, [rows, context, d] -> the same, with the weights given."""
            # The compiler comes back to plain Python where it has met more shapes than it keeps, in all threads at a
            # time; only a graph, which has no module any more, may be made from one block.
            module = traced if torch.compiler.is_compiling() else block()
            cast = {name: value if name.endswith(exact) else value.to(dtype) for name, value in weights.items()}
            return call(lambda *a, **k: torch.func.functional_call(module, cast, a, k), hidden, *given)

        self._eager = run
        self._run: Callable[..., Any] = torch.compile(run, dynamic=False, options=options) if compiled else run

    def __len__(self) -> int:
        return len(self._layers)

    def layer(self, number: int, hidden: Tensor, *given: Any) -> Any:
        """What `call` gives for the layer of that number."""
        if self.recompute:
            # No layer draws random numbers, so that their state need not be kept and set again.
            return checkpoint(
                self._run, self._layers[number], hidden, *given, use_reentrant=False, preserve_rng_state=False
            )
        return self._run(self._layers[number], hidden, *given)

    def __call__(self, hidden: Tensor, *given: Any) -> Tensor:
        """The stream [rows, context, d] behind all layers."""
        for number in range(len(self)):
            hidden = self.layer(number, hidden, *given)
        return hidden

    def without_compiler(self) -> bool:
        """Go on in eager mode; False where that is what it does already."""
        before, self._run = self._run, self._eager
        return before is not self._eager

    def as_modules(self, compiled: bool) -> None:
        """Call the layers as modules from now on: FSDP2 gathers their weights when they are called."""
        if self._fp8:
            raise HanmoError("precision: fp8 is for weights that are not cut over processes: set parallel: ddp")
        self._layers, self._run = list(self._modules), self._call
        for layer in self._modules:
            # Only the forward pass, around which FSDP2's hooks run. Layers share its code, and so one graph. What is
            # recomputed is inside of the hooks, too: the weights are there, gathered for the backward pass.
            forward = torch.compile(layer.forward, dynamic=False) if compiled else layer.forward
            if self.recompute:
                forward = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
            layer.forward = forward  # type: ignore[method-assign]
        self.recompute = False


class StackStep:
    """A step through stacks of layers, with a fused loss behind them; families have a `_prepare` and a `_sum`.

    Args:
        model: a transformers model.
        context: tokens in a row.
        dtype, recompute, options, fp8: as those of `Stack`.
        compiled: compile layers and loss; goes on in eager mode where no compiler works, with one message.
    """

    #: Whether several threads may call it at a time (`hanmo.pretrain.lanes`).
    laned = False
    #: Ends of the names of weights that stay fp32 (see `Stack`).
    exact: tuple[str, ...] = ()

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        compiled: bool,
        context: int,
        recompute: bool = False,
        options: dict[str, Any] | None = None,
        fp8: bool = False,
    ) -> None:
        self.model, self.dtype = model, dtype
        self.device = next(model.parameters()).device
        self._compiled, self._recompute, self._options, self._fp8 = compiled, recompute, options, fp8
        self._stacks: list[Stack] = []
        self._whole = True
        head = model.get_output_embeddings()
        learns = head is None or any(parameter.requires_grad for parameter in head.parameters())
        self._eager_chunk = chunk_step if learns else chunk_step_frozen
        self._chunk: Callable[..., Any] = self._eager_chunk
        if compiled:
            self._chunk = torch.compile(self._eager_chunk, dynamic=False, options=options)
        self._prepare(context)

    def _prepare(self, context: int) -> None:
        """Find the model's parts and make stacks of its layers, for rows of `context` tokens."""
        raise NotImplementedError

    def _stack(self, layers: Sequence[nn.Module] | nn.ModuleList, call: Callable[..., Any]) -> Stack:
        """A stack of this step's ways to compute; see `Stack`."""
        stack = Stack(layers, call, self.dtype, self._compiled, self._recompute, self._options, self.exact, self._fp8)
        self._stacks.append(stack)
        return stack

    @property
    def layers(self) -> list[nn.Module]:
        """The layers of all stacks."""
        return [layer for stack in self._stacks for layer in stack._modules]

    def as_modules(self) -> None:
        """Call layers as modules; for weights that are cut over processes, which must all do alike."""
        self._whole = False
        for stack in self._stacks:
            stack.as_modules(self._compiled)

    def loss(self, rows: Rows) -> Tensor:
        """Sum of the cross-entropies over all targets of `rows`, in nats; call `.backward()` on a multiple of it."""
        try:
            return self._sum(rows)
        except Exception as error:
            # Only the compiler's own failures are forgiven, and only on the way that has an alternative.
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            if not self._whole:
                # Some processes may have come further than others, so that going on is not safe.
                raise HanmoError(
                    f"torch.compile does not work here ({type(error).__name__}); set compile: false"
                ) from error
            left = [stack.without_compiler() for stack in self._stacks]
            if not any(left):
                raise
            console.print(f"[yellow]torch.compile does not work here ({type(error).__name__}); going on without it[/]")
            self._chunk = self._eager_chunk
            return self._sum(rows)

    def _sum(self, rows: Rows) -> Tensor:
        raise NotImplementedError

    def begin(self) -> None:
        """An optimiser step begins; a family that keeps account of its steps overrides this and the next three."""

    def settle(self, world: World, moved: bool) -> None:
        """The optimiser step is done, in all processes; `moved`: it changed the weights."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside weights and optimisers: the tensors in use, alike in all processes."""
        return {}

    def figures(self) -> dict[str, Any]:
        """More figures for a line of the log, of the steps since the last one."""
        return {}

    def _moved(self, *arrays: Any) -> list[Tensor]:
        """Arrays of `Rows` on the model's device."""
        return [torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays]
