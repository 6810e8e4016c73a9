"""Shapes and vocabularies at equal arithmetic: Tiny LLM zh's models against modern ones, in bits per byte.

    HANMO_DATA=/path/to/data hanmo run benchmarks/race.yaml --out runs/race/data
    hanmo tokenizer import $HANMO_DATA/tokenizers/chatglm3 --out runs/twins/chatglm3
    python benchmarks/twins.py --data runs/race/data --work runs/twins [--size 16m] [--jobs 4]

Runs of a budget train for the same number of model FLOPs (`hanmo.models.flops`: the head counts, the looked-up
embedding does not), on one thread, with the rates and batches that the rules give, and are measured in bits per byte of
the same held-out text: a vocabulary that reads more text with a token is paid for by its head. What is tried: the
published shape with its own vocabulary and with ours, and Qwen3 shapes by vocabulary, depth and width.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers.many import ALONE, answer, take

RESULT = Path(__file__).parent / "results" / "twins.json"
BASE = {**ALONE, "context": 512}
THEIRS = "chatglm3"


def _shape(layers: int, hidden: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {"layers": layers, "hidden": hidden, "ffn": 3 * hidden, "heads": heads, "kv_heads": kv_heads, "head_dim": 64}


#: By size: (preset, vocabulary, what of the shape is other, the budgets in model FLOPs). A token of tinyllm-16m, half
#: of whose parameters are looked up, takes 0.058 GFLOP; one of hanmo-4m 0.044, of hanmo-8m 0.075, of hanmo-16m 0.12.
TRIED: dict[str, list[tuple[str, str | int, dict[str, Any], tuple[float, ...]]]] = {
    "16m": [
        ("hanmo-4m", 8192, {}, (1e14, 2.5e13, 2e14)),
        ("hanmo-8m", 8192, {}, (1e14, 2.5e13, 2e14)),
        ("tinyllm-16m", THEIRS, {}, (1e14, 2.5e13, 2e14)),
        ("hanmo-16m", 8192, {}, (1e14, 2.5e13, 2e14)),
        ("hanmo-16m", 16384, {}, (1e14,)),
        ("tinyllm-16m", 8192, {}, (1e14,)),
        ("hanmo-16m", 8192, _shape(4, 512, 8, 4), (1e14,)),
        ("hanmo-16m", 8192, _shape(12, 320, 5, 5), (1e14,)),
        ("hanmo-16m", 4096, {}, (1e14,)),
        ("hanmo-16m", 32768, {}, (1e14,)),
    ],
    "42m": [
        ("tinyllm-42m", THEIRS, {}, (2e14,)),
        ("hanmo-42m", 16384, {}, (2e14,)),
        ("hanmo-42m", 8192, {}, (2e14,)),
        ("hanmo-42m", 16384, _shape(8, 640, 10, 5), (2e14,)),
        ("hanmo-42m", 16384, _shape(16, 448, 7, 7), (2e14,)),
    ],
}


def tokens_of(vocabulary: str | int, data: Path, work: Path) -> Path:
    """The text of `data` in tokens of that vocabulary, made where it is not there."""
    if vocabulary == 8192:
        return data / "tokens"
    hanmo = [sys.executable, "-m", "hanmo"]
    tokenizer, tokens = work / str(vocabulary), work / f"{vocabulary}-tokens"
    corpus = ["--corpus", str(data / "corpus")]
    if isinstance(vocabulary, int) and not (tokenizer / "manifest.json").is_file():
        size = ["--vocab-size", str(vocabulary), "--sample-mb", "40"]
        subprocess.run([*hanmo, "tokenizer", "train", *corpus, "--out", str(tokenizer), *size], check=True)
    if not (tokens / "manifest.json").is_file():
        subprocess.run(
            [*hanmo, "tokens", *corpus, "--tokenizer", str(tokenizer), "--out", str(tokens), "--workers", "2"],
            check=True,
        )
    return tokens


def points(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], dict[str, Any], Path]]:
    """The runs of a size, each budget with as many tokens as the arithmetic allows."""
    from hanmo.plan.shape import of_new
    from hanmo.pretrain.settings import PretrainSettings

    for preset, vocabulary, shape, budgets in TRIED[options.size]:
        tokens = tokens_of(vocabulary, options.data, options.work)
        rows = json.loads((tokens / "tokens.json").read_text(encoding="utf-8"))["vocab_size"]
        settings = {"preset": preset, "shape": shape}
        flops = of_new(PretrainSettings(**BASE, **settings), rows).flops
        for budget in budgets:
            facts = {"size": options.size, "preset": preset, "shape": shape, "vocabulary": rows, "flops": budget}
            yield facts, settings | {"tokens": round(budget / flops)}, tokens


def main() -> None:
    """Take the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/race/data"), help="a folder made by race.yaml")
    parser.add_argument("--work", type=Path, default=Path("runs/twins"), help="holds the imported tokenizer")
    parser.add_argument("--size", choices=TRIED, default="16m")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        answer(options.one)
        return
    for needed in (options.data / "tokens" / "tokens.json", options.work / THEIRS / "tokenizer.json"):
        if not needed.is_file():
            print(f"skipped: {needed} is not there; the head of this file says how it is made")
            return
    what = {"what": "bits per byte of held-out text after equal arithmetic, by shape and vocabulary"}
    take(__file__, points(options), BASE, what, options.result, options.jobs or 1)


if __name__ == "__main__":
    main()
