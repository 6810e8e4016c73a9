"""Memory and speed of the corpus, tokenizer and token stages, on two corpora ten times apart in size.

The corpora are cut from the shared data folder (HANMO_DATA, or `shared/data` beside the project) and written in five
formats, with a document of 15 MB and a line of 100 MB among them. Every stage runs as it does in a recipe, in a process
with workers of its own; the anonymous memory (RssAnon: what cannot be dropped and read again) of each of its processes
is sampled every 20 ms. The result goes to benchmarks/results/memory_corpus.json.

    python benchmarks/memory_corpus.py [--sizes 100 1000] [--workers 4]
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import zstandard

from hanmo.child import machine, versions
from hanmo.console import console
from hanmo.corpus.settings import CorpusSettings, QualitySettings, Source
from hanmo.files import read_json, read_jsonl, write_json
from hanmo.stages import KINDS
from hanmo.tokenizer.settings import TokenizerSettings
from hanmo.tokens.settings import TokensSettings

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "memory_corpus.json"
#: The figure to keep: bytes of anonymous memory in any worker.
LIMIT = 1.5e9
FORMATS = ("jsonl.zst", "json", "csv", "parquet", "txt")


def texts(data: Path, megabytes: int, every: int) -> Iterator[str]:
    """Every `every`-th text of the shared corpus, up to so many megabytes.

    Where that is more than there is, the texts come again with every Han character of GB 2312 replaced by another one
    (a substitution cipher, another one each time): as long and as varied, and with no stretch in common. It does not
    read like Chinese, so the rules of quality are left out.
    """
    left = megabytes * 1_000_000
    common = [bytes((row, cell)).decode("gb2312", "ignore") for row in range(0xB0, 0xF8) for cell in range(0xA1, 0xFF)]
    common = [char for char in common if char]
    for turn in range(100):
        shuffled = common[:]
        random.Random(turn).shuffle(shuffled)
        cipher = str.maketrans(dict(zip(common, shuffled, strict=True))) if turn else {}
        for path in sorted((data / "pretrain").glob("*.jsonl.zst")):
            for number, record in read_jsonl(path):
                if number % every == 0:
                    text = record["text"].translate(cipher) if turn else record["text"]
                    yield text
                    left -= len(text.encode())
                    if left < 0:
                        return


def make(data: Path, folder: Path, megabytes: int, every: int) -> list[Source]:
    """Write the raw corpus, a fifth of the texts in each format; returns its sources."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    paths = [folder / f"part.{suffix}" for suffix in FORMATS]
    raw = [path.open("wb") for path in paths if path.suffix not in (".parquet", ".csv")]
    lines, array, plain = zstandard.ZstdCompressor().stream_writer(raw[0]), raw[1], raw[2]
    array.write(b'[{"text": "begin"}')
    with (
        paths[2].open("w", encoding="utf-8", newline="") as sheet,
        pq.ParquetWriter(paths[3], pa.schema([("text", pa.string())])) as table,
    ):
        rows = csv.writer(sheet)
        rows.writerow(["text"])
        held: list[str] = []
        for number, text in enumerate(texts(data, megabytes, every)):
            match number % 5:
                case 0:
                    lines.write(orjson.dumps({"text": text}) + b"\n")
                case 1:
                    array.write(b",\n" + orjson.dumps({"text": text}))
                case 2:
                    rows.writerow([text])
                case 3:
                    held.append(text)
                    if len(held) == 1000:
                        table.write_table(pa.table({"text": held}))
                        held.clear()
                case _:
                    plain.write(" ".join(text.split("\n")).encode() + b"\n")
        table.write_table(pa.table({"text": held}))
    lines.write(orjson.dumps({"text": "一部很长的书，" * 715_000}) + b"\n")
    lines.write(b'{"text": "' + "长".encode() * 33_000_000 + b'"}\n')
    lines.close()
    array.write(b"]")
    for file in raw:
        file.close()
    return [
        Source(path=str(path), name=path.suffixes[0][1:], split="line" if path.suffix == ".txt" else "file")
        for path in paths
    ]


