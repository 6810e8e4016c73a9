"""Continuing a model on one domain: which learning rate, and what replay of the old text is worth.

    python benchmarks/continued.py [--base-tokens 600000] [--tokens 150000] [--work FOLDER]

A model of 2M parameters is trained on technology news (HANMO_DATA, or `shared/data` beside the project). It is then
continued on laws, at several fractions of the learning rates that it was trained with, each with laws alone and with
one row in five of the old text; the rate is warmed up again over the first tenth and falls to 0 over the last two
fifths. Held-out text of both is scored before and after, as the training log does it. The result goes to
benchmarks/results/continued.json; with --work, what was made before is not made again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from hanmo import api
from hanmo.child import machine, versions
from hanmo.console import console
from hanmo.files import write_json

RESULT = Path(__file__).parent / "results" / "continued.json"
GENERAL, DOMAIN = "lctt_technews_zh", "laws_zh"
LR, MATRIX_LR = 3e-3, 0.02
FRACTIONS = (1.0, 0.3, 0.1)
REPLAY = (0.0, 0.2)
SHAPE: dict[str, Any] = {
    "preset": "hanmo-2m",
    "context": 256,
    "batch_tokens": 1024,
    "eval_every": 0,
    "sample_prompts": [],
    "compile": False,  # takes longer than so few steps
    "threads": 1,
}


def measured(data: Path, work: Path, base_tokens: int, tokens: int) -> dict[str, Any]:
    """Make all that is needed in `work` and measure."""
    corpora, shards = {}, {}
    for name in (GENERAL, DOMAIN):
        corpora[name] = work / f"corpus-{name}"
        source = {"path": str(data / "pretrain" / f"{name}.jsonl.zst"), "name": name}
        api.corpus(corpora[name], sources=[source], heldout_mb=0.3)
    api.tokenizer(corpora[GENERAL], work / "tokenizer", vocab_size=4096)
    for name, corpus in corpora.items():
        shards[name] = work / f"tokens-{name}"
        api.tokens(corpus, work / "tokenizer", shards[name])

    def trained(
        out: Path, replay: float, budget: int, fraction: float = 1.0, model: Path | None = None
    ) -> dict[str, Any]:
        """Train on `1 - replay` of laws; held-out bits per byte of both."""
        done = api.pretrain(
            list(shards.values()),
            out,
            model,
            tokens=budget,
            warmup_tokens=budget // 10,
            mix={"weights": {shards[DOMAIN].name: 1 - replay, shards[GENERAL].name: replay}},
            lr=LR * fraction,
            matrix_lr=MATRIX_LR * fraction,
            **SHAPE,
        )
        return {name.removeprefix("tokens-"): bpb for name, bpb in done["counts"]["heldout_bpb_by_data"].items()}

    base = work / "base"
    found: dict[str, Any] = {"base": trained(base, 1.0, base_tokens), "runs": []}
    for replay in REPLAY:
        for fraction in FRACTIONS:
            measures = trained(work / f"continued-{fraction}-{replay}", replay, tokens, fraction, base)
            run = {"lr_fraction": fraction, "replay": replay, **measures}
            console.print(run)
            found["runs"].append(run)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-tokens", type=int, default=600_000)
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    data = Path(os.environ.get("HANMO_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    with tempfile.TemporaryDirectory() as folder:
        found = measured(data, (given.work or Path(folder)).absolute(), given.base_tokens, given.tokens)
    about = {"base_tokens": given.base_tokens, "tokens": given.tokens, "lr": LR, "matrix_lr": MATRIX_LR, **SHAPE}
    write_json(RESULT, {"machine": machine(), "versions": versions(), "about": about, **found})
    console.print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
