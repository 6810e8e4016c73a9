"""Exams: items a second beside lm-eval's own Hugging Face model class, at the same precision, and the same scores.

    python benchmarks/exams.py [--preset 16m] [--items 15] [--rounds 3] [--cores 0]

Asked is C-Eval's validation part in the shared data (HANMO_DATA, or `shared/data` beside the project), evenly over its
subjects, by the likelihood of the letters, with 0 and 5 worked examples. The model has random weights: what is asked of
it costs the same. lm-eval's class gets the best of three batch sizes. Timed is the answering of the requests alone
(texts to tokens included), ours and theirs in turn, medians of the rounds. The result goes to
benchmarks/results/exams.json.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from pathlib import Path
from typing import Any

from hanmo.child import machine, versions
from hanmo.files import write_json
from peers.cores import settle

RESULT = Path(__file__).parent / "results" / "exams.json"
BATCHES = (1, 8, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description="exams beside lm-eval's own model class")
    parser.add_argument("--preset", default="hanmo-16m")
    parser.add_argument("--items", type=int, default=15, help="of each subject")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", default=None)
    parser.add_argument("--tokenizer", default="tokenizers/minimind", help="below the shared data")
    given = parser.parse_args()
    cores = settle(given.cores)
    logging.disable(logging.WARNING)

    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    from hanmo.evaluate.exams.asking import task
    from hanmo.evaluate.exams.catalog import exam
    from hanmo.evaluate.exams.model import HanmoLM
    from hanmo.evaluate.exams.reading import evenly, read
    from hanmo.models.presets import build_config
    from hanmo.tokenizer import load

    data = Path(os.environ.get("HANMO_DATA", Path(__file__).parents[2] / "shared" / "data"))
    tokenizer = load(data / given.tokenizer)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(build_config(given.preset, len(tokenizer), 2048)).float().eval()
    peer: Any = HFLM
    one = exam("ceval")
    parts = read(one, data / "bench")
    result: dict[str, Any] = {"machine": machine(), "versions": versions(), "cores": cores, "preset": given.preset}
    for shots in (0, 5):
        requests = []
        for part in parts:
            asked = task(part.name, one.form, part, evenly(part.items, given.items), "loglikelihood", shots)
            asked.build_all_requests()
            requests += asked.instances
        items = len({(request.task_name, request.doc_id) for request in requests})
        ways: dict[str, Any] = {"hanmo": HanmoLM(model, tokenizer, batch_tokens=1024)}
        for size in BATCHES:
            ways[f"lm-eval, batch {size}"] = peer(
                pretrained=model, tokenizer=tokenizer, batch_size=size, max_length=2048
            )
        found: dict[str, list[float]] = {name: [] for name in ways}
        answers: dict[str, list[tuple[float, bool]]] = {}
        for _ in range(given.rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                answers[name] = way.loglikelihood(requests, disable_tqdm=True)
                found[name].append(time.perf_counter() - began)
        seconds = {name: statistics.median(times) for name, times in found.items()}
        own, best = seconds.pop("hanmo"), min(seconds, key=lambda name: seconds[name])
        gaps = [abs(a[0] - b[0]) for a, b in zip(answers["hanmo"], answers[best], strict=True)]
        result[f"{shots} shots"] = {
            "items": items,
            "items_per_second": {"hanmo": items / own, **{name: items / value for name, value in seconds.items()}},
            "best_peer": best,
            "ratio": seconds[best] / own,
            "largest_difference_of_a_likelihood": max(gaps),
        }
        print(shots, result[f"{shots} shots"])
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
