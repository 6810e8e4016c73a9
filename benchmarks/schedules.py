"""Which schedule of learning rate and batch learns most from a budget: what `hanmo.pretrain.schedule` goes by.

    python benchmarks/schedules.py TOKENS_FOLDER [--preset hanmo-1m] [--tokens 120000] [--seeds 2] [--threads 1]

Trains one small model (eager: so small a run is over before a compiler is) again and again, from several seeds of the
weights and the order of documents, each time with another schedule, and measures bits per byte on held-out text at the
end. The settings are otherwise the defaults. A batch that grows is tried with the learning rate left alone, scaled by
the root of the batch, and in proportion to it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "schedules.json"
BATCH, CONTEXT = 2048, 64
GROWTH = {"batch_start": 256, "batch_warmup_tokens": 30_000}
#: Settings of each run, and the power of the batch's size that its rates are multiplied by while it grows.
RUNS: dict[str, tuple[dict[str, Any], float]] = {
    "constant batch": ({}, 0.0),
    "growing batch, rate unscaled": (GROWTH, 0.0),
    "growing batch, rate by the root": (GROWTH, 0.5),
    "growing batch, rate in proportion": (GROWTH, 1.0),
    "wsd, sqrt decay": ({"decay_shape": "sqrt"}, 0.0),
    "wsd, cosine decay": ({"decay_shape": "cosine"}, 0.0),
    "cosine to a tenth": ({"schedule": "cosine", "min_lr": 0.1}, 0.0),
    "linear to zero": ({"schedule": "linear"}, 0.0),
}


def bits(data: Path, out: Path, options: argparse.Namespace, seed: int, given: dict[str, Any], power: float) -> float:
    """Held-out bits per byte after one run."""
    from hanmo.pretrain import stage, trainer
    from hanmo.pretrain.schedule import Schedule
    from hanmo.pretrain.settings import PretrainSettings

    class Scaled(trainer.Trainer):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            sizes, plain = self.sizes, self.schedule

            class Scheme(Schedule):
                def factor(self, step: int) -> float:
                    return plain.factor(step) * (sizes.rows(step) / sizes.full) ** power

            self.schedule = Scheme(**vars(plain))

    settings = PretrainSettings(
        preset=options.preset,
        tokens=options.tokens,
        context=CONTEXT,
        batch_tokens=BATCH,
        seed=seed,
        threads=options.threads,
        warmup_tokens=8_000,
        compile=False,
        eval_every=0,
        eval_bytes=options.bytes,
        sample_prompts=[],
        checkpoint_seconds=1e6,
        log_every=20,
        **given,
    )
    stage.Trainer = Scaled
    return stage.run(settings, {"data": [data]}, out)["heldout_bpb"]


def main() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="hanmo-1m")
    parser.add_argument("--tokens", type=int, default=120_000)
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in RUNS}
    for name, (given, power) in RUNS.items():
        for seed in range(1, options.seeds + 1):
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(bits(options.data, Path(folder), options, seed, given, power))
            rows = [
                {"run": n, "bits_per_byte": round(statistics.mean(b), 4), "seeds": b} for n, b in found.items() if b
            ]
            about = {key: value for key, value in vars(options).items() if key != "data"} | {"batch_tokens": BATCH}
            RESULT.write_text(json.dumps({"settings": about, "runs": rows}, indent=2) + "\n", encoding="utf-8")
            print(f"{name}: {found[name][-1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
