"""Answers for reinforcement learning: our batched generation against transformers' `generate`, pair by pair in one run.

    python benchmarks/rollouts.py MODEL RECORDS OUT.json

Both draw at temperature 1 from one model for the same groups of prompts with a key-value cache. Answers differ (the
draws do), so what is compared is tokens per second, and the seconds for as many answers; medians over the rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from hanmo.child import machine
from hanmo.files import write_json
from hanmo.posttrain import training
from hanmo.posttrain.records import read_items, sft_kind
from hanmo.posttrain.rl.rollouts import answers_of
from hanmo.posttrain.settings import RlSettings

ROUNDS, PROMPTS, GROUP, LONGEST = 5, 8, 8, 40


def plain(start: training.Start, prompts: list[list[int]]) -> int:
    """Tokens that transformers writes for the prompts, up to the end of each answer."""
    width = max(map(len, prompts))
    ids = torch.tensor([[start.pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model: Any = start.model
    with torch.inference_mode():
        found = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=LONGEST,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            eos_token_id=start.chat.stop_ids,
            pad_token_id=start.pad,
        )
    ends = torch.tensor(start.chat.stop_ids)
    total = 0
    for row in found[:, width:]:
        stops = torch.isin(row, ends).nonzero()
        total += int(stops[0]) + 1 if len(stops) else len(row)
    return total


def main(folder: Path, records: Path, out: Path) -> None:
    """Measure and write `out`."""
    torch.set_num_threads(1)
    training.quiet()
    settings = RlSettings(precision="fp32", threads=1)
    with tempfile.TemporaryDirectory() as temporary:
        start = training.Start(folder, settings, Path(temporary))
    items, _ = read_items([records], settings, sft_kind(settings))
    encoded = [start.chat.encode(item.value[:-1], add_generation_prompt=True)[0] for item in items]
    encoded = [prompt for prompt in encoded if len(prompt) < 90][: ROUNDS * PROMPTS]
    start.model.eval()
    rounds = []
    for number in range(ROUNDS):
        part = encoded[number * PROMPTS : (number + 1) * PROMPTS]
        prompts = [prompt for prompt in part for _ in range(GROUP)]
        began = time.perf_counter()
        ours = sum(map(len, answers_of(start, prompts, LONGEST, 1.0, number)))
        middle = time.perf_counter()
        torch.manual_seed(number)
        theirs = plain(start, prompts)
        rounds.append({"ours": [ours, middle - began], "generate": [theirs, time.perf_counter() - middle]})
    rate = {name: statistics.median(one[name][0] / one[name][1] for one in rounds) for name in ("ours", "generate")}
    ratios = [one["ours"][0] / one["ours"][1] / (one["generate"][0] / one["generate"][1]) for one in rounds]
    result = {
        "machine": machine(),
        "setting": {"answers": PROMPTS * GROUP, "prompts": PROMPTS, "longest": LONGEST, "threads": 1},
        "tokens_per_second": {name: round(value, 1) for name, value in rate.items()},
        "ratio": {"median": round(statistics.median(ratios), 2), "all": [round(one, 2) for one in ratios]},
    }
    write_json(out, result)
    print(result)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
