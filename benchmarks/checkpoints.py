"""What checkpoints cost: the time of a step with one every 50 steps against that without any.

    python benchmarks/checkpoints.py [--preset hanmo-8m] [--threads 2] [--rounds 5]

One process trains one model; stretches of 50 steps with a checkpoint at their beginning take turns with stretches
without. The time of a stretch is that of all that happens in it: copying the tensors, the thread that
writes beside the steps, and the waiting, if any, for the one before. Compilation and the first steps are left out.

A checkpoint costs less than a machine's steps differ from one minute to the next, so two ratios are given: of whole
stretches, pair by pair, and of the sums over the 50 places of a stretch of the median over the rounds at that place,
which a few slow steps do not move. The machine's load behind each pair stands in the result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from hanmo.child import machine, versions
from peers.random_text import documents

RESULT = Path(__file__).parent / "results" / "checkpoints.json"
EVERY = 50


def stretch(trainer: Any, save: bool) -> list[float]:
    """Seconds of each step of one stretch, with a checkpoint at its beginning (part of its first step) or without."""
    times = [time.perf_counter()]
    if save:
        trainer.save()
    for _ in range(EVERY):
        rows = trainer._rows(trainer.step)
        trainer._one_step(rows, rows.targets.size)
        trainer.step += 1
        times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times)]


def typical(stretches: list[list[float]]) -> float:
    """Seconds of a stretch without its outliers: the sum of the medians at each place."""
    return sum(statistics.median(place) for place in zip(*stretches, strict=True))


def main() -> None:
    """Measure, print and save the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="hanmo-8m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM

    from hanmo.models.allocator import keep_freed_memory
    from hanmo.models.presets import build_config
    from hanmo.pretrain.precision import choose, pick_device
    from hanmo.pretrain.settings import PretrainSettings
    from hanmo.pretrain.trainer import Trainer
    from hanmo.tokens.order import Order
    from hanmo.tokens.shards import split_of

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    batch = options.rows * options.context
    steps = 10 + 2 * EVERY * options.rounds
    settings = PretrainSettings(
        preset=options.preset, context=options.context, batch_tokens=batch, tokens=batch * steps, eval_every=0
    )
    model = AutoModelForCausalLM.from_config(build_config(options.preset, options.vocab, options.context))
    order = Order(split_of(*documents(options.vocab, 64 * batch)), options.context, seed=1)
    stretches: dict[bool, list[list[float]]] = {True: [], False: []}
    pairs, loads = [], []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, settings, order, Path(folder), choose(pick_device("cpu"), "auto"))
        for _ in range(10):
            rows = trainer._rows(trainer.step)
            trainer._one_step(rows, rows.targets.size)
            trainer.step += 1
        for number in range(options.rounds):
            # Which comes first changes from round to round: a machine that warms up or slows down favours neither.
            order_of_two = (True, False) if number % 2 else (False, True)
            for save in order_of_two:
                stretches[save].append(stretch(trainer, save))
                trainer.store.wait()
            pairs.append((sum(stretches[True][-1]), sum(stretches[False][-1])))
            loads.append(os.getloadavg()[0])
            print("with {:.2f} s, without {:.2f} s".format(*pairs[-1]), flush=True)
        written = sorted((Path(folder) / "checkpoints").glob("step-*"))
        size = sum(file.stat().st_size for file in written[-1].iterdir())
        trainer.store.close()
    ratios = [one / two for one, two in pairs]
    found = {
        "preset": options.preset,
        "threads": options.threads,
        "batch_tokens": batch,
        "every": EVERY,
        "checkpoint_mb": round(size / 1e6, 1),
        "step_ms_with": round(1000 * statistics.median(one for one, _ in pairs) / EVERY, 2),
        "step_ms_without": round(1000 * statistics.median(two for _, two in pairs) / EVERY, 2),
        "ratio_of_typical": round(typical(stretches[True]) / typical(stretches[False]), 4),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "load": [round(load, 1) for load in loads],
        "machine": machine(),
        "versions": versions(),
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{found['step_ms_with']} ms a step with, {found['step_ms_without']} ms without: {found['ratio_of_typical']}")


if __name__ == "__main__":
    main()
