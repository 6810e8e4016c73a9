"""How many bits per byte a new decoder may end at: a span, for our short runs say no more.

Runs of 1.8M to 17M parameters on 0.3M to 4M tokens of one Chinese text were fitted by

    bits per byte = floor + c / (parameters^a * tokens^b)

for several floors, which fit equally well and differ ever more beyond the runs (benchmarks/expected_bits.py). The span
goes from the lowest to the highest of them, by the fits' largest error further at both ends. It is of that text: books
and talk of another kind are easier or harder to foresee.
"""

from __future__ import annotations

import math

#: (floor, ln c, a, b) of the fits, and the largest error of one of them for a run that it had not seen.
FITS = (
    (0.0, 2.4090, 0.000459, 0.112937),
    (0.3, 2.5066, 0.000497, 0.130023),
    (0.6, 2.6662, 0.000530, 0.153256),
    (0.9, 2.9352, 0.000537, 0.186733),
)
ERROR = 0.03
#: What the runs were: parameters, tokens.
SEEN = ((1.8e6, 17.3e6), (0.33e6, 4e6))


def expected_bits(parameters: int, tokens: int) -> tuple[float, float]:
    """The least and the most bits per byte of held-out text to expect of so many parameters after so many tokens."""
    size, budget = math.log(parameters), math.log(tokens)
    said = [floor + math.exp(ln_c - a * size - b * budget) for floor, ln_c, a, b in FITS]
    return min(said) * (1 - ERROR), max(said) * (1 + ERROR)


def beyond(parameters: int, tokens: int) -> float:
    """How many times the largest of the runs a training is, or one of the smallest it: 1 among them."""
    return max(
        max(amount / most, least / amount, 1.0)
        for amount, (least, most) in zip((parameters, tokens), SEEN, strict=True)
    )
