"""Sparse attention of LingLong against dense attention: the time of a forward and backward pass, by length.

    python benchmarks/sparse_attention.py [--lengths 1024,4096] [--cores 0] [--rounds 5]

Width and heads are those of the 317M model (1,024 wide, 16 heads, stride 128, 8 columns), one row of text. For each
length, forms take turns in every round, so that a ratio compares neighbours in time; the medians of the rounds and of
their ratios are reported. Three things are timed: attention alone (queries, keys and values are given) with torch's
fused kernel (`sdpa`), which does only the causal half where rows are whole texts; the same over packed rows, where
documents begin anywhere and dense attention needs a mask; and a whole layer of the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from peers.cores import settle

RESULT = Path(__file__).parent / "results" / "sparse_attention.json"
#: Tokens of the documents in a packed row, again and again.
DOCUMENTS = (300, 90, 700, 25)


def forms(length: int, dtype: torch.dtype) -> dict[str, dict[str, Callable[[], None]]]:
    """What is timed -> dense or sparse -> a forward and backward pass."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from hanmo.models.linglong import sparse
    from hanmo.models.linglong.modeling import LingLongForCausalLM
    from hanmo.models.presets import build_config

    config = build_config("linglong-317m", 13312, length, layers=2)
    config.attn_pdrop = config.resid_pdrop = 0.0
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    whole_model: Any = LingLongForCausalLM(config).to(dtype=dtype)  # type: ignore[call-arg]
    model = whole_model.transformer
    layer = model.h[1]
    lengths = [DOCUMENTS[number % len(DOCUMENTS)] for number in range(length)]
    position = torch.cat([torch.arange(each) for each in lengths])[None, :length]
    segment = torch.repeat_interleave(torch.arange(length), torch.tensor(lengths))[None, :length]
    whole, packed = model.visible(None, None, 1, length, dtype), model.visible(position, segment, 1, length, dtype)
    shape = (1, config.n_head, length, config.n_embd // config.n_head)
    query, key, value = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    stream = torch.randn(1, length, config.n_embd, dtype=dtype, requires_grad=True)

    def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return sdpa_attention_forward(layer.attn, query, key, value, mask, scaling=query.shape[-1] ** -0.5)[0]

    def attention(visible: Any) -> Callable[[], None]:
        return lambda: sparse.attend(query, key, value, visible, fused).sum().backward()

    def all_of_it(visible: Any) -> Callable[[], None]:
        return lambda: layer(stream, visible).sum().backward()

    return {
        "attention": {"dense": attention(whole[0]), "sparse": attention(whole[1])},
        "attention, packed": {"dense": attention(packed[0]), "sparse": attention(packed[1])},
        "layer": {"dense": all_of_it(whole[0]), "sparse": all_of_it(whole[1])},
        "layer, packed": {"dense": all_of_it(packed[0]), "sparse": all_of_it(packed[1])},
    }


def measure(pair: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median milliseconds of both forms, and the median of dense over sparse within a round."""
    seconds: dict[str, list[float]] = {name: [] for name in pair}
    for number in range(rounds + 1):
        for name, call in pair.items():
            start = time.perf_counter()
            call()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    ratios = [dense / sparse for dense, sparse in zip(seconds["dense"], seconds["sparse"], strict=True)]
    found = {f"{name}_ms": round(1000 * statistics.median(each), 1) for name, each in seconds.items()}
    return {**found, "dense_over_sparse": round(statistics.median(ratios), 2)}


def main() -> None:
    """Take the rounds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="1024,4096")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", help="e.g. 0-3; all of the process where not given")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    used = settle(options.cores)
    from hanmo.child import machine, versions

    rows = []
    for dtype in options.dtypes.split(","):
        for length in map(int, options.lengths.split(",")):
            for name, pair in forms(length, getattr(torch, dtype)).items():
                rows.append({"what": name, "dtype": dtype, "tokens": length, **measure(pair, options.rounds)})
                print(json.dumps(rows[-1]), flush=True)
    result = {
        "what": "forward and backward pass of LingLong's sparse attention against dense attention, on CPU",
        "settings": {"rounds": options.rounds, "cores": used, "documents": DOCUMENTS},
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }
    options.result.parent.mkdir(exist_ok=True)
    options.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
