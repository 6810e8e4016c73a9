"""Training a byte-level BPE and encoding with it, against Hugging Face tokenizers.

    python benchmarks/tokenizer.py [--megabytes 40] [--vocab-size 16384] [--rounds 2] [--threads 4]

Both read the same real prose (HANMO_DATA, or `shared/data` beside the project), on the same processors with the same
number of threads, and take turns. Training is text to finished tokenizer, at the same vocabulary size; their trainer is
given the house's splitter, so that the tokenizers differ in their merges alone. The text that compression is measured
on (tokens for the same text, fewer are better) was left out of the training. Encoding is documents to ids, all of them,
with the tokenizer trained here; their time does not include fetching the ids from their objects. Ids are compared for
every document. The result goes to benchmarks/results/tokenizers.json; it takes about five minutes.
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

RESULT = Path(__file__).parent / "results" / "tokenizers.json"
#: Prose: news and how-tos, novels, renderings of the histories, essays, web texts, laws.
SOURCES = (
    "lctt_technews_zh",
    "vernacular_novels_zh",
    "classical_modern_text",
    "luxun_zh",
    "cluecorpus_small_sample",
    "laws_zh",
)
LONGEST = 20_000
#: A document in twenty is held out.
HELDOUT = 20


def documents(data: Path, megabytes: float) -> list[str]:
    """Documents of all sources in turn, so many megabytes."""
    from hanmo.files import read_jsonl

    files = [data / "pretrain" / f"{name}.jsonl.zst" for name in SOURCES]
    sources = [(record["text"] for _, record in read_jsonl(path)) for path in files]
    texts, left = [], megabytes * 1e6
    for text in itertools.chain.from_iterable(itertools.zip_longest(*sources)):
        if text:
            texts.append(text[:LONGEST])
            left -= len(texts[-1].encode())
            if left < 0:
                break
    return texts


def chunks(texts: list[str]) -> list[str]:
    """The texts as the tokenizer stage holds its sample: in strings of about a million characters."""
    from hanmo.tokenizer.train import CHUNK

    found: list[str] = []
    held: list[str] = []
    for text in texts:
        held.append(text)
        if sum(map(len, held)) >= CHUNK:
            found.append("\n".join(held))
            held = []
    return [*found, "\n".join(held)] if held else found


def theirs(texts: list[str], vocab_size: int) -> Any:
    """Their trainer, on the house's splitter, special tokens and alphabet."""
    from tokenizers import pre_tokenizers, trainers

    from hanmo.tokenizer import skeleton
    from hanmo.tokenizer.chat import SPECIAL_TOKENS

    tokenizer = skeleton()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokens(tokenizer: Any, texts: list[str]) -> int:
    """How many tokens texts become."""
    return sum(len(found.ids) for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False))


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--vocab-size", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=4)
    options = parser.parse_args()
    # Both libraries take their threads from rayon, which reads this once.
    os.environ.update(RAYON_NUM_THREADS=str(options.threads), TOKENIZERS_PARALLELISM="true")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

    import numpy as np

    from hanmo.child import machine, versions
    from hanmo.console import console
    from hanmo.files import write_json
    from hanmo.tokenizer import build
    from hanmo.tokenizer.encode import BulkEncoder
    from hanmo.tokenizer.train import train

    data = Path(os.environ.get("HANMO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    texts = documents(data, options.megabytes * HELDOUT / (HELDOUT - 1))
    heldout = texts[::HELDOUT]
    sample = chunks([text for number, text in enumerate(texts) if number % HELDOUT])
    size = sum(len(text.encode()) for text in sample) / 1e6
    training, encoding = [], []
    mine = other = None
    for _ in range(options.rounds):
        begin = time.perf_counter()
        mine = train(sample, options.vocab_size)
        middle = time.perf_counter()
        other = theirs(sample, options.vocab_size)
        end = time.perf_counter()
        training.append({"hanmo_s": round(middle - begin, 2), "tokenizers_s": round(end - middle, 2)})
        console.print(training[-1])
    assert mine is not None and other is not None
    compression = {"hanmo": tokens(mine, heldout), "tokenizers": tokens(other, heldout)}

    with tempfile.TemporaryDirectory() as folder:
        build(mine, Path(folder))
        encoder = BulkEncoder(folder)
        mine.encode_special_tokens = True
        amount = sum(len(text.encode()) for text in texts) / 1e6
        encoder.encode_flat(heldout)
        mine.encode_batch_fast(heldout, add_special_tokens=False)
        different = 0
        for number in range(options.rounds + 1):
            begin = time.perf_counter()
            ids, ends = encoder.encode_flat(texts)
            middle = time.perf_counter()
            found = mine.encode_batch_fast(texts, add_special_tokens=False)
            end = time.perf_counter()
            encoding.append({"hanmo_mb_s": amount / (middle - begin), "tokenizers_mb_s": amount / (end - middle)})
            console.print(encoding[-1])
            if number == 0:
                parts = np.split(ids, ends[:-1].astype(np.int64))
                different = sum(not np.array_equal(part, one.ids) for part, one in zip(parts, found, strict=True))
    result = {
        "what": "byte-level BPE: training and bulk encoding against Hugging Face tokenizers, same threads",
        "threads": options.threads,
        "megabytes": round(size, 1),
        "vocab_size": options.vocab_size,
        "training": training,
        "training_ratio": round(statistics.median(r["tokenizers_s"] / r["hanmo_s"] for r in training), 2),
        "heldout_tokens": compression,
        "heldout_tokens_ratio": round(compression["hanmo"] / compression["tokenizers"], 5),
        "encoding_engine": encoder.engine,
        "encoding": encoding,
        "encoding_ratio": round(statistics.median(r["hanmo_mb_s"] / r["tokenizers_mb_s"] for r in encoding), 2),
        "documents": len(texts),
        "documents_with_other_ids": different,
        "machine": machine(),
        "versions": {**versions(), **_versions("rustbpe", "fastokens")},
    }
    write_json(RESULT, result)
    console.print({name: value for name, value in result.items() if name.endswith("ratio") or "other" in name})


def _versions(*names: str) -> dict[str, str]:
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in names}


if __name__ == "__main__":
    main()
