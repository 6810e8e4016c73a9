"""Every family of models: parameters, what it learns, its speed beside transformers' Trainer, its exactness.

    HANMO_DATA=/path/to/data hanmo run benchmarks/families.yaml --out runs/families
    hanmo tokenizer import $HANMO_DATA/tokenizers/chatglm3 --out runs/families/chatglm3
    hanmo tokenizer import $HANMO_DATA/tokenizers/linglong-cpm2/char-13312.txt \\
        --pinyin $HANMO_DATA/tokenizers/linglong-cpm2/pinyin-1354.txt --out runs/families/linglong
    hanmo tokens --corpus runs/families/corpus --tokenizer runs/families/chatglm3 --out runs/families/chatglm3-tokens
    hanmo tokens --corpus runs/families/corpus --tokenizer runs/families/linglong --out runs/families/linglong-tokens
    python benchmarks/families.py --work runs/families [--only erlangshen-2m ...] [--rounds 3] [--table]
    python benchmarks/families.py --count     # the published sizes, on torch's meta device

Of each preset: parameters counted on the model and as published; held-out loss in nats a target (for masks: a masked
token; for gaps: a token of the answers) at the start and after the budget, beside what guessing evenly and by
frequency cost; tokens a second of our stage over those of the Trainer at its defaults (fp32) and, where ours finds this
processor fast in it, with bf16, with the same class, rows, batch and thread, in turns; the largest difference of logits
from a reference in float64; greedy continuations with and without cache, and in a batch and alone. What is done is not
done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "families.json"
#: By preset: the tokens it reads, those it learns from, context, steps that are timed, parameters as published.
RUNS: dict[str, tuple[str, int, int, int, int | None]] = {
    "hanmo-2m": ("bytes", 300_000, 256, 5, None),
    "tinyllama-small": ("bytes", 100_000, 256, 5, None),
    "hanmo-moe-2m-a1m": ("bytes", 100_000, 256, 5, None),
    "hanmo-moe-2m-a1m-qwen2": ("bytes", 100_000, 256, 5, None),
    "wenzhong-2m": ("bytes", 100_000, 256, 5, None),
    "linglong-1m": ("linglong", 100_000, 256, 5, None),
    "linglong-1m-backward": ("linglong", 100_000, 256, 5, None),
    "linglong-1m-pinyin": ("linglong", 100_000, 256, 5, None),
    "erlangshen-2m": ("few", 150_000, 256, 5, None),
    "modernbert-2m": ("few", 150_000, 256, 5, None),
    "zhouwenwang-2m": ("few", 150_000, 256, 5, None),
    "randeng-2m": ("few", 150_000, 256, 5, None),
    "t5-1m": ("few", 150_000, 256, 5, None),
    "tinyllm-16m": ("chatglm3", 30_000, 256, 3, 16_700_000),
    "hanmo-16m": ("bytes", 50_000, 256, 3, None),
    "randeng-77m": ("characters", 100_000, 256, 3, None),
    "t5-60m": ("characters", 100_000, 256, 3, 60_511_616),
    "linglong-106m": ("linglong", 60_000, 256, 3, 96_066_048),
    "erlangshen-110m": ("characters", 60_000, 256, 3, None),
    "zhouwenwang-110m": ("characters", 60_000, 256, 3, None),
    "wenzhong-110m": ("bytes", 60_000, 256, 3, None),
    "hanmo-moe-70m-a20m": ("bytes", 100_000, 256, 3, None),
    "modernbert-150m": ("characters", 60_000, 256, 3, None),
}
#: A preset with another shape under a name of its own: the smallest Llama is 1.1B.
SMALL_LLAMA = {"hidden": 192, "ffn": 512, "layers": 4, "heads": 6, "kv_heads": 2, "head_dim": 32}


def job_of(name: str, work: Path) -> dict[str, Any]:
    """What a child is told."""
    tokens, budget, context, steps, _ = RUNS[name]
    small = name == "tinyllama-small"
    return {
        "preset": "tinyllama-1.1b-zh" if small else name,
        "shape": SMALL_LLAMA if small else {},
        "tokens": str((work / f"{tokens}-tokens").absolute()),
        "budget": budget,
        "context": context,
        "steps": steps,
        "settings": {"threads": 1},
    }


def child(what: str, job: dict[str, Any], out: Path) -> dict[str, Any]:
    """Do one thing in a process of its own."""
    asked = json.dumps(job | {"what": what, "out": str(out)})
    command = [sys.executable, __file__, "--one", asked]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{job['preset']}, {what}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def one(asked: str) -> None:
    """The other end of `child`; prints what was found."""
    from peers import family

    job = json.loads(asked)
    out = Path(job["out"])
    if job["what"] in ("learn", "check"):
        print(json.dumps(getattr(family, job["what"])(job, out)))
    else:
        print(json.dumps(getattr(family, job["what"])(job)))


def take(name: str, work: Path, rounds: int, found: dict[str, Any], keep: Any) -> None:
    """What is missing of a preset's figures; `keep` is called after each part."""
    from hanmo.child import machine
    from hanmo.files import read_json

    job, out = job_of(name, work), work / "runs" / name
    if "learn" not in found:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        found["learn"] = child("learn", job, out)
        found["machine"] = machine()
        keep()
    if "check" not in found:
        found["check"] = child("check", job, out)
        found["class"] = read_json(out / "model" / "config.json")["architectures"][0]
        keep()
    turns = found.setdefault("turns", [])
    while len(turns) < rounds:
        turn = {"ours": child("ours", job, out)}
        turn["trainer"] = child("peer", job | {"fast": False}, out)
        if turn["ours"]["dtype"] == "bfloat16":
            turn["trainer_bf16"] = child("peer", job | {"fast": True}, out)
        turns.append(turn)
        keep()
    shared = [key for key in turns[0] if all(key in turn for turn in turns)]
    speeds = {key: [turn[key]["tokens_per_second"] for turn in turns] for key in shared}
    found["tokens_per_second"] = {key: statistics.median(values) for key, values in speeds.items()}
    found["ratio"] = {
        key: round(statistics.median(a / b for a, b in zip(speeds["ours"], speeds[key], strict=True)), 2)
        for key in shared[1:]
    }
    keep()