def run_stage(do: str, settings: Any, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Run one stage in a process of its own; returns seconds, its counts, and the peak of every process of it."""
    out.mkdir(parents=True)
    task = out.parent / f"{out.name}.json"
    paths = {role: [str(path) for path in found] for role, found in inputs.items()}
    write_json(task, {"do": do, "settings": settings.model_dump(mode="json"), "inputs": paths, "out": str(out)})
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, "--stage", str(task)])
    watched = psutil.Process(process.pid)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for member in _members(watched):
            peaks[member] = max(peaks.get(member, 0), anonymous(member))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"the {do} stage ended with {process.returncode}")
    seconds = time.perf_counter() - begun
    # What multiprocessing starts beside the workers (its resource tracker) is of a few megabytes.
    workers = [peak for pid, peak in peaks.items() if pid != process.pid and peak > 10e6]
    return {
        "seconds": round(seconds, 2),
        "peak_main_mb": round(peaks[process.pid] / 1e6, 1),
        "peak_workers_mb": [round(peak / 1e6, 1) for peak in sorted(workers, reverse=True)],
        "counts": read_json(task)["counts"],
    }


def _members(process: psutil.Process) -> list[int]:
    try:
        return [process.pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def anonymous(pid: int) -> int:
    """Anonymous resident bytes of a process; its whole resident size where the system does not tell them apart."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").split("\n"):
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0 if Path("/proc/self/status").exists() else psutil.Process(pid).memory_info().rss
    except (OSError, psutil.NoSuchProcess):
        return 0


def stage_main(task: Path) -> None:
    """The process of one stage."""
    what = read_json(task)
    kind = KINDS[what["do"]]
    inputs = {role: [Path(path) for path in paths] for role, paths in what["inputs"].items()}
    counts = kind.load()(kind.settings.model_validate(what["settings"]), inputs, Path(what["out"]))
    write_json(task, {**what, "counts": counts})


def measure(data: Path, folder: Path, megabytes: int, every: int, workers: int) -> dict[str, Any]:
    """All three stages on one corpus."""
    sources = make(data, folder / "raw", megabytes, every)
    corpus, tokenizer, tokens = (folder / name for name in ("corpus", "tokenizer", "tokens"))
    settings = CorpusSettings(
        sources=sources, max_bad_lines=0.01, workers=workers, quality=QualitySettings(rules=False)
    )
    stages = {
        "corpus": run_stage("corpus", settings, {}, corpus),
        "tokenizer": run_stage("tokenizer", TokenizerSettings(vocab_size=16_384), {"corpus": [corpus]}, tokenizer),
        "tokens": run_stage(
            "tokens", TokensSettings(workers=workers), {"corpus": [corpus], "tokenizer": [tokenizer]}, tokens
        ),
    }
    read = stages["corpus"]["counts"]["read"]["bytes"]
    sampled = stages["tokenizer"]["counts"]["sample_bytes"]
    kept = sum(stages["tokens"]["counts"][split]["bytes"] for split in ("train", "heldout"))
    for name, size in (("corpus", read), ("tokenizer", sampled), ("tokens", kept)):
        stages[name]["mb_per_second"] = round(size / 1e6 / stages[name]["seconds"], 1)
    largest = max(max([stage["peak_main_mb"], *stage["peak_workers_mb"]]) for stage in stages.values())
    return {"text_mb": round(read / 1e6, 1), "workers": workers, "largest_process_mb": largest, "stages": stages}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000], help="megabytes of text")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        stage_main(options.stage)
        return
    data = next(
        (Path(d) for d in (os.environ.get("HANMO_DATA"), ROOT.parent / "shared" / "data") if d and Path(d).is_dir()),
        None,
    )
    if data is None:
        console.print("memory_corpus: needs the shared data folder (set HANMO_DATA to it)")
        return
    # With other programs running (a load above 0), speeds are a lower bound; memory is what it is.
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    folder = Path(tempfile.mkdtemp(prefix="hanmo-memory-"))
    try:
        largest = max(options.sizes)
        runs = [
            measure(data, folder / str(size), size, max(1, largest // size), options.workers) for size in options.sizes
        ]
    finally:
        shutil.rmtree(folder)
    libraries = {name: importlib.metadata.version(name) for name in ("fastokens", "rustbpe", "orjson", "zstandard")}
    result = {
        "limit_mb": LIMIT / 1e6,
        "within_limit": all(run["largest_process_mb"] <= LIMIT / 1e6 for run in runs),
        "load_average_before": load,
        "machine": machine(),
        "versions": {**versions(), **libraries},
        "runs": runs,
    }
    write_json(RESULT, result)
    for run in runs:
        for name, stage in run["stages"].items():
            peaks = ", ".join(f"{peak:.0f}" for peak in stage["peak_workers_mb"]) or "none"
            console.print(
                f"{run['text_mb']:6.0f} MB {name:9} {stage['seconds']:6.1f} s {stage['mb_per_second']:6.1f} MB/s  "
                f"anonymous MB: main {stage['peak_main_mb']:.0f}, workers {peaks}",
                soft_wrap=True,
            )


if __name__ == "__main__":
    main()
