"""Near-duplicates: speed of the signatures and quality of what is found, against datatrove's MinHash for Chinese.

    pip install spacy jieba        # datatrove's word tokenizer for Chinese
    python benchmarks/near_dedup.py [--megabytes 8] [--rounds 3]

Both read the same real documents (HANMO_DATA, or `shared/data` beside the project) in one process of one thread each
and take turns. Speed is text to signature. For quality, copies of documents are planted at likenesses of 0.7, 0.8 and
0.9 (Jaccard index of 5-character shingles, measured for every pair), half of them with scattered edits and half with a
passage cut out and another put in; recall is the share of planted copies that meet their original, precision the share
of planted pairs among all pairs found (a document that shares a tenth of its shingles with an earlier one is left out
first, so that no other pair is alike). datatrove's rule is an equal bucket; ours an equal band, then the
likeness of the signatures. The result goes to benchmarks/results/near_dedup.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hanmo.child import machine, versions
from hanmo.console import console
from hanmo.corpus.near import Sketches, SketchWriter, search, searches
from hanmo.corpus.sketch import SHINGLE, sketch
from hanmo.files import read_jsonl, write_json

RESULT = Path(__file__).parent / "results" / "near_dedup.json"
LEVELS = (0.7, 0.8, 0.9)
LONGEST = 20_000


def documents(data: Path, megabytes: float) -> list[str]:
    """Documents of all sources in turn, so many megabytes."""
    sources = [(record["text"] for _, record in read_jsonl(p)) for p in sorted((data / "pretrain").glob("*.jsonl.zst"))]
    texts, left = [], megabytes * 1e6
    for text in itertools.chain.from_iterable(itertools.zip_longest(*sources)):
        if text and len(text) >= 200:
            texts.append(text[:LONGEST])
            left -= len(texts[-1].encode())
            if left < 0:
                break
    return texts


def shingles(text: str) -> set[str]:
    """What likeness is measured on."""
    letters = "".join(c for c in text.lower() if c.isalnum())
    return {letters[i : i + SHINGLE] for i in range(max(1, len(letters) - SHINGLE + 1))}


def jaccard(left: str, right: str) -> float:
    """Exact likeness."""
    a, b = shingles(left), shingles(right)
    return len(a & b) / len(a | b)


def copy(text: str, filler: str, likeness: float, scattered: bool, dice: random.Random) -> str:
    """A changed copy whose measured likeness comes nearest to the one asked for, by bisection."""

    def changed(share: float, seed: float) -> str:
        own = random.Random(seed)
        if scattered:
            return "".join(own.choice(filler) if own.random() < share / SHINGLE else c for c in text)
        length = int(len(text) * share)
        at, there = own.randrange(len(text) - length + 1), own.randrange(max(1, len(filler) - length))
        return text[:at] + filler[there : there + length] + text[at + length :]

    seed, low, high = dice.random(), 0.0, 0.9
    for _ in range(12):
        middle = (low + high) / 2
        if jaccard(text, changed(middle, seed)) > likeness:
            low = middle
        else:
            high = middle
    return changed((low + high) / 2, seed)


def plant(texts: list[str], seed: int) -> tuple[list[str], list[tuple[int, int, float]]]:
    """Documents with copies behind them: (texts, [(original, copy, measured likeness)])."""
    dice = random.Random(seed)
    originals = list(dict.fromkeys(texts))
    seen: dict[str, int] = {}
    clean: list[str] = []
    for text in originals:  # leave out what shares a tenth of its shingles with one document before
        own = shingles(text)
        meets: dict[int, int] = defaultdict(int)
        for shingle in own:
            if shingle in seen:
                meets[seen[shingle]] += 1
        if meets and max(meets.values()) > 0.1 * len(own):
            continue
        for shingle in own:
            seen.setdefault(shingle, len(clean))
        clean.append(text)
    planted, pairs = list(clean), []
    for number, text in enumerate(clean[: 3 * (len(clean) // 6)]):
        filler = dice.choice(clean)
        made = copy(text, filler, LEVELS[number % 3], bool(number % 2), dice)
        pairs.append((number, len(planted), jaccard(text, made)))
        planted.append(made)
    return planted, pairs


def ours(texts: list[str], similarity: float) -> set[tuple[int, int]]:
    """Pairs that our search finds."""
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "work" / "gather" / "000000"
        stem.parent.mkdir(parents=True)
        with SketchWriter(stem) as writer:
            for number, text in enumerate(texts):
                writer.add(number.to_bytes(16, "big"), 0, len(text), str(number), text)
        assert len(Sketches((stem,))) == len(texts)
        found: set[tuple[int, int]] = set()
        for task in searches(Path(folder), (stem,), similarity):
            task.stem.parent.mkdir(exist_ok=True)
            search(task)
            edges = np.load(task.stem.with_suffix(".npy"))
            found |= {(min(pair), max(pair)) for pair in edges[["left", "right"]].tolist()}
    return found


def theirs(step: Any, texts: list[str]) -> set[tuple[int, int]]:
    """Pairs with an equal bucket in datatrove's signatures."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        found = step.get_shingles(text)
        if len(found):
            for bucket, values in enumerate(step.get_signature(found)):
                groups[bucket, *values].append(number)
    return {pair for group in groups.values() for pair in itertools.combinations(group, 2)}


def quality(found: set[tuple[int, int]], pairs: list[tuple[int, int, float]]) -> dict[str, float]:
    """Recall by level, precision over all."""
    planted = {(one, two) for one, two, _ in pairs}
    result = {}
    for level in LEVELS:
        mine = [(one, two) for one, two, likeness in pairs if abs(likeness - level) < 0.02]
        result[f"recall_{level}"] = sum(pair in found for pair in mine) / len(mine)
        result[f"pairs_{level}"] = len(mine)
    result["precision"] = len(found & planted) / max(1, len(found))
    return result


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
    from datatrove.utils.typeshelper import Languages

    data = Path(os.environ.get("HANMO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    texts = documents(data, options.megabytes)
    size = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder, language=Languages.mandarin_chinese__hani)
        # Its own function passes str, which xxhash 4 refuses.
        step._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
        step.get_signature(step.get_shingles("先把词典读进来，这不算时间。"))
        sketch("同样")
        rounds = []
        for _ in range(options.rounds):
            begin = time.perf_counter()
            for text in texts:
                sketch(text)
            middle = time.perf_counter()
            for text in texts:
                step.get_signature(step.get_shingles(text))
            end = time.perf_counter()
            rounds.append({"hanmo_mb_s": size / (middle - begin), "datatrove_mb_s": size / (end - middle)})
            console.print(rounds[-1])
        planted, pairs = plant(texts, seed=1)
        found = {
            "datatrove": quality(theirs(step, planted), pairs),
            **{f"hanmo at {level}": quality(ours(planted, level), pairs) for level in (0.7, 0.75, 0.8)},
        }
    result = {
        "what": "near-duplicate signatures, one process of one thread each, and what they find",
        "documents": len(texts),
        "megabytes": round(size, 1),
        "rounds": rounds,
        "ratio": statistics.median(r["hanmo_mb_s"] / r["datatrove_mb_s"] for r in rounds),
        "planted": len(pairs),
        "quality": found,
        "machine": machine(),
        "versions": versions(),
    }
    write_json(RESULT, result)
    console.print(result["ratio"], found)


if __name__ == "__main__":
    main()
