"""How far `hanmo plan` is from what runs really take: peak memory and tokens a second on this CPU, and published runs.

    python benchmarks/plan_accuracy.py [--threads 4]   # measure all runs, fit the speed's constants, check, write
    python benchmarks/plan_accuracy.py --again         # the same from the runs of the last result

Every run is Hanmo's own trainer in a process of its own, a few steps long; a run's speed is its best step's, and the
reference is the best matrix product in the same process. On one thread the processor's time is taken, so that other
work on the machine counts little. The prices of `hanmo.plan.speed` are fitted to the runs of FIT (put "fitted_prices"
there) and judged by those of CHECK, which the fit never sees.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planned import Check, fit_prices


def _run(preset: str, context: int, batch: int, micro: int = 0, **more: Any) -> dict[str, Any]:
    return {"preset": preset, "context": context, "batch_tokens": batch, "micro_tokens": micro or batch, **more}


FIT = [
    _run("hanmo-1m", 128, 8192),
    _run("hanmo-2m", 512, 8192),
    _run("hanmo-4m", 256, 4096),
    _run("hanmo-8m", 1024, 8192, vocab=16384),
    _run("hanmo-16m", 512, 4096, recompute="layers"),
    _run("hanmo-16m", 512, 8192, vocab=16384),
    _run("hanmo-1m", 128, 4096),
]
CHECK = [
    _run("hanmo-2m", 256, 2048),
    _run("hanmo-4m", 512, 4096, vocab=16384),
    _run("hanmo-4m", 512, 4096, recompute="layers"),
    _run("hanmo-8m", 256, 4096, 2048),
    _run("hanmo-8m", 256, 2048, optimizer="adamw"),
    _run("hanmo-16m", 512, 2048),
    _run("hanmo-4m", 1024, 8192, 4096),
    _run("hanmo-2m", 512, 4096, optimizer="adamw"),
    _run("hanmo-16m", 256, 8192, 2048, vocab=16384),
]
#: Runs without the compiler, of which only memory is planned.
EAGER = [
    _run("hanmo-2m", 256, 8192, compile=False),
    _run("hanmo-8m", 512, 2048, compile=False),
    _run("hanmo-8m", 512, 4096, compile=False, recompute="layers"),
]


#: What others published of runs on eight A100; the MFU is what their own tokens a second make by our count.
PUBLISHED = [
    {
        "what": "the Chinese TinyLlama: 1.24B, 46,080 steps of 2,097,152 tokens, about 6 days",
        "hours": 6 * 24,
        "mfu": 0.56,
        "config": {
            "model_type": "llama",
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "vocab_size": 65024,
            "tie_word_embeddings": False,
        },
        "settings": {
            "tokens": 46080 * 2097152,
            "context": 2048,
            "batch_tokens": 2097152,
            "micro_tokens": 16384,
            "optimizer": "adamw",
        },
    },
    {
        "what": "Tiny LLM zh: 92M, 42B tokens, about 15 h (97,000 tokens a second on each: a poor utilisation)",
        "hours": 15,
        "mfu": 0.125,
        "config": {
            "model_type": "qwen2",
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "vocab_size": 64798,
            "tie_word_embeddings": False,
        },
        "settings": {"tokens": 42 * 10**9, "context": 1024, "batch_tokens": 2**19, "optimizer": "adamw"},
    },
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


def measure(run: dict[str, Any], steps: int, threads: int) -> dict[str, Any]:
    """Train a few steps: the best tokens a second, the peak of anonymous memory, the rate of a matrix product."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from hanmo.child import MemoryWatch
    from hanmo.models.allocator import keep_freed_memory
    from hanmo.plan.devices import Device
    from hanmo.plan.fit import layout_of
    from hanmo.pretrain.settings import PretrainSettings
    from hanmo.pretrain.trainer import Trainer
    from hanmo.tokens.order import Order
    from hanmo.tokens.shards import split_of

    torch.set_num_threads(threads)
    keep_freed_memory()
    watch = MemoryWatch()
    run = dict(run)
    vocab = run.pop("vocab", 8192)
    settings = PretrainSettings(
        **run,
        tokens=run["batch_tokens"] * steps,
        eval_every=0,
        checkpoint_seconds=1e6,
        decay_fraction=0,
        device="cpu",
        threads=threads,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(settings.config(vocab)).train()
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

        def timed(*given: Any) -> float:
            start = clock()
            loss = one_step(*given)
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
        "lanes": layout_of(settings, Device("cpu", rate, 1e12, cpu=True)).lanes,
    }


