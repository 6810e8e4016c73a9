"""Model FLOP/s of pretraining on one GPU: Hanmo beside transformers' Trainer and nanochat's own script.

    python benchmarks/train_cuda.py --nanochat PATH [--sizes 92m,1b1] [--work FOLDER]

bf16, rows of 2,048 tokens, vocabulary of 32,768, random documents. Each runner is a process of its own that trains some
steps; a figure is the median over the steps behind the start-up, with the device synchronised at the end of each. Model
FLOPs are each model's own, without the input embedding; the share is of `--peak`, the H100's dense bf16 rate where
nothing else is said. The rate of a large matrix product, measured in the same call, stands beside it. nanochat's model
is the one of its depths that comes nearest in multiplied parameters; without FlashAttention 3 (which its script
fetches from a hub) it takes torch's attention over the full context.

Needs no network. `--device cpu --sizes tiny --context 128 --vocab 4096` runs the same way in a minute or two, to see
that it does. `--runners hanmo,hanmo-fp8` compares our linear layers in 8 bits (compute capability 8.9 and more)
with bf16, tokens a second in one call. The race on a GPU is `race.py --device cuda`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from peers.clock import STARTUP, figures
from peers.job import SIZES, Job
from peers.random_text import write
from peers.runners import RUNNERS, absent, perform
from peers.runners import main as run_job

RESULT = Path(__file__).parent / "results" / "train_cuda.json"
#: Rows of a step, and tokens of one forward pass of ours, where the command names none.
LAYOUT = {"92m": (32, 32768), "1b1": (8, 16384)}


def device_facts(device: str) -> dict[str, Any]:
    """Its name, memory, and the measured rate of a bf16 product."""
    from hanmo.pretrain.precision import matmul_rate

    size, seconds = (8192, 2.0) if device.startswith("cuda") else (1024, 0.3)
    rate = matmul_rate(torch.device(device), torch.bfloat16, size, seconds)
    found: dict[str, Any] = {"bf16_matmul_tflops": round(rate / 1e12, 2)}
    if device.startswith("cuda"):
        facts = torch.cuda.get_device_properties(device)
        found |= {"name": facts.name, "memory_gb": round(facts.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    return found


def main() -> None:
    """Run everyone at every size; write the result after each."""
    if sys.argv[1:2] == ["--job"]:
        run_job(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="92m,1b1", help=f"of {', '.join(SIZES)}")
    parser.add_argument(
        "--runners", default="hanmo,run_clm-bf16-compile,nanochat", help=f"of {', '.join(RUNNERS)}, hanmo-fp8"
    )
    parser.add_argument("--nanochat", help="a checkout of karpathy/nanochat")
    parser.add_argument("--minimind", help="a checkout of jingyaogong/minimind")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--rows", type=int, help="of a step; 32 at 92m and 8 at 1b1 where not given")
    parser.add_argument("--micro-tokens", type=int, help="tokens of one forward pass of ours")
    parser.add_argument("--steps", type=int, default=20, help="behind the start-up")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak", type=float, default=989e12, help="dense bf16 FLOP/s that shares are of")
    parser.add_argument("--work", help="keeps the texts and nanochat's tokenizer for the next call")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: torch sees no CUDA device here; --device cpu runs the same way on a small model")
        return
    from hanmo.child import machine, versions

    result: dict[str, Any] = {
        "what": "model FLOP/s of pretraining on one device",
        "settings": {k: getattr(options, k) for k in ("context", "vocab", "steps", "device", "peak")},
        "device": device_facts(options.device),
        "sizes": {},
        "skipped": {},
        "machine": machine(),
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as folder:
        data = Path(options.work or folder).resolve()
        if not (data / "pieces.jsonl").is_file():
            write(data, options.vocab, options.context, 1_000_000 if options.device != "cpu" else 60_000)
        for size in options.sizes.split(","):
            rows, micro = LAYOUT.get(size, (4, 0))
            rows, micro = options.rows or rows, options.micro_tokens or micro
            facts: dict[str, Any] = {"rows": rows, "micro_tokens": micro}
            result["sizes"][size] = facts
            for name in options.runners.split(","):
                checkout = {"minimind": options.minimind, "nanochat": options.nanochat}.get(name)
                runner = name.removesuffix("-fp8")
                if why := absent(runner, checkout):
                    result["skipped"][name] = why
                    continue
                extra: dict[str, Any] = {"micro_tokens": micro} if runner == "hanmo" else {}
                if runner != name:
                    extra["precision"] = "fp8"
                steps, place = STARTUP + options.steps, str(data)
                job = Job(
                    runner, size, steps, 1e-3, -1, place, place, options.device, rows, options.context, checkout, extra
                )
                try:
                    record = perform(job, __file__)
                except RuntimeError as error:
                    facts[name] = {"failed": str(error)[-300:]}
                    print(f"{size}, {name}: failed\n{error}", file=sys.stderr)
                    continue
                found = figures(record, job.tokens)
                facts[name] = found | {
                    "parameters": record["parameters"],
                    "share_of_peak": round(found["model_gflops"] * 1e9 / options.peak, 4),
                    "startup_seconds": round(sum(record["seconds"][:STARTUP]), 1),
                    **{k: record[k] for k in ("dtype", "commit") if k in record},
                }
                print(
                    f"{size}, {name}: {found['tokens_per_second']:.0f} tokens/s, "
                    f"{found['model_gflops'] / 1e3:.2f} TFLOP/s, {facts[name]['share_of_peak']:.1%} of the peak",
                    file=sys.stderr,
                )
                options.result.parent.mkdir(exist_ok=True)
                options.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["sizes"]))


if __name__ == "__main__":
    main()
