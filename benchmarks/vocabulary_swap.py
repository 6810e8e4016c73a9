"""Another vocabulary for a model: what starting new rows as means is worth, in bits per byte.

    python benchmarks/vocabulary_swap.py [--base-tokens 600000] [--tokens 100000] [--seeds 3]

A small base is trained on real text (HANMO_DATA, or `shared/data` beside the project) with a vocabulary of 2,048 tokens
that knows common characters and no words. Then its vocabulary is extended (`hanmo tokenizer extend`, 3,000 tokens more)
and, the other case, replaced by one of 5,048 tokens trained anew. From there the same short training goes on, with new
rows that start as means of their parts (`hanmo model resize`) and with rows drawn from N(0, 0.02); rows of tokens that
both vocabularies have are kept in either case. Held-out text is scored before and after; a seed decides the random rows
and the order of the documents. The base goes on as it is, too (one seed), for as many tokens and for as many bytes of
text. The result goes to benchmarks/results/vocabulary_swap.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from hanmo.child import machine, versions
from hanmo.console import console
from hanmo.evaluate.bpb import bits_per_byte
from hanmo.files import read_jsonl, write_json
from hanmo.models.allocator import keep_freed_memory
from hanmo.models.presets import build_config
from hanmo.models.save import save_model
from hanmo.models.vocabulary import resize
from hanmo.pretrain.precision import choose, pick_device
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.trainer import Trainer
from hanmo.tokenizer import build, load
from hanmo.tokenizer.encode import BulkEncoder
from hanmo.tokenizer.extend import extend
from hanmo.tokenizer.opening import open_tokenizer
from hanmo.tokenizer.train import train
from hanmo.tokens.order import Order
from hanmo.tokens.shards import split_of

RESULT = Path(__file__).parent / "results" / "vocabulary_swap.json"
SOURCES = ("lctt_technews_zh", "laws_zh", "vernacular_novels_zh", "luxun_zh", "classical_modern_text")
CONTEXT, LONGEST = 256, 6000
SMALL, MORE = 2048, 3000


def documents(data: Path, count: int) -> list[str]:
    """So many documents of all sources in turn."""
    sources = [(r["text"] for _, r in read_jsonl(data / "pretrain" / f"{name}.jsonl.zst")) for name in SOURCES]
    mixed = (text[:LONGEST] for text in itertools.chain.from_iterable(itertools.zip_longest(*sources)) if text)
    return list(itertools.islice(mixed, count))


def training(model: Any, folder: Path, texts: list[str], tokens: int, seed: int) -> Any:
    """Train a model on texts for so many tokens; it is changed in place."""
    ids, ends = BulkEncoder(folder).encode_flat(texts)
    closed = np.insert(ids, ends.astype(np.int64), 0)
    order = Order(split_of(closed, ends.astype(np.int64) + np.arange(1, len(ends) + 1)), CONTEXT, seed)
    settings = PretrainSettings(
        tokens=tokens,
        context=CONTEXT,
        batch_tokens=4096,
        warmup_tokens=tokens // 10,
        seed=seed,
        compile=False,  # takes longer than so few steps
        checkpoint_seconds=1e9,
    )
    device = pick_device("auto")
    with tempfile.TemporaryDirectory() as out:
        Trainer(model.train(), settings, order, Path(out), choose(device, "auto")).run()
    return model


def score(model: Any, folder: Path, texts: list[str]) -> dict[str, float]:
    """Bits per byte and bytes per token on held-out text."""
    model.eval()
    # Training puts an attention of its own into the model; scoring takes the stock one.
    model.set_attn_implementation("sdpa")
    found = bits_per_byte(model, load(folder), texts, CONTEXT)
    return {key: round(found[key], 4) for key in ("bits_per_byte", "low", "high", "bytes_per_token")}


def randomised(model: Any, new: Path, old: Path, seed: int) -> Any:
    """The resized model with N(0, 0.02) in every row of a token that the old vocabulary lacks."""
    names = {piece.name for piece in open_tokenizer(old).pieces}
    fresh = [index for index, piece in enumerate(open_tokenizer(new).pieces) if piece.name not in names]
    generator = torch.Generator().manual_seed(seed)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[torch.tensor(fresh)] = 0.02 * torch.randn(len(fresh), weight.shape[1], generator=generator)
    return model


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and all values."""
    return {"mean": round(statistics.mean(values), 4), "values": values}


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-tokens", type=int, default=600_000)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = Path(os.environ.get("HANMO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    keep_freed_memory()
    begin = time.perf_counter()
    texts = documents(data, 1600)
    heldout, texts = [text[:1500] for text in texts[:30]], texts[30:]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        build(train(texts, SMALL), work / "small")
        (work / "text.txt").write_text("\n".join(texts), encoding="utf-8")
        extend(work / "small", work / "extended", corpus=[work / "text.txt"], add=MORE, sample_mb=100)
        build(train(texts, SMALL + MORE), work / "replaced")

        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(build_config("hanmo-2m", SMALL, CONTEXT))
        training(base, work / "small", texts, options.base_tokens, 0)
        figures: dict[str, Any] = {"base": score(base, work / "small", heldout)}
        save_model(base.cpu(), load(work / "small"), work / "base", stops=[0])
        console.print("base", figures["base"])

        def go_on(folder: Path, case: str, tokens: int, seeds: int, random_rows: bool = False) -> dict[str, Any]:
            before: list[float] = []
            after: list[float] = []
            for seed in range(1, seeds + 1):
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
                if random_rows:
                    randomised(model, work / case, work / "small", seed)
                if random_rows or not before:
                    before.append(score(model, work / case, heldout)["bits_per_byte"])
                training(model, work / case, texts, tokens, seed)
                after.append(score(model, work / case, heldout)["bits_per_byte"])
            found = {"tokens": tokens, "before": spread(before), "after": spread(after)}
            console.print(case, "random" if random_rows else "mean", found)
            return found

        for case in ("extended", "replaced"):
            resize(work / "base", work / case, work / f"{case}-model")
            means = go_on(work / f"{case}-model", case, options.tokens, options.seeds)
            random = go_on(work / f"{case}-model", case, options.tokens, options.seeds, random_rows=True)
            gains = [b - a for a, b in zip(means["after"]["values"], random["after"]["values"], strict=True)]
            model = AutoModelForCausalLM.from_pretrained(work / f"{case}-model", dtype=torch.float32)
            rate = score(model, work / case, heldout)["bytes_per_token"]
            figures[case] = {
                "bytes_per_token": rate,
                "mean_start": means,
                "random_start": random,
                "random_minus_mean": {"mean": round(statistics.mean(gains), 4), "least": round(min(gains), 4)},
            }
        figures["base_goes_on_same_tokens"] = go_on(work / "base", "small", options.tokens, 1)
        ratio = figures["extended"]["bytes_per_token"] / figures["base"]["bytes_per_token"]
        figures["base_goes_on_same_bytes"] = go_on(work / "base", "small", round(options.tokens * ratio), 1)
    write_json(
        RESULT,
        {
            "what": "bits per byte on held-out text after a change of vocabulary, mean start against N(0, 0.02)",
            "model": "hanmo-2m",
            "base_tokens": options.base_tokens,
            "tokens": options.tokens,
            "seeds": options.seeds,
            "vocabularies": {"base": SMALL, "extended": SMALL + MORE, "replaced": SMALL + MORE},
            "heldout_bytes": sum(len(text.encode()) for text in heldout),
            "figures": figures,
            "seconds": round(time.perf_counter() - begin),
            "machine": machine(),
            "versions": versions(),
        },
    )
    console.print(figures)


if __name__ == "__main__":
    main()
