"""How far our own runs say how many bits per byte a larger model on more text will need: not far.

    python benchmarks/expected_bits.py

Takes the runs of benchmarks/results/sweep.json (rows of 256 tokens) and twins.json (512) that differ in size and budget
alone otherwise (Qwen3 shapes, random start, 8,192 tokens of vocabulary, the same held-out text; of several rates and
batches the best), and fits

    bits per byte = floor + c / (parameters^a * tokens^b)

for several floors, since runs as short as these do not tell what no model gets below. Each fit is judged by leaving
out one run at a time, and by what the runs of fewer than 2M tokens say of those of more. What the fits say of one
card's day stands beside it: where fits that are as good as each other differ, the runs know nothing. Two published
laws, fitted to English text near to that size, are asked for the one thing that may carry over: which of two models
of a day is better, and by how much. The result goes to benchmarks/results/expected_bits.json.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanmo.child import versions
from hanmo.console import console
from hanmo.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"
RESULT = RESULTS / "expected_bits.json"
#: Bits per byte that no model is taken to get below.
FLOORS = (0.0, 0.3, 0.6, 0.9)
#: docs/tutorials/one-card.md: parameters and tokens of a day.
DAY = {"hanmo-92m": (103e6, 4.5e9), "hanmo-210m": (234e6, 3e9)}
#: loss in nats = E + A / N^alpha + B / D^beta: Hoffmann et al. 2022 (arXiv:2203.15556), and the same runs fitted
#: again by Besiroglu et al. 2024 (arXiv:2404.10102).
PUBLISHED = {
    "Hoffmann et al. 2022": {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
    "Besiroglu et al. 2024": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
}

#: Rows of (parameters, tokens, bits per byte), float64, shape [runs, 3].
Runs = NDArray[np.float64]


def runs() -> Runs:
    """The best run of each size and budget."""
    best: dict[tuple[int, int], float] = {}
    for run in read_json(RESULTS / "sweep.json")["runs"]:
        size = (run["parameters"], run["settings"]["tokens"])
        if run["settings"].get("start", "random") == "random":
            best[size] = min(best.get(size, math.inf), run["heldout_bpb"])
    for run in read_json(RESULTS / "twins.json")["runs"]:
        if run["vocabulary"] == 8192 and run["preset"].startswith("hanmo") and not run["shape"]:
            best[run["parameters"], run["tokens"]] = run["heldout_bpb"]
    return np.array([[*size, bits] for size, bits in sorted(best.items())])


def fitted(some: Runs, floor: float) -> NDArray[np.floating[Any]]:
    """(ln c, -a, -b) by least squares of the logarithms."""
    sizes = np.column_stack([np.ones(len(some)), np.log(some[:, :2])])
    return np.linalg.lstsq(sizes, np.log(some[:, 2] - floor), rcond=None)[0]


def said(law: NDArray[np.floating[Any]], floor: float, parameters: float, tokens: float) -> float:
    return floor + math.exp(law @ [1.0, math.log(parameters), math.log(tokens)])


def judged(all_runs: Runs, floor: float) -> dict[str, Any]:
    """A floor's exponents, errors as shares of what was measured, and what it says of the day."""
    left_out = [
        said(fitted(np.delete(all_runs, place, 0), floor), floor, *run[:2]) / run[2] - 1
        for place, run in enumerate(all_runs)
    ]
    short = all_runs[all_runs[:, 1] < 2e6]
    law = fitted(short, floor)
    ahead = [said(law, floor, *run[:2]) / run[2] - 1 for run in all_runs[all_runs[:, 1] >= 2e6]]
    law = fitted(all_runs, floor)
    return {
        "exponents": {"parameters": -float(law[1]), "tokens": -float(law[2])},
        "left out, one at a time": {
            "mean": float(np.mean(np.abs(left_out))),
            "largest": float(np.max(np.abs(left_out))),
        },
        "from below 2M tokens, of 2M to 4M": {"mean": float(np.mean(ahead)), "largest": float(np.max(np.abs(ahead)))},
        "one card's day": {name: said(law, floor, *size) for name, size in DAY.items()},
    }


def published(law: dict[str, float], parameters: float, tokens: float) -> float:
    """Nats a token."""
    return law["E"] + law["A"] / parameters ** law["alpha"] + law["B"] / tokens ** law["beta"]


def main() -> None:
    found = runs()
    fits = {str(floor): judged(found, floor) for floor in FLOORS}
    laws = {name: {preset: published(law, *size) for preset, size in DAY.items()} for name, law in PUBLISHED.items()}
    result = {
        "what": "fits of bits per byte to our own short runs, their errors, and published laws beside them",
        "runs": [{"parameters": int(run[0]), "tokens": int(run[1]), "bits_per_byte": float(run[2])} for run in found],
        "measured": {
            "parameters": [int(found[:, 0].min()), int(found[:, 0].max())],
            "tokens": [int(found[:, 1].min()), int(found[:, 1].max())],
        },
        "by floor": fits,
        "published, nats a token of English": laws,
        "hanmo-210m by hanmo-92m": {name: law["hanmo-210m"] / law["hanmo-92m"] - 1 for name, law in laws.items()},
        "versions": versions(),
    }
    write_json(RESULT, result)
    console.print(f"{len(found)} runs of {result['measured']}")
    for floor, fit in fits.items():
        console.print(f"floor {floor}: {fit}")
    console.print(f"{laws}, {result['hanmo-210m by hanmo-92m']}")


if __name__ == "__main__":
    main()
