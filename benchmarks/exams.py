"""Exams: items a second beside lm-eval's own Hugging Face model class, at the same precision, and the same scores.

    python benchmarks/exams.py [--preset hanmo-8m] [--subjects 12] [--items 40] [--rounds 3] [--cores 0]

Asked is C-Eval's validation part in the shared data (HANMO_DATA, or `shared/data` beside the project), some of its
subjects, each whole (what is shared depends on how many items a subject has), by the likelihood of the letters, with
0 and 5 worked examples, of models with a small and with a large vocabulary. The models have random weights: what is
asked of them costs the same. lm-eval's class gets the best of its batch sizes. Timed is the answering of the requests
alone (texts to tokens included), ours and theirs in turn, medians of the rounds. The result goes to
benchmarks/results/exams.json.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from hanmo.child import machine, versions
from hanmo.files import read_json, write_json
from hanmo.tokenizer.imports import import_tokenizer
from peers.cores import settle

RESULT = Path(__file__).parent / "results" / "exams.json"
#: Below the shared data: vocabularies of 6,400 and of 64,798 tokens.
TOKENIZERS = ("minimind", "chatglm3")
BATCHES = (1, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description="exams beside lm-eval's own model class")
    parser.add_argument("--preset", default="hanmo-8m")
    parser.add_argument("--subjects", type=int, default=12, help="evenly among all")
    parser.add_argument("--items", type=int, default=40, help="of a subject, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", default=None)
    parser.add_argument("--tokenizers", default=",".join(TOKENIZERS), help="the others' figures are kept")
    given = parser.parse_args()
    cores = settle(given.cores)
    logging.disable(logging.WARNING)
    data = Path(os.environ.get("HANMO_DATA", Path(__file__).parents[2] / "shared" / "data"))
    result: dict[str, Any] = read_json(RESULT) if RESULT.exists() else {}
    result |= {"machine": machine(), "versions": versions(), "cores": cores, "preset": given.preset}
    with tempfile.TemporaryDirectory() as place:
        for name in given.tokenizers.split(","):
            folder = data / "tokenizers" / name
            if not (folder / "tokenizer.json").exists():
                import_tokenizer(folder, Path(place) / name)
                folder = Path(place) / name
            for shots in (0, 5):
                found = measure(data, folder, given, shots)
                result[f"{found.pop('vocabulary')} tokens, {shots} shots"] = found
                print(name, shots, found, flush=True)
                write_json(RESULT, result)


def measure(data: Path, folder: Path, given: argparse.Namespace, shots: int) -> dict[str, Any]:
    """Items a second of ours and of lm-eval's class, and how far their likelihoods are apart."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    from hanmo.evaluate.exams.asking import task
    from hanmo.evaluate.exams.catalog import exam
    from hanmo.evaluate.exams.model import HanmoLM
    from hanmo.evaluate.exams.reading import read
    from hanmo.evaluate.exams.stage import default_batch
    from hanmo.evaluate.items import evenly
    from hanmo.models.presets import build_config
    from hanmo.tokenizer import load

    tokenizer = load(folder)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(build_config(given.preset, len(tokenizer), 2048)).float().eval()
    one = exam("ceval")
    requests = []
    for part in evenly(list(read(one, data / "bench")), given.subjects):
        asked = task(part.name, one.form, part, evenly(part.items, given.items), "loglikelihood", shots)
        asked.build_all_requests()
        requests += asked.instances
    count = len({(request.task_name, request.doc_id) for request in requests})
    peer: Any = HFLM
    ways: dict[str, Any] = {"hanmo": HanmoLM(model, tokenizer, batch_tokens=default_batch(model.device))}
    for size in BATCHES:
        made = peer(pretrained=model, tokenizer=tokenizer, batch_size=size, max_length=2048)
        ways[f"lm-eval, batch {size}"] = made
    times: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[tuple[float, bool]]] = {}
    for _ in range(given.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            answers[name] = way.loglikelihood(requests, disable_tqdm=True)
            times[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(own) for name, own in times.items()}
    best = min((name for name in ways if name != "hanmo"), key=lambda name: seconds[name])
    return {
        "vocabulary": len(tokenizer),
        "subjects": given.subjects,
        "items": count,
        "items_per_second": {name: round(count / own, 2) for name, own in seconds.items()},
        "best_peer": best,
        "ratio": round(seconds[best] / seconds["hanmo"], 2),
        "largest_difference_of_a_likelihood": max(
            abs(a[0] - b[0]) for a, b in zip(answers["hanmo"], answers[best], strict=True)
        ),
    }


if __name__ == "__main__":
    main()