def compare(runs: list[dict[str, Any]], prices: tuple[float, ...]) -> list[dict[str, Any]]:
    """Put the plan of every run, and its errors, beside what was measured."""
    from hanmo.plan.devices import Device
    from hanmo.plan.fit import layout_of
    from hanmo.plan.memory import need
    from hanmo.plan.shape import of_new
    from hanmo.plan.speed import work
    from hanmo.pretrain.settings import PretrainSettings

    found = []
    for item in runs:
        run, measured = dict(item["run"]), item["measured"]
        vocab = run.pop("vocab", 8192)
        # What was measured was so many lanes; what this machine would take is another matter.
        settings = PretrainSettings(**run, threads=measured["threads"], lanes=measured["lanes"])
        shape = of_new(settings, vocab)
        layout = layout_of(settings, Device("cpu", measured["matmul"], 1e12, cpu=True))
        row = work(shape, layout).row(settings.batch_tokens)
        seconds = sum(price * amount for price, amount in zip(prices, row, strict=True)) / measured["matmul"]
        planned = {"peak": need(shape, layout).total, "tokens_per_second": settings.batch_tokens / seconds}
        errors = {}
        if measured["peak_anonymous"] is not None:
            errors["peak"] = planned["peak"] / measured["peak_anonymous"] - 1
        if settings.compile and measured["tokens_per_second"] is not None:
            errors["tokens_per_second"] = planned["tokens_per_second"] / measured["tokens_per_second"] - 1
        found.append({**item, "plan": planned, "error": errors, "work": row})
    return found


def fit(runs: list[dict[str, Any]]) -> tuple[float, ...]:
    """Prices of the kinds of work, from measured runs."""
    rows, seconds = [], []
    for item in compare(runs, (1.0,) * 5):
        rows.append(item["work"])
        seconds.append(item["run"]["batch_tokens"] / item["measured"]["tokens_per_second"] * item["measured"]["matmul"])
    return fit_prices(rows, seconds)


def in_use() -> tuple[float, ...]:
    """The prices of `hanmo.plan.speed`."""
    from hanmo.plan.speed import CPU_PRICES

    return CPU_PRICES


def published() -> list[dict[str, Any]]:
    """The plan beside what others published of their runs on eight A100 (their architectures, our engine)."""
    from hanmo.plan.devices import KNOWN
    from hanmo.plan.shape import of_folder
    from hanmo.plan.training import plan_stage
    from hanmo.pretrain.settings import PretrainSettings

    found = []
    for case in PUBLISHED:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(case["config"]), encoding="utf-8")
            settings = PretrainSettings(**case["settings"])
            shape = of_folder(Path(folder), settings.context)
        plans = {
            name: plan_stage(settings, shape, KNOWN["a100"], 8, mfu=mfu)
            for name, mfu in (("by the rules", None), ("at its own MFU", case["mfu"]))
        }
        found.append(
            {
                "what": case["what"],
                "published_hours": case["hours"],
                "parameters": shape.parameters,
                "plans": {
                    name: {"hours": plan["hours"], "mfu": plan["mfu"], "error": plan["hours"] / case["hours"] - 1}
                    for name, plan in plans.items()
                },
            }
        )
    return found


CHECKS = Check(
    script=Path(__file__).resolve(),
    what="what hanmo plan says beside what runs take",
    runs={"fit": FIT, "check": CHECK, "eager": EAGER},
    measure=lambda run, options: measure(run, options.steps, options.threads),
    fit=fit,
    compare=compare,
    prices=in_use,
    options={"threads": 1, "steps": 3},
    more=lambda: {"published": published()},
)

if __name__ == "__main__":
    CHECKS.main(__doc__ or "")
