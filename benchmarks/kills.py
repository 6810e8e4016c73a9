"""Runs that are killed at random moments and resumed, against one that is not: do they end with the same bits?

    python benchmarks/kills.py [--kills 20] [--processes 1]

Every trial runs the real command `hanmo pretrain` on a small model, sends SIGKILL at a drawn moment to the process that
trains or to the runner above it, runs the same command again to its end, and compares the saved model byte by byte with
that of an undisturbed run. A third of the kills fall while a checkpoint is being written, a third while rows are made
ready for the first step, the others at any time. With several processes one of them is killed, and the group starts
again by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from hanmo import api
from hanmo.child import machine, versions

RESULT = Path(__file__).parent / "results" / "kills.json"
MOMENTS = ("writing a checkpoint", "before the first step", "any time")
WORDS = ["春天", "花园", "小明", "老师", "学校", "下雨", "高兴", "苹果", "月亮", "故事", "山水", "朋友", "早上", "城市"]


def make_tokens(folder: Path) -> Path:
    """A tokens folder of half a megabyte of drawn words."""
    dice = random.Random(1)
    (folder / "raw").mkdir()
    with (folder / "raw" / "text.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(800):
            text = "".join(dice.choice(WORDS) + dice.choice("，。的和") for _ in range(80))
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    api.run_stage("corpus", out=folder / "text", inputs={"documents": folder / "raw"}, heldout_fraction=0.05)
    api.run_stage("tokenizer", out=folder / "tokenizer", inputs={"corpus": folder / "text"}, vocab_size=300)
    api.tokens(corpus=folder / "text", tokenizer=folder / "tokenizer", out=folder / "tokens")
    return folder / "tokens"


def command(tokens: Path, out: Path, options: argparse.Namespace) -> list[str]:
    """The command of every run."""
    settings = {
        "preset": "hanmo-1m",
        "context": 64,
        "batch-tokens": 512,
        "tokens": 512 * options.steps,
        "warmup-tokens": 1024,
        "precision": "fp32",
        "compile": "false",
        "device": "cpu",
        "threads": 1,
        "processes": options.processes,
        "parallel": options.parallel,
        "checkpoint-steps": 5,
        "eval-every": 0,
        "sample-prompts": "[]",
        "log-every": 1,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "hanmo", "pretrain", "--data", str(tokens), "--out", str(out), *words]


def weights(out: Path) -> bytes:
    """The saved model, byte by byte."""
    return (out / "model" / "model.safetensors").read_bytes()


def kill_once(words: list[str], out: Path, moment: str, dice: random.Random) -> tuple[str, int]:
    """Start the command, kill it at a moment; returns (who was killed, the steps logged by then)."""
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(words, stdout=told, stderr=told)
        log, checkpoints = out / "log.jsonl", out / "checkpoints"
        after = dice.randrange(3, 40)  # lines in the log
        pause = dice.random() * 0.5
        while process.poll() is None:
            lines = log.read_bytes().count(b"\n") if log.exists() else 0
            if moment == "before the first step" and (out / "stage.json").exists():
                time.sleep(2 + 4 * pause)
                break
            if moment == "writing a checkpoint" and lines >= after and list(checkpoints.glob(".step-*.tmp")):
                break
            if moment == "any time" and lines >= after:
                time.sleep(pause)
                break
            time.sleep(0.001)
        runner = psutil.Process(process.pid)
        below = {p.pid: " ".join(p.cmdline()) for p in runner.children(recursive=True)}
        trains = [pid for pid, line in below.items() if "hanmo.child" in line] or list(below)
        chosen = dice.choice(["what trains", "the runner"]) if trains else "the runner"
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(trains) if chosen == "what trains" else process.pid, signal.SIGKILL)
        process.wait()
    # What the runner leaves behind ends by itself when its pipe closes.
    psutil.wait_procs([psutil.Process(pid) for pid in below if psutil.pid_exists(pid)], timeout=30)
    return chosen, log.read_bytes().count(b"\n") if log.exists() else 0


def main() -> None:
    """Kill, resume, compare; print and save what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    trials = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = make_tokens(folder)
        subprocess.run(command(tokens, folder / "whole", options), check=True, capture_output=True)
        whole = weights(folder / "whole")
        for number in range(options.kills):
            out, moment = folder / f"run-{number}", MOMENTS[number % len(MOMENTS)]
            words = command(tokens, out, options)
            who, steps = kill_once(words, out, moment, dice)
            done = subprocess.run(words, capture_output=True, text=True)
            same = done.returncode == 0 and weights(out) == whole
            trials.append({"moment": moment, "killed": who, "steps": steps, "identical": same})
            print(trials[-1], *([] if done.returncode == 0 else [done.stderr[-500:]]), flush=True)
    found = {
        "identical": sum(trial["identical"] for trial in trials),
        "kills": len(trials),
        "by_moment": Counter(trial["moment"] for trial in trials),
        "processes": options.processes,
        "parallel": options.parallel,
        "trials": trials,
        "machine": machine(),
        "versions": versions(),
    }
    options.result.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{found['identical']} of {found['kills']} resumed runs end bit-identical")


if __name__ == "__main__":
    main()