def table(families: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    head = "preset | class | parameters | uniform | unigrams | start | end | tokens | tokens/s | Trainer | with bf16 | "
    lines = [f"| {head}logits | cached | batch |", "|" + " --- |" * 14]
    for name, found in families.items():
        if "check" not in found:
            continue
        learn, check = found["learn"], found["check"]
        said = RUNS[name][4]
        count = f"{learn['parameters']:,}" + (f" ({said:,} published)" if said else "")
        cells = [name, found["class"], count, f"{learn['uniform']:.2f}", f"{learn['unigram']:.2f}"]
        cells += [f"{learn['start']:.2f}", f"{learn['end']:.2f}", f"{learn['tokens']:,}"]
        if ratio := found.get("ratio"):
            rate = found["tokens_per_second"]["ours"]
            cells += [
                f"{rate:,.0f}",
                f"x {ratio['trainer']}",
                f"x {ratio['trainer_bf16']}" if "trainer_bf16" in ratio else "",
            ]
        else:
            cells += [""] * 3
        cells += [f"{check['error']:.1e}", check.get("cached_as_uncached", ""), check["batch_as_alone"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


#: What is said of the parameters of published models, where something is.
SAID = {
    "tinyllm-16m": "16.7M",
    "tinyllm-42m": "43.3M",
    "tinyllm-92m": "92.1M",
    "tinyllm-210m": "212.8M",
    "tinyllm-440m": "441M",
    "tinyllm-1b5": "1,480M",
    "tinyllama-1.1b-zh": "1,235,314,688",
    "linglong-106m-word": "106M",
    "linglong-317m": "317M",
    "linglong-318m-pinyin": "318M",
    "wenzhong-3.5b": "3.556B",
    "erlangshen-1.3b": "1.26B",
    "zhouwenwang-110m": "110M",
    "zhouwenwang-1.3b": "1.3B",
    "t5-60m": "60,511,616",
    "randeng-77m": "77M",
    "randeng-770m": "770M",
}


def counts() -> str:
    """Parameters of the published sizes with their own vocabulary and context, as a Markdown table."""
    import torch
    import transformers

    from hanmo.models.families import AUTO, learns
    from hanmo.models.presets import build_config, preset

    lines = ["| preset | class | vocabulary | parameters | said |", "|" + " --- |" * 5]
    for name, said in SAID.items():
        shape = preset(name)
        with torch.device("meta"):
            auto = getattr(transformers, AUTO[learns(name)[0]])
            model = auto.from_config(build_config(name, shape.vocab, shape.context))
        count = sum(weight.numel() for weight in model.parameters())
        lines.append(f"| {name} | {type(model).__name__} | {shape.vocab:,} | {count:,} | {said} |")
    return "\n".join(lines)


def main() -> None:
    """Take what is missing, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/families"), help="a folder made by families.yaml")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="PRESET")
    parser.add_argument("--rounds", type=int, default=3, help="turns in which speed is measured")
    parser.add_argument("--table", action="store_true", help="only print what was found before")
    parser.add_argument("--count", action="store_true", help="only count the parameters of published sizes")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one)
        return
    if options.count:
        print(counts())
        return
    kept = json.loads(options.result.read_text(encoding="utf-8"))["families"] if options.result.is_file() else {}
    if options.table:
        print(table(kept))
        return
    from hanmo.child import versions

    def keep() -> None:
        whole = {"what": "a short real run of each family, one thread", "families": kept}
        text = json.dumps(whole | {"versions": versions()}, indent=1, ensure_ascii=False)
        options.result.write_text(text + "\n", encoding="utf-8")

    for name in options.only:
        if not (options.work / f"{RUNS[name][0]}-tokens" / "tokens.json").is_file():
            print(f"skipped: {name}: no {RUNS[name][0]}-tokens in {options.work}; the head of this file says how")
            continue
        take(name, options.work, options.rounds, kept.setdefault(name, {}), keep)
        print(name, json.dumps(kept[name]["ratio"]), file=sys.stderr)
    print(table(kept))


if __name__ == "__main__":
    main()
