"""Mixture of experts: the time of a layer's experts by implementation, and quality at equal arithmetic.

    python benchmarks/experts.py --layer
    HANMO_DATA=/path/to/data hanmo run benchmarks/race.yaml --out runs/race/data
    python benchmarks/experts.py --data runs/race/data/tokens [--size 70m] [--flops 1e14] [--jobs 4]

Runs of a size train for the same number of model FLOPs (`hanmo.models.flops`: of the experts, those that a token meets
count), on one thread, and are measured in bits per byte of the same held-out text: the dense twin, the mixture balanced
by the bias, by the auxiliary loss (Qwen2-MoE) and not at all. Of the mixtures, the load of the experts over training is
kept: how much the busiest exceeds its share, at the beginning, in the middle and at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peers.many import ALONE, KEPT, take

RESULT = Path(__file__).parent / "results" / "experts.json"
BASE = {**ALONE, "context": 512, "log_every": 10}
#: By size: settings of the runs. The mixtures have a head of their own: parameters, and no arithmetic, more.
TRIED: dict[str, list[dict[str, Any]]] = {
    "2m": [
        {"preset": "hanmo-1m", "shape": {"ffn": 192}},
        {"preset": "hanmo-moe-2m-a1m"},
        {"preset": "hanmo-moe-2m-a1m-qwen2"},
        {"preset": "hanmo-moe-2m-a1m", "experts": {"balance": "none"}},
    ],
    "70m": [
        {"preset": "hanmo-16m"},
        {"preset": "hanmo-moe-70m-a20m"},
        {"preset": "hanmo-moe-70m-a20m-qwen2"},
        {"preset": "hanmo-moe-70m-a20m", "experts": {"balance": "none"}},
    ],
}
#: Experts, width, their inner width.
LAYERS = ((8, 256, 256), (16, 256, 128), (16, 384, 384))
TOKENS = 8192


def one(job: str) -> None:
    """Take the run that `peers.many.take` asked for, in this process; prints its figures."""
    from hanmo.pretrain.settings import PretrainSettings
    from hanmo.pretrain.stage import run

    asked = json.loads(job)
    with tempfile.TemporaryDirectory() as folder:
        counts = run(PretrainSettings(**asked["settings"]), {"data": [Path(asked["tokens"])]}, Path(folder))
        lines = [json.loads(line) for line in Path(folder, "log.jsonl").read_text(encoding="utf-8").splitlines()]
    loads = [line["experts"] for line in lines if "experts" in line]
    figures = {name: counts[name] for name in (*KEPT, "active_parameters") if name in counts}
    if loads:
        places = {"first": loads[0], "middle": loads[len(loads) // 2], "last": loads[-1]}
        figures["violation"] = {name: load["violation"] for name, load in places.items()}
        figures["last_shares"] = loads[-1]["shares"]
    print(json.dumps(figures))


def points(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], dict[str, Any], Path]]:
    """The runs of a size, each with as many tokens as the arithmetic allows."""
    from hanmo.plan.shape import of_new
    from hanmo.pretrain.settings import PretrainSettings

    rows = json.loads((options.data / "tokens.json").read_text(encoding="utf-8"))["vocab_size"]
    for settings in TRIED[options.size]:
        flops = of_new(PretrainSettings(**BASE, **settings), rows).flops
        facts = {"size": options.size, **settings, "vocabulary": rows, "flops": options.flops}
        yield facts, settings | {"tokens": round(options.flops / flops)}, options.data


def layers() -> list[dict[str, Any]]:
    """Milliseconds of a forward and backward pass of a layer's experts, one thread, weights cast as a step does."""
    import torch
    from transformers import Qwen2MoeConfig
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts

    from hanmo.models.experts import mixed

    torch.set_num_threads(1)
    found = []
    for experts, width, inner in LAYERS:
        torch.manual_seed(0)
        module: Any = Qwen2MoeExperts(
            Qwen2MoeConfig(hidden_size=width, moe_intermediate_size=inner, num_experts=experts)
        )
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.05)
        hidden, grad = (torch.randn(TOKENS, width, dtype=torch.bfloat16).requires_grad_(n == 0) for n in range(2))
        weights, index = torch.randn(TOKENS, experts).softmax(-1).topk(2)
        weights = weights.bfloat16().requires_grad_()

        def theirs(module: Any = module) -> Callable[..., Any]:
            def run(*given: Any) -> Any:
                cast = {name: weight.bfloat16() for name, weight in module.named_parameters()}
                return torch.func.functional_call(module, cast, given)

            return run

        def ours(hidden: Any, index: Any, weights: Any, module: Any = module) -> Any:
            return mixed(hidden, index, weights, module.gate_up_proj.bfloat16(), module.down_proj.bfloat16())

        line: dict[str, Any] = {"experts": experts, "width": width, "inner": inner}
        for name in ("eager", "grouped_mm", "hanmo"):
            module.config._experts_implementation = name
            function = ours if name == "hanmo" else theirs()
            for compiled in (False, True):
                if compiled and name == "eager":
                    continue  # a loop over the experts that were chosen, which no graph can hold
                call = torch.compile(function, dynamic=False) if compiled else function
                line[name + " compiled" * compiled] = _best(call, (hidden, index, weights), grad)
        print(line, flush=True)
        found.append(line)
    return found


def _best(call: Callable[..., Any], given: tuple[Any, ...], grad: Any, times: int = 7) -> float:
    """Milliseconds of the fastest of several forward and backward passes."""
    call(*given).backward(grad)
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call(*given).backward(grad)
        took.append(time.perf_counter() - began)
    return round(min(took) * 1e3, 1)


def main() -> None:
    """Take the runs that are missing, or time a layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/race/data/tokens"), help="a tokens folder")
    parser.add_argument("--size", choices=TRIED, default="70m")
    parser.add_argument("--flops", type=float, default=1e14, help="model FLOPs of each run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--layer", action="store_true", help="time one layer's experts, and do nothing else")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one)
    elif options.layer:
        layers()
    elif not (options.data / "tokens.json").is_file():
        print(f"skipped: {options.data}/tokens.json is not there; the head of this file says how it is made")
    else:
        what = {"what": "bits per byte of held-out text after equal arithmetic, mixtures of experts and dense twins"}
        take(__file__, points(options), BASE, what, options.result, options.jobs or 1)


if __name__ == "__main__":
    main()
