"""Memory and seconds of the order of rows over 100 million documents, with and without a mix and by shards.

    python benchmarks/order_memory.py [--documents 100000000] [--shards 256]

The tokens themselves are a file with a hole (all zero, no room on the disk); ends and sources of documents are real
files, 10 bytes a document. Prints one line of JSON a case and writes benchmarks/results/order_memory.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.files import write_json

RESULTS = Path(__file__).parent / "results" / "order_memory.json"
CONTEXT, SOURCES = 2048, 6
CASES = ("global", "shards", "mix")


def make(folder: Path, documents: int, shards: int) -> None:
    """Write the shards: documents of 50 to 1,950 tokens, sources of very different sizes."""
    each = documents // shards
    for number in range(shards):
        chooser = np.random.default_rng(number)
        ends = np.cumsum(chooser.integers(50, 1950, each))
        stem = folder / "train" / f"{number:05d}"
        stem.parent.mkdir(exist_ok=True)
        ends.astype("<u8").tofile(f"{stem}.ds.index")
        np.save(f"{stem}.source.npy", np.minimum(chooser.geometric(0.5, each) - 1, SOURCES - 1).astype("<u2"))
        with Path(f"{stem}.ds").open("wb") as file:
            file.truncate(2 * int(ends[-1]))
    write_json(folder / "tokens.json", {"dtype": "<u2", "sources": [f"s{n}" for n in range(SOURCES)]})


def measure(folder: Path, case: str, channel: Any) -> None:
    """Open the folder and read rows here and there in three passes; runs in a process of its own."""
    from hanmo.child import MemoryWatch
    from hanmo.tokens.mix import Mix, mix_sources
    from hanmo.tokens.order import Order
    from hanmo.tokens.shards import open_split

    before = MemoryWatch().peak_anonymous()
    watch = MemoryWatch()
    began = time.perf_counter()
    split = open_split(folder, "train")
    mix = None
    if case == "mix":
        sizes = [sum(shard.amounts[source][1] for shard in split.shards) for source in range(SOURCES)]
        tokens = dict(zip(split.sources, sizes, strict=True))
        mix = Mix(mix_sources(tokens, None, 4, 0.7, "here"), CONTEXT, 1)
    order = Order(split, CONTEXT, 1, shuffle="shards" if case == "shards" else "global", mix=mix)
    order.rows(0, 64)
    first = time.perf_counter() - began
    began = time.perf_counter()
    rows = 0
    for start in (64, order.total // CONTEXT // 2, order.total // CONTEXT - 10):
        order.rows(start, 256)
        rows += 256
    rest = time.perf_counter() - began
    channel.send(
        {
            "case": case,
            "documents": len(split),
            "tokens": order.total,
            "anonymous_mb": round((watch.peak_anonymous()) / 1e6),
            "of_which_libraries_mb": round(before / 1e6),
            "seconds_to_the_first_row": round(first, 1),
            "seconds_for_rows_of_two_passes": round(rest, 1),
        }
    )


def main() -> None:
    """Make the shards, measure each case, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000_000)
    parser.add_argument("--shards", type=int, default=256)
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), options.documents, options.shards)
        spawn = multiprocessing.get_context("spawn")
        for case in CASES:
            here, there = spawn.Pipe()
            process = spawn.Process(target=measure, args=(Path(name), case, there))
            process.start()
            found.append(here.recv())
            process.join()
            print(json.dumps(found[-1]), flush=True)
    write_json(RESULTS, found)


if __name__ == "__main__":
    main()
