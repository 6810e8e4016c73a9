"""Memory that one process of a pretraining run needs, part by part.

Static parts are counted; what a layer keeps for its backward pass follows from which tensors the compiled (or eager)
layer was seen to keep (`benchmarks/plan_accuracy.py` compares whole runs with this module). A step has moments that
each can be its peak, since what one holds the next has freed:

* the end of the forward pass: all layers' activations and the chunked loss;
* the last layers' backward pass: the activations, the gradients, and the head's gradient twice;
* the optimiser: no activations, but Muon's stacked copies of all matrices of one shape;
* a checkpoint: copies of weights and optimiser state.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from hanmo.models.attention import BLOCK, SHORT
from hanmo.plan.shape import Shape
from hanmo.pretrain.rows import lanes_for
from hanmo.pretrain.steps.packed import LOSS_BYTES, LOSS_CHUNK

#: Bytes that a process takes before it holds a model: Python, torch, transformers, on CPU with the compiler as well.
BASE = {"compiled": 0.47e9, "eager": 0.45e9, "accelerator": 0.9e9}
#: Share of the moment's memory that allocators lose between blocks.
SLACK = {"compiled": 0.05, "eager": 0.12, "accelerator": 0.08}


@dataclass(frozen=True)
class Layout:
    """How a step is done on one device.

    Attributes:
        batch_tokens: tokens of one optimiser step, over all processes.
        micro_tokens: tokens in one forward pass of one process.
        recompute: keep only the layers' inputs.
        parallel, processes: "ddp" or "fsdp" over so many processes.
        width: bytes of a number in the compute dtype.
        compiled: the layers are compiled.
        optimizer: "muon" or "adamw".
        cpu: on the CPU (short rows take an attention of their own there).
        lanes: threads that may compute rows of their own.
    """

    batch_tokens: int
    micro_tokens: int
    recompute: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    processes: int = 1
    width: int = 2
    compiled: bool = True
    optimizer: Literal["muon", "adamw"] = "muon"
    cpu: bool = True
    lanes: int = 1

    def with_(self, **changes: object) -> Layout:
        """A copy with other values."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Need:
    """Bytes by part. `moments` are the parts that come one after the other; the largest counts."""

    parts: dict[str, float]
    moments: dict[str, float]
    slack: float

    @property
    def moment(self) -> str:
        """The name of the moment that is the peak."""
        return max(self.moments, key=lambda name: self.moments[name])

    @property
    def total(self) -> float:
        """The peak in bytes."""
        return sum(self.parts.values()) + self.moments[self.moment] + self.slack


def kept(shape: Shape, layout: Layout) -> float:
    """Bytes that one layer keeps of one token for its backward pass."""
    c, context = layout.width, shape.context
    d, q, k, f = shape.hidden, shape.query, shape.key, shape.ffn
    short = layout.cpu and context <= SHORT
    if layout.compiled:
        # Input, its norm, the sum behind the attention, its norm; queries, keys before their norm; gate, up, product.
        stream = 4 * d + q + k + 3 * f
    else:
        # Every norm, rotation and activation keeps its own operands, in fp32 where it works in fp32.
        stream = 5 * d + 3 * q + 3 * k + 4 * f + (4 / c) * (2 * d + 2 * q + 2 * k)
    if not short:
        # Queries, the output, and keys and values repeated for all heads.
        return c * (stream + 4 * q)
    # Blocks of queries look at ever longer stretches of keys and values, which are kept as copies.
    block = min(BLOCK, context)
    seen = (context + block) / 2
    copies = 2 * q + 2 * k * seen / block
    weights = (2 * c + (4 - c) * block / seen if layout.compiled else 4 + c) * shape.heads * seen
    return c * (stream + copies) + weights


