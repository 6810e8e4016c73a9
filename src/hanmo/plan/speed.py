"""How many tokens a second a run will do.

On a CPU the time of a step is a sum of kinds of work, each at its own price: matrix products of the layers and the
head, attention's products, the numbers that pass through memory between them, and the optimiser. The prices were
fitted to measured runs (`benchmarks/plan_accuracy.py`), as multiples of what the same work costs in one large matrix
product on the same machine, so that only that has to be measured.

On an accelerator it is the model FLOPs over the rate of its data sheet times an efficiency (MFU) that grows with the
width of the model, as runs that others published have it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hanmo.models.attention import BLOCK, SHORT
from hanmo.plan.devices import Device
from hanmo.plan.memory import Layout, kept
from hanmo.plan.shape import Shape


@dataclass(frozen=True)
class Work:
    """What one token costs, and one step, in FLOPs of a large matrix product that take as long.

    Attributes:
        products: FLOPs of the layers' and the head's products, the recomputed ones included.
        attention: FLOPs of queries with keys and of weights with values.
        traffic: bytes that layers and loss keep or pass on.
        muon: FLOPs of Muon's iterations, a step.
        update: bytes of weights, gradients and state that the optimisers go through, a step.
    """

    products: float
    attention: float
    traffic: float
    muon: float
    update: float

    def row(self, tokens: int) -> tuple[float, ...]:
        """The five kinds for a step of `tokens`."""
        return (self.products * tokens, self.attention * tokens, self.traffic * tokens, self.muon, self.update)


#: Prices of the kinds of `Work` on a CPU, in the order of `Work.row`: fitted by benchmarks/plan_accuracy.py.
CPU_PRICES = (1.6, 1.27, 45.1, 0.0, 59.3)
#: MFU on accelerators by width of the model, from published runs on A100, by our count of FLOPs: nanoGPT's GPT-2 (width
#: 768: 300B tokens in about 4 days on eight) and TinyLlama's 1.1B (width 2048: 24,000 tokens a second on one).
ANCHORS = ((768, 0.30), (2048, 0.563))
#: Bounds outside of which the line through the anchors is not believed.
LEAST, MOST = 0.12, 0.58
#: What an H100 reaches of an A100's MFU: nanochat reports 41 to 50 % at width 1280, torchtitan 33 to 39 % at 4096.
RELATIVE = {"h100": 0.85, "h200": 0.85}
#: Time that gradients' exchange adds for each further process, where they share one machine's links.
EXCHANGE = {"ddp": 0.03, "fsdp": 0.06}


def work(shape: Shape, layout: Layout) -> Work:
    """The work of a run."""
    again = 4 / 3 if layout.recompute else 1.0
    attention = 12 * shape.layers * shape.query * shape.context
    head = 6 * shape.vocab * shape.hidden
    layers = shape.flops - attention - head
    # Short rows on a CPU are taken in blocks that leave half of the masked part out.
    short = layout.cpu and shape.context <= SHORT
    seen = 0.5 * (1 + min(BLOCK, shape.context) / shape.context) if short else 1.0
    steps = 0.0
    if layout.optimizer == "muon":
        for rows, columns in shape.matrices:
            small, large = min(rows, columns), max(rows, columns)
            steps += shape.layers * 5 * (4 * small * small * large + 2 * small**3)
    state = 16 if layout.optimizer == "muon" else 20
    return Work(
        products=layers * again + head,
        attention=attention * seen * again,
        traffic=shape.layers * kept(shape, layout) * again + shape.vocab * 12,
        muon=steps,
        update=shape.parameters * state,
    )


def efficiency(shape: Shape, device: Device) -> float:
    """The MFU to expect on an accelerator, between 0 and 1."""
    (low, poor), (high, good) = ANCHORS
    share = math.log(shape.hidden / low) / math.log(high / low)
    return min(MOST, max(LEAST, poor + (good - poor) * share)) * RELATIVE.get(device.name, 1.0)


def tokens_per_second(shape: Shape, layout: Layout, device: Device, mfu: float | None = None) -> float:
    """Tokens a second of all processes together, each on a device of its own (CPU processes share one machine's cores).

    Args:
        mfu: model FLOPs over the device's rate, where it is known better than by the rules here.
    """
    tokens = layout.batch_tokens
    if mfu is None and device.cpu:
        costs = sum(price * amount for price, amount in zip(CPU_PRICES, work(shape, layout).row(tokens), strict=True))
        return tokens * device.rate / costs
    again = 4 / 3 if layout.recompute else 1.0
    expected = mfu if mfu is not None else efficiency(shape, device) / again
    exchange = 1 + EXCHANGE[layout.parallel] if layout.processes > 1 and mfu is None else 1.0
    return layout.processes * device.rate * expected / shape.flops / exchange
