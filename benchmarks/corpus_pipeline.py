"""The whole corpus pipeline, raw documents to token shards, against datatrove's stock blocks doing the same steps.

    pip install --target PEER spacy jieba ; PYTHONPATH=PEER python benchmarks/corpus_pipeline.py [--megabytes 40]

The steps of both: read .jsonl.zst, repair the text (ftfy; ours: the cleaning rules), drop what is too short, drop what
repeats itself or does not read like prose (Gopher's rules by datatrove's Chinese words; ours: the rules for Chinese),
near-duplicates by MinHash over all documents, encode with the same tokenizer, write .ds shards. Both use as many
processes as asked for, over as many input files, take turns, and start from nothing; the time is that of the whole,
with the start of its processes. `--plain` leaves the rules of quality out of both. The result goes to
benchmarks/results/corpus_pipeline.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from hanmo.child import machine, versions
from hanmo.console import console
from hanmo.files import JsonlZstWriter, read_json, write_json
from near_dedup import documents

RESULT = Path(__file__).parent / "results" / "corpus_pipeline.json"


def write_input(data: Path, megabytes: float, files: int, folder: Path) -> float:
    """Real documents dealt to so many files, every fiftieth of them twice; returns the megabytes of text."""
    texts = documents(data, megabytes)
    texts += texts[::50]
    for number in range(files):
        with JsonlZstWriter(folder / f"{number:02d}.jsonl.zst") as file:
            for index in range(number, len(texts), files):
                file.write({"id": str(index), "text": texts[index]})
    return sum(len(text.encode()) for text in texts) / 1e6


def ours(source: Path, tokenizer: Path, out: Path, workers: int, plain: bool) -> dict[str, Any]:
    """Our two stages; returns what came out."""
    from hanmo.corpus import stage as corpus
    from hanmo.corpus.settings import CorpusSettings, QualitySettings
    from hanmo.tokens import stage as tokens
    from hanmo.tokens.settings import TokensSettings

    quality = QualitySettings(rules=not plain)
    corpus.run(
        CorpusSettings(quality=quality, heldout_fraction=0, workers=workers), {"documents": [source]}, out / "corpus"
    )
    inputs = {"corpus": [out / "corpus"], "tokenizer": [tokenizer]}
    counts = tokens.run(TokensSettings(workers=workers), inputs, out / "tokens")
    return {"rejected": read_json(out / "corpus" / "stats.json")["rejected"], **counts["train"]}


def theirs(source: Path, tokenizer: Path, out: Path, workers: int, plain: bool) -> dict[str, Any]:
    """datatrove's blocks; returns what came out."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, LambdaFilter
    from datatrove.pipeline.formatters import FTFYFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.typeshelper import Languages

    language = Languages.mandarin_chinese__hani
    signature = MinhashDedupSignature(str(out / "signatures"), language=language)
    # Its own function passes str, which xxhash 4 refuses.
    signature._hash_func = _hash  # pyright: ignore[reportAttributeAccessIssue]
    # Its defaults are for English: words of three letters and more, "the" and "of". Chinese would all be rejected.
    words = GopherQualityFilter(language=language, min_avg_word_length=1, stop_words=list("的了是在不和有一"))
    rules = [] if plain else [GopherRepetitionFilter(language=language), words]

    def run(name: str, steps: list[Any], tasks: int) -> None:
        LocalPipelineExecutor(steps, tasks=tasks, workers=workers, logging_dir=str(out / "logs" / name)).run()

    run(
        "clean",
        [
            JsonlReader(str(source), compression="zstd"),
            FTFYFormatter(normalization="NFC"),
            LambdaFilter(_long_enough),
            *rules,
            JsonlWriter(str(out / "clean"), compression=None),
        ],
        workers,
    )
    run("signatures", [JsonlReader(str(out / "clean")), signature], workers)
    buckets = signature.config.num_buckets
    run("buckets", [MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"))], buckets)
    run("cluster", [MinhashDedupCluster(str(out / "buckets"), str(out / "remove"))], 1)
    run(
        "tokens",
        [
            JsonlReader(str(out / "clean")),
            MinhashDedupFilter(str(out / "remove")),
            DocumentTokenizer(
                str(out / "tokens"),
                str(tokenizer / "tokenizer.json"),
                eos_token="<|endoftext|>",
                shuffle_documents=False,
            ),
        ],
        workers,
    )
    shards = sorted((out / "tokens").glob("*.ds"))
    return {
        "documents": sum(path.with_suffix(".ds.index").stat().st_size // 8 for path in shards),
        "tokens": sum(path.stat().st_size // 2 for path in shards),
    }


def _hash(text: str) -> int:
    import xxhash

    return xxhash.xxh64_intdigest(text.encode())


def _long_enough(document: Any) -> bool:
    return len(document.text) >= 10


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    data = Path(os.environ.get("HANMO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        size = write_input(data, options.megabytes, options.workers, folder / "raw")
        tokenizer = folder / "tokenizer"
        _train_tokenizer(folder / "raw", tokenizer)
        rounds = []
        found: dict[str, Any] = {}
        for _ in range(options.rounds):
            seconds = {}
            for peer, function in (("hanmo", ours), ("datatrove", theirs)):
                out = folder / peer
                shutil.rmtree(out, ignore_errors=True)
                begin = time.perf_counter()
                found[peer] = function(folder / "raw", tokenizer, out, options.workers, options.plain)
                seconds[peer] = time.perf_counter() - begin
            rounds.append(seconds)
            console.print(seconds)
    key = "plain" if options.plain else "with_quality_rules"
    result = {
        "what": "raw documents to token shards, whole pipelines",
        "megabytes": round(size, 1),
        "workers": options.workers,
        "rounds": rounds,
        "hanmo_mb_s": size / statistics.median(one["hanmo"] for one in rounds),
        "datatrove_mb_s": size / statistics.median(one["datatrove"] for one in rounds),
        "ratio": statistics.median(one["datatrove"] / one["hanmo"] for one in rounds),
        "found": found,
        "machine": machine(),
        "versions": versions(),
    }
    write_json(RESULT, {**(read_json(RESULT) if RESULT.exists() else {}), key: result})
    console.print(result["ratio"], found)


def _train_tokenizer(raw: Path, out: Path) -> None:
    from hanmo.files import read_jsonl
    from hanmo.tokenizer import build
    from hanmo.tokenizer.train import train

    texts = [record["text"] for _, record in read_jsonl(sorted(raw.iterdir())[0])]
    build(train(texts, 8192), out)


if __name__ == "__main__":
    main()