def need(shape: Shape, layout: Layout) -> Need:
    """What one process of a run needs at most, in bytes."""
    c, tokens = layout.width, layout.micro_tokens
    share = 1 / layout.processes if layout.parallel == "fsdp" else 1.0
    matrices, others = shape.layers * shape.layer, shape.embedding + shape.gains
    state = 4 * matrices + 8 * others if layout.optimizer == "muon" else 8 * shape.parameters
    masters = 4 * shape.parameters * share
    gradients = 4 * shape.parameters * share
    # The layers' weights in the compute dtype, as the backward pass will want them: of all, or of the one at work
    # and the next. FSDP gathers them anyway, and what is outside of the layers in fp32.
    sharded = layout.parallel == "fsdp"
    at_once = 2 if layout.recompute or sharded else shape.layers
    copies = at_once * shape.layer * (c if c < 4 or sharded else 0) + (4 * shape.embedding if sharded else 0)
    # Each lane has weights in the compute dtype, gradients and a piece of the loss of its own.
    lanes = lanes_for(tokens // shape.context, layout.lanes)
    copies *= lanes
    head = shape.vocab * shape.hidden
    entry = tokens * shape.hidden * c * shape.layers
    layer = tokens * kept(shape, layout) + shape.layer * (c if c < 4 else 0)
    activations = entry + layer if layout.recompute else tokens * kept(shape, layout) * shape.layers
    mask = tokens * shape.context * c if layout.cpu and shape.context > BLOCK else 0
    # The last norm works in fp32; the loss keeps the gradients to the hidden states and to the head.
    ends = tokens * shape.hidden * (4 + 4 + 2 * c)
    logits = min(tokens, lanes * chunk(shape, layout)) * shape.vocab * (4 + 2 * c if layout.compiled else 20 + 2 * c)
    held = activations + copies + mask + ends
    # One layer's backward pass: gradients of what it kept, half of it at a time, or many at once in eager mode.
    backward = (0.5 if layout.compiled else 1.5) * layer + 4 * shape.layer * lanes
    head_gradient = 4 * head * lanes
    accumulates = layout.batch_tokens > layout.micro_tokens * layout.processes
    before = gradients if accumulates else 0
    made = gradients * lanes + (before if lanes > 1 else 0)
    moments = {
        "loss": held + before + head_gradient + 2 * head * c * lanes + logits,
        "backward": held + made + max(head_gradient * 2, head_gradient + backward),
        "embedding gradient": made + 2 * head_gradient + mask + ends / 2,
        "optimiser": gradients + (_muon(shape) / layout.processes if layout.optimizer == "muon" else 0),
        "checkpoint": (masters + state * share) if layout.cpu else 0,
    }
    kind = "accelerator" if not layout.cpu else "compiled" if layout.compiled else "eager"
    parts = {"process": BASE[kind], "weights (fp32)": masters, "optimiser state": state * share}
    slack = SLACK[kind] * (masters + state * share + max(moments.values()))
    return Need(parts, moments, slack)


def detail(shape: Shape, layout: Layout) -> dict[str, float]:
    """Bytes of the parts that people ask for, which need not exist at the same moment."""
    c, tokens = layout.width, layout.micro_tokens
    share = 1 / layout.processes if layout.parallel == "fsdp" else 1.0
    matrices, others = shape.layers * shape.layer, shape.embedding + shape.gains
    per_layer = tokens * kept(shape, layout)
    head = shape.vocab * shape.hidden
    return {
        "weights_fp32": 4 * shape.parameters * share,
        "gradients_fp32": 4 * shape.parameters * share,
        "optimiser_matrices": (4 if layout.optimizer == "muon" else 8) * matrices * share,
        "optimiser_others": 8 * others * share,
        "weights_compute_dtype": (0 if c == 4 else c * shape.layer * (2 if share < 1 else shape.layers)),
        "activations_of_a_layer": per_layer,
        "activations": per_layer * shape.layers,
        "activations_recomputed": tokens * shape.hidden * c * shape.layers + per_layer,
        "loss": 4 * head + 2 * head * c + min(tokens, chunk(shape, layout)) * shape.vocab * (4 + 2 * c),
        "optimiser_work": _muon(shape) / layout.processes if layout.optimizer == "muon" else 0.0,
    }


def chunk(shape: Shape, layout: Layout) -> int:
    """Tokens whose logits are held at a time."""
    if layout.cpu:
        return LOSS_CHUNK
    return max(LOSS_CHUNK, 1 << max(1, LOSS_BYTES // 4 // shape.vocab).bit_length() - 1)


def _muon(shape: Shape) -> float:
    """Muon's copies while it treats all matrices of the commonest shape at once: two in fp32, five in bf16.

    The experts of a layer are a stack, and are treated layer by layer.

    Processes share this work.
    """
    sizes = Counter()
    for rows, columns in shape.matrices:
        sizes[rows, columns] += rows * columns * (1 if (rows, columns) in shape.stacks else shape.layers)
    return 18.0 * max(sizes.values(), default=0)


def pieces(rows: int, context: int, micro_tokens: int) -> int:
    """Rows in a forward pass: the largest divisor of `rows` that is at most `micro_tokens` (8192 when that is 0)."""
    most = max(1, (micro_tokens or 8192) // context)
    return next(size for size in range(min(most, rows), 0, -1) if rows % size == 0)


def rows_of(batch_tokens: int, context: int, processes: int) -> int:
    """Rows of a step that fall to one process."""
    return max(1, math.ceil(batch_tokens // context / processes))
