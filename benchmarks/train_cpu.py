"""Tokens a second of pretraining on CPU: Hanmo against transformers' Trainer and MiniMind's own script.

    python benchmarks/train_cpu.py [--sizes 16m,92m] [--cores 0-3] [--rounds 3] [--minimind PATH]

The runners, each in a process of its own on the same cores, take turns for several rounds: Hanmo at its defaults
(packed documents that do not see each other, Muon), the Trainer at its defaults (fp32, eager, AdamW), the Trainer
with torch.compile and with bf16 where this CPU has products in it, and MiniMind's training script (a checkout, run
unchanged) with a model of about as many parameters. In the same round 4096^3 matrix products are timed, in bf16 and
fp32; the faster is what the device can do, and model FLOP/s (see hanmo.models.flops) are given as a share of it.

All but MiniMind train the same Qwen3 shape on rows of the same random documents. MiniMind pads, so it gets texts of as
many tokens; of its tokens a second both are given, those of real targets and all. A figure is the median over the steps
behind the start-up; a ratio is taken within a round, against MiniMind's real targets, and its median reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers.clock import STARTUP, figures
from peers.cores import settle
from peers.job import SIZES, Job
from peers.random_text import write
from peers.runners import absent, perform
from peers.runners import main as run_job

RUNNERS = ("hanmo", "run_clm", "run_clm-bf16-compile", "minimind")
RESULT = Path(__file__).parent / "results" / "train_cpu.json"


def matmul_flops() -> dict[str, float]:
    """FLOP/s of a 4096^3 matrix product on the cores of this process, by dtype. The faster one is the reference."""
    import torch

    from hanmo.pretrain.precision import gain, matmul_rate

    device = torch.device("cpu")
    found = {"fp32": matmul_rate(device, torch.float32, size=4096, seconds=4)}
    # Where they are emulated, one product in bf16 takes minutes.
    if gain(device, torch.bfloat16) > 0.5:
        found["bf16"] = matmul_rate(device, torch.bfloat16, size=4096, seconds=4)
    return found


def take(options: argparse.Namespace, size: str, data: Path) -> dict[str, Any]:
    """All rounds of one size."""
    rows = options.rows if SIZES[size].preset != "hanmo-92m" else max(1, options.rows // 2)
    steps = STARTUP + (options.steps if size != "92m" else max(2, options.steps // 3))
    rounds, skipped, parameters = [], {}, {}
    for number in range(options.rounds):
        found: dict[str, Any] = {}
        for name in RUNNERS:
            checkout = options.minimind if name == "minimind" else None
            if why := absent(name, checkout):
                skipped[name] = why
                continue
            job = Job(name, size, steps, 5e-4, -1, str(data), str(data), "cpu", rows, options.context, checkout)
            record = perform(job, __file__, data / "compiled")
            parameters[name] = record["parameters"]
            found[name] = figures(record, job.tokens) | {k: record[k] for k in ("dtype", "commit") if k in record}
        products = matmul_flops()
        reference = max(products.values())
        found |= {f"{dtype}_matmul_gflops": round(rate / 1e9, 1) for dtype, rate in products.items()}
        for facts in found.values():
            if isinstance(facts, dict):
                facts["share_of_matmul"] = round(facts["model_gflops"] * 1e9 / reference, 4)
        rounds.append(found)
        shown = ", ".join(f"{k} {v['tokens_per_second']:.0f}" for k, v in found.items() if isinstance(v, dict))
        print(f"{size}, round {number + 1}: {shown} tokens/s; product {reference / 1e9:.0f} GFLOP/s", file=sys.stderr)

    def real(facts: dict[str, float]) -> float:
        return facts.get("real_tokens_per_second", facts["tokens_per_second"])

    def middle(name: str) -> float:
        return round(statistics.median(r["hanmo"]["tokens_per_second"] / real(r[name]) for r in rounds), 3)

    return {
        "rows": rows,
        "steps": steps,
        "parameters": parameters,
        "rounds": rounds,
        "ratio": {name: middle(name) for name in RUNNERS[1:] if name not in skipped},
        "share_of_matmul": round(statistics.median(r["hanmo"]["share_of_matmul"] for r in rounds), 4),
        "skipped": skipped,
    }


def main() -> None:
    """Take the rounds and write the result."""
    if sys.argv[1:2] == ["--job"]:
        run_job(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="16m,92m", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch; half at 92m")
    parser.add_argument("--steps", type=int, default=9, help="behind the start-up; a third at 92m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", help="e.g. 0-3; all of the process where not given")
    parser.add_argument("--minimind", help="a checkout of jingyaogong/minimind")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    used = settle(options.cores)
    from hanmo.child import machine, versions

    result: dict[str, Any] = {
        "what": "tokens per second of pretraining on CPU",
        "settings": {k: getattr(options, k) for k in ("sizes", "vocab", "context", "rows", "steps", "rounds")}
        | {"cores": used},
        "sizes": {},
        "machine": machine(),
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write(data, options.vocab, options.context, 40 * options.rows * options.context)
        for size in options.sizes.split(","):
            result["sizes"][size] = take(options, size, data)
            options.result.parent.mkdir(exist_ok=True)
            options.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: {n: v[n] for n in ("ratio", "share_of_matmul")} for k, v in result["sizes"].items()}))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
