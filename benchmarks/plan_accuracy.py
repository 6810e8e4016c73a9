"""How far `hanmo plan` is from what runs really take: peak memory and tokens a second on this CPU, and published runs.

    python benchmarks/plan_accuracy.py            # measure all runs, fit the speed's constants, check, write the result
    python benchmarks/plan_accuracy.py --again    # the same from the runs of the last result, e.g. after a change of the plan

Every run is Hanmo's own trainer in a process of its own, a few steps long; a run's speed is its best step's, so that
other work on the machine counts little, and the reference is the best matrix product in the same process. The constants
of `hanmo.plan.speed` are fitted to the runs of FIT and judged by those of CHECK, which the fit never sees.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "plan_accuracy.json"


def _run(preset: str, context: int, batch: int, micro: int = 0, **more: Any) -> dict[str, Any]:
    return {"preset": preset, "context": context, "batch_tokens": batch, "micro_tokens": micro or batch, **more}


FIT = [
    _run("hanmo-1m", 128, 4096),
    _run("hanmo-2m", 512, 4096),
    _run("hanmo-4m", 256, 2048),
    _run("hanmo-4m", 256, 8192, 2048, vocab=16384),
    _run("hanmo-8m", 512, 2048),
    _run("hanmo-8m", 512, 2048, recompute="layers"),
    _run("hanmo-2m", 512, 4096, optimizer="adamw"),
    _run("hanmo-8m", 1024, 4096),
]
CHECK = [
    _run("hanmo-2m", 256, 2048),
    _run("hanmo-4m", 512, 4096, vocab=16384),
    _run("hanmo-4m", 512, 4096, recompute="layers"),
    _run("hanmo-8m", 256, 4096, 2048),
    _run("hanmo-8m", 256, 2048, optimizer="adamw"),
    _run("hanmo-16m", 512, 2048),
    _run("hanmo-4m", 1024, 8192, 4096),
]
#: Runs without the compiler, of which only memory is planned.
EAGER = [
    _run("hanmo-2m", 256, 8192, compile=False),
    _run("hanmo-8m", 512, 2048, compile=False),
    _run("hanmo-8m", 512, 4096, compile=False, recompute="layers"),
]


def product_rate(clock: Callable[[], float], tries: int = 8) -> float:
    """FLOP/s of a bf16 product of 2048 x 2048 matrices, the best of some tries."""
    import torch

    left = torch.randn(2048, 2048).to(torch.bfloat16)
    best = float("inf")
    for _ in range(tries):
        start = clock()
        _ = left @ left
        best = min(best, clock() - start)
    return 2 * 2048**3 / best


def measure(run: dict[str, Any], steps: int) -> dict[str, Any]:
    """Train a few steps: the best tokens a second, the peak of anonymous memory, the rate of a matrix product."""
    import numpy as np
    import torch
    from transformers import Qwen3ForCausalLM

    from hanmo.child import MemoryWatch
    from hanmo.models.allocator import keep_freed_memory
    from hanmo.models.presets import build_config
    from hanmo.pretrain.settings import PretrainSettings
    from hanmo.pretrain.trainer import Trainer
    from hanmo.tokens.order import Order
    from hanmo.tokens.shards import split_of

    keep_freed_memory()
    watch = MemoryWatch()
    run = dict(run)
    vocab = run.pop("vocab", 8192)
    settings = PretrainSettings(
        **run, tokens=run["batch_tokens"] * steps, eval_every=0, checkpoint_seconds=1e6, decay_fraction=0, device="cpu"
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(build_config(settings.preset, vocab, settings.context)).train()
    generator = np.random.Generator(np.random.PCG64(0))
    tokens = generator.integers(3, vocab, 4 * settings.batch_tokens + settings.context)
    ends = np.unique(np.append(generator.integers(1, len(tokens), len(tokens) // 200), len(tokens)))
    tokens[ends - 1] = 0
    dtype = torch.bfloat16
    order = Order(split_of(tokens.astype(np.uint16), ends), settings.context, seed=1)
    # On one thread, the time that this process computes is what its steps take on a quiet machine.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    rate = product_rate(clock)
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, settings, order, Path(folder), dtype)
        one_step = trainer._one_step

        def timed(rows: Any) -> float:
            start = clock()
            loss = one_step(rows)
            seconds.append(clock() - start)
            return loss

        trainer._one_step = timed  # type: ignore[method-assign]
        trainer.run()
    rate = max(rate, product_rate(clock))
    return {
        "tokens_per_second": settings.batch_tokens / min(seconds[1:]),
        "peak_anonymous": watch.peak_anonymous(),
        "matmul": rate,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(measure(json.loads(sys.argv[2]), 4)))
    else:
        rows = {}
        for run in [*FIT, *CHECK, *EAGER]:
            done = subprocess.run([sys.executable, __file__, "--one", json.dumps(run)], stdout=subprocess.PIPE, text=True, check=True)
            rows[json.dumps(run)] = json.loads(done.stdout.splitlines()[-1])
            print(run, rows[json.dumps(run)], flush=True)
            Path("/tmp/hanmo/wt/pl_rows.json").write_text(json.dumps(rows))
