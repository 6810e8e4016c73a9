"""How much of its text a unified model should fill masks in, and how much it should write: the default of `unified`.

    python benchmarks/mixing_ratio.py TOKENS_FOLDER [--tokens 600000] [--seeds 1] [--threads 1]

TOKENS_FOLDER is of a lossless wordpiece tokenizer, so that bits per byte are exact. Trains zhouwenwang-2m with each mix
of tasks on as much text, and measures on held-out text how many masked tokens it finds, its loss on them, and the bits
per byte that writing takes. Every seed is of the weights, of the order of documents, and of the tasks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, cast

RESULT = Path(__file__).parent / "results" / "mixing_ratio.json"
CONTEXT = 128
#: Shares of masked, causal and prefix pieces.
MIXES = {
    "1:0:0": (1, 0, 0),
    "3:1:0": (3, 1, 0),
    "1:1:0": (1, 1, 0),
    "1:3:0": (1, 3, 0),
    "0:1:0": (0, 1, 0),
    "2:1:1": (2, 1, 1),
    "6:1:1": (6, 1, 1),
}


def accuracy(folder: Path, data: Path, size: int) -> tuple[float, float]:
    """(share of masked tokens that the model finds, its loss on them in nats) on held-out rows."""
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForMaskedLM

    from hanmo.models.loss import IGNORE
    from hanmo.pretrain.objectives.masked import MaskedRows
    from hanmo.pretrain.objectives.texts import with_openings
    from hanmo.tokenizer import load
    from hanmo.tokens.order import Order
    from hanmo.tokens.shards import open_split

    tokenizer = load(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    opening = cast(int, tokenizer.cls_token_id)
    order = Order(with_openings(open_split(data, "heldout"), opening), CONTEXT, 0)
    source = MaskedRows(order, tokenizer, 0.15, True, 0)
    right = asked = 0
    nats = 0.0
    with torch.inference_mode():
        for first in range(0, size // CONTEXT, 16):
            rows = source.rows(first, 16)
            inputs, targets, position = map(torch.from_numpy, (rows.inputs, rows.targets, rows.position))
            found = model(inputs, position_ids=position, segment_ids=torch.from_numpy(rows.segment)).logits
            places = targets != IGNORE
            right += int((found[places].argmax(-1) == targets[places]).sum())
            nats += float(F.cross_entropy(found[places], targets[places], reduction="sum"))
            asked += int(places.sum())
    return right / asked, nats / asked


def trained(data: Path, out: Path, options: argparse.Namespace, mix: tuple[float, ...], seed: int) -> dict[str, Any]:
    """What one run comes to."""
    from hanmo.pretrain import stage
    from hanmo.pretrain.settings import PretrainSettings

    masked, causal, prefix = mix
    # Bits per byte are measured for all, also for the model that never writes.
    shares = {"masked": masked, "causal": causal or 1e-9, "prefix": prefix}
    settings = PretrainSettings(
        preset="zhouwenwang-2m",
        tokens=options.tokens,
        context=CONTEXT,
        batch_tokens=2048,
        unified=shares,  # type: ignore[arg-type]
        seed=seed,
        threads=options.threads,
        precision="bf16",
        eval_every=0,
        eval_bytes=options.bytes,
        sample_prompts=[],
        checkpoint_seconds=1e6,
        log_every=20,
    )
    counts = stage.run(settings, {"data": [data]}, out)
    share, loss = accuracy(out / "model", data, options.bytes // 3)
    return {
        "masked_accuracy": round(share, 4),
        "masked_loss": round(loss, 4),
        "causal_bits_per_byte": round(counts["heldout_bpb"], 4),
    }


def main() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--bytes", type=int, default=150_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    about = {key: value for key, value in vars(options).items() if key != "data"}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in MIXES}
    for seed in range(1, options.seeds + 1):
        for name, mix in MIXES.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(trained(options.data, Path(folder), options, mix, seed))
            rows = [
                {"masked:causal:prefix": n}
                | {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0]}
                | {"seeds": runs}
                for n, runs in found.items()
                if runs
            ]
            RESULT.write_text(
                json.dumps({"settings": about, "context": CONTEXT, "runs": rows}, indent=2) + "\n", encoding="utf-8"
            )
            print(name, found[name][-1], flush=True)


if __name__ == "__main__":
    main()
