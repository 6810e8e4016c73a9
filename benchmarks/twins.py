"""Shapes and vocabularies at equal arithmetic: Tiny LLM zh's models against modern ones, in bits per byte.

    HANMO_DATA=/path/to/data hanmo run benchmarks/race.yaml --out runs/race/data
    hanmo tokenizer import $HANMO_DATA/tokenizers/chatglm3 --out runs/twins/chatglm3
    python benchmarks/twins.py --data runs/race/data --work runs/twins [--size 16m] [--flops 1e14] [--jobs 4]

Every run trains for the same number of model FLOPs (`hanmo.models.flops`: the head counts, the looked-up embedding does
not), on one thread, with the rates and batches that the rules give, and is measured in bits per byte of the same
held-out text: a vocabulary that reads more text with a token is paid for by its head. What is tried: the published
shape with its own vocabulary and with ours, and Qwen3 shapes by vocabulary, depth and width.
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

from peers.many import answer, take

RESULT = Path(__file__).parent / "results" / "twins.json"
BASE = {
    "context": 512,
    "eval_every": 0,
    "eval_bytes": 400_000,
    "sample_prompts": [],
    "checkpoint_seconds": 1e6,
    "threads": 1,
    "device": "cpu",
    "log_every": 10_000,
}
THEIRS = "chatglm3"


def _shape(layers: int, hidden: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {"layers": layers, "hidden": hidden, "ffn": 3 * hidden, "heads": heads, "kv_heads": kv_heads, "head_dim": 64}


#: By size: (preset, vocabulary, what of the shape is other).
TRIED: dict[str, list[tuple[str, str | int, dict[str, Any]]]] = {
    "16m": [
        ("tinyllm-16m", THEIRS, {}),
        ("hanmo-16m", 8192, {}),
        ("tinyllm-16m", 8192, {}),
        ("hanmo-16m", 16384, {}),
        ("hanmo-16m", 4096, {}),
        ("hanmo-16m", 8192, _shape(4, 512, 8, 4)),
        ("hanmo-16m", 8192, _shape(12, 320, 5, 5)),
        ("hanmo-16m", 32768, {}),
    ],
    "42m": [
        ("tinyllm-42m", THEIRS, {}),
        ("hanmo-42m", 16384, {}),
        ("hanmo-42m", 8192, {}),
        ("hanmo-42m", 16384, _shape(8, 640, 10, 5)),
        ("hanmo-42m", 16384, _shape(16, 448, 7, 7)),
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
    """The runs of a size, each with as many tokens as the arithmetic allows."""
    from hanmo.plan.shape import of_new
    from hanmo.pretrain.settings import PretrainSettings

    for preset, vocabulary, shape in TRIED[options.size]:
        tokens = tokens_of(vocabulary, options.data, options.work)
        rows = json.loads((tokens / "tokens.json").read_text(encoding="utf-8"))["vocab_size"]
        settings = {"preset": preset, "shape": shape}
        flops = of_new(PretrainSettings(**BASE, **settings), rows).flops
        facts = {"size": options.size, "preset": preset, "shape": shape, "vocabulary": rows, "flops": options.flops}
        yield facts, settings | {"tokens": round(options.flops / flops)}, tokens


def main() -> None:
    """Take the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/race/data"), help="a folder made by race.yaml")
    parser.add_argument("--work", type=Path, default=Path("runs/twins"), help="holds the imported tokenizer")
    parser.add_argument("--size", choices=TRIED, default="16m")
    parser.add_argument("--flops", type=float, default=1e14, help="model FLOPs of each run")
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
