"""Tokens a second of pretraining on CPU: Hanmo's step against the transformers Trainer on the same model and batch.

    python benchmarks/train_cpu.py [--preset hanmo-16m] [--threads 4] [--rounds 3]

Three runners, each in a process of its own, take turns for several rounds: Hanmo at its defaults (packed documents that
do not see each other, Muon), the Trainer at its defaults (fp32, eager, AdamW), and the Trainer with bf16 and
torch.compile. All train the same Qwen3 shape from the same seed on rows of the same tokens. A figure is the median over
the steps after the warm-up, compilation left out; a ratio is taken within a round, and its median reported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNNERS = ("hanmo", "trainer", "trainer-bf16-compile")
RESULT = Path(__file__).parent / "results" / "train_cpu.json"


def documents(vocab: int, total: int):
    """Random documents of 20 to 600 tokens (about 200 on average): (tokens, ends)."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(0))
    lengths = []
    while sum(lengths) < total:
        lengths.append(int(min(600, 20 + generator.exponential(180))))
    tokens = generator.integers(3, vocab, sum(lengths))
    ends = np.cumsum(lengths)
    tokens[ends - 1] = 0
    return tokens.astype(np.uint16), ends


def build(options: argparse.Namespace):
    """The model that every runner trains."""
    import torch
    from transformers import Qwen3ForCausalLM

    from hanmo.models.presets import build_config

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return Qwen3ForCausalLM(build_config(options.preset, options.vocab, options.context))


def run_hanmo(options: argparse.Namespace) -> list[float]:
    """Seconds of every step of Hanmo's trainer."""
    from hanmo.models.allocator import keep_freed_memory
    from hanmo.pretrain.precision import choose, pick_device
    from hanmo.pretrain.settings import PretrainSettings
    from hanmo.pretrain.trainer import Trainer
    from hanmo.tokens.order import Order
    from hanmo.tokens.shards import split_of

    keep_freed_memory()
    batch = options.rows * options.context
    settings = PretrainSettings(
        preset=options.preset,
        context=options.context,
        batch_tokens=batch,
        tokens=batch * options.steps,
        eval_every=0,
        checkpoint_seconds=1e6,
        decay_fraction=0,
    )
    model = build(options)
    dtype = choose(pick_device("cpu"), "auto")
    order = Order(split_of(*documents(options.vocab, 4 * batch)), options.context, seed=1)
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, settings, order, Path(folder), dtype)
        one_step = trainer._one_step

        def timed(rows):
            start = time.perf_counter()
            loss = one_step(rows)
            seconds.append(time.perf_counter() - start)
            return loss

        trainer._one_step = timed  # type: ignore[method-assign]
        trainer.run()
    return seconds


def run_trainer(options: argparse.Namespace, fast: bool) -> list[float]:
    """Seconds of every step of the transformers Trainer."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    tokens, _ = documents(options.vocab, (options.steps + 2) * options.rows * options.context)
    rows = torch.from_numpy(tokens.astype("int64"))
    rows = rows[: len(rows) // options.context * options.context].view(-1, options.context)
    data = [{"input_ids": row, "labels": row} for row in rows]
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=options.rows,
            max_steps=options.steps,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            bf16=fast,
            torch_compile=fast,
        )
        trainer = Trainer(model=build(options), args=arguments, train_dataset=data, callbacks=[Clock()])  # type: ignore[arg-type]
        trainer.train()
    return [after - before for before, after in itertools.pairwise(marks)]


def matmul_gflops(threads: int) -> float:
    """The measured rate of a bf16 matrix product, to read the figures by."""
    import torch

    from hanmo.pretrain.precision import matmul_rate

    torch.set_num_threads(threads)
    return matmul_rate(torch.device("cpu"), torch.bfloat16, size=2048, seconds=3) / 1e9


def main() -> None:
    """Take the rounds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="hanmo-16m")
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3, help="steps left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--only", choices=RUNNERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        steps = (
            run_hanmo(options) if options.only == "hanmo" else run_trainer(options, options.only.endswith("compile"))
        )
        print(json.dumps(steps))
        return

    from hanmo.child import machine, versions

    tokens = options.rows * options.context
    rounds = []
    for number in range(options.rounds):
        rates = {}
        for name in RUNNERS:
            command = [sys.executable, __file__, "--only", name, *sys.argv[1:]]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds = json.loads(done.stdout.strip().splitlines()[-1])[options.warmup :]
            rates[name] = tokens / statistics.median(seconds)
        rates["bf16_matmul_gflops"] = matmul_gflops(options.threads)
        rounds.append(rates)
        print(f"round {number + 1}: " + ", ".join(f"{k} {v:.0f}" for k, v in rates.items()), file=sys.stderr)
    result = {
        "what": "tokens per second of pretraining on CPU",
        "settings": {k: v for k, v in vars(options).items() if k != "only"},
        "parameters": sum(p.numel() for p in build(options).parameters()),
        "rounds": rounds,
        "ratio_to_trainer": statistics.median(r["hanmo"] / r["trainer"] for r in rounds),
        "ratio_to_trainer_bf16_compile": statistics.median(r["hanmo"] / r["trainer-bf16-compile"] for r in rounds),
        "machine": machine(),
        "versions": versions(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k.startswith("ratio")}))


if __name__ == "__main__":
    main()
