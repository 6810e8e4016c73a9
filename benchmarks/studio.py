"""The studio in a real browser: how soon a person sees 50 runs, and whether a log of 100,000 steps freezes the page.

    python benchmarks/studio.py [--runs 50] [--steps 100000] [--rounds 5]

The runs are made up in a temporary folder: ten stages each, as `recipes/demo.yaml` has them, three of them with logs of
2,000 lines. The server is `hanmo studio` in a process of its own, on loopback; every round starts a new server and a
browser with an empty profile, so nothing is cached. Timed, in the page's own clock from the navigation on: the first
paint with content, and the frame behind that in which all runs stand in the list. Of the long log: from the click to
the frame with the first curve, the longest stretch in which the page could not answer (tasks above 50 ms are counted by
the browser), the same for a zoom, and what the server takes for the first and for a later look. Medians of the rounds.
The result goes to benchmarks/results/studio.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from hanmo.child import machine, versions
from hanmo.doctor import find_chromium
from hanmo.files import write_json

RESULT = Path(__file__).parent / "results" / "studio.json"
STAGES = ("world", "corpus", "tokenizer", "tokens", "base", "sft", "dpo", "eval", "gguf", "report")
DOES = {"world": "microworld", "base": "pretrain", "gguf": "convert"}
LOGS = {"base": 2000, "sft": 2000, "dpo": 2000}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

#: Waits in the page for a condition and then for the frame that shows it; gives milliseconds since the navigation.
SEEN = """condition => new Promise(done => {
    const ready = new Function("return " + condition);
    const shown = () => requestAnimationFrame(() => setTimeout(() => done(performance.now())));
    const look = () => ready() ? shown() : setTimeout(look, 5);
    look();
})"""
#: Notes every stretch of more than 50 ms in which the page could not answer.
WATCH = """window.held = [];
new PerformanceObserver(list => { for (const one of list.getEntries()) held.push(one.duration); })
    .observe({type: 'longtask', buffered: true});"""


def main() -> None:
    parser = argparse.ArgumentParser(description="the studio's two figures")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        for number in range(given.runs):
            make_run(root / f"run-{number:03}")
        rounds = [opening(root, given.runs) for _ in range(given.rounds)]
        long = root / "run-000" / "base" / "log.jsonl"
        write_log(long, given.steps)
        curves = [drawing(root, given.steps) for _ in range(given.rounds)]
        size = long.stat().st_size
    result = {
        "machine": machine() | {"load average": round(os.getloadavg()[0], 1)},
        "versions": versions(),
        "runs": given.runs,
        "rounds": given.rounds,
        "opening, ms": middle(rounds),
        "steps": given.steps,
        "bytes of the log": size,
        "long log": middle(curves),
    }
    write_json(RESULT, result)
    print(json.dumps(result, indent=2))


def make_run(folder: Path) -> None:
    for number, stage in enumerate(STAGES):
        (folder / stage).mkdir(parents=True)
        counts = (
            {"parameters": 2_312_128, "tokens": 2_400_000, "loss": 1.9, "heldout_bpb": 0.3} if stage == "base" else {}
        )
        manifest = {
            "stage": stage,
            "do": DOES.get(stage, stage),
            "settings": {f"setting_{index}": index for index in range(60)},
            "inputs": {},
            "key": "0",
            "counts": counts,
            "seconds": 10.0 + number,
            "peak_memory_mb": 500.0,
            "started": f"2025-01-01T10:{number:02}:00+00:00",
            "versions": {"python": "3.11"},
            "machine": {"cpu": "one", "cores": 2, "system": "Linux"},
        }
        write_json(folder / stage / "manifest.json", manifest)
        if stage in LOGS:
            write_log(folder / stage / "log.jsonl", LOGS[stage])
    total = {"n": 550, "k": 500, "accuracy": 500 / 550, "low": 0.88, "high": 0.93, "chance": 0.12}
    held = {"bits_per_byte": 0.3, "low": 0.29, "high": 0.31, "characters_per_token": 1.5}
    model = {
        "name": "dpo",
        "kind": "chat",
        "parameters": 2_312_128,
        "heldout": held,
        "exams": {"world": {"total": total}},
    }
    exams = {"world": {"items": 550, "chance": 0.12, "baselines": {}}}
    write_json(folder / "eval" / "eval.json", {"exams": exams, "models": [model]})


def write_log(path: Path, steps: int) -> None:
    dice = random.Random(3)
    with path.open("w") as file:
        for step in range(1, steps + 1):
            noise = dice.random()
            line = {"step": step, "tokens": step * 65_536, "loss": 2 + 6 / math.sqrt(step) + 0.2 * noise}
            line |= {"bits_per_byte": 0.8 + 2 / math.sqrt(step), "gradient_norm": 1 + noise, "lr": 0.01, "mfu": 0.5}
            line |= {"seconds": step * 0.5, "tokens_per_second": 130_000 + 5000 * noise, "memory_mb": 900.0}
            file.write(json.dumps(line) + "\n")


@contextmanager
def server(root: Path) -> Iterator[str]:
    """A new `hanmo studio`; gives its URL."""
    command = [sys.executable, "-m", "hanmo", "studio", str(root), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        yield line.split(" is at ")[1].strip()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser() -> Iterator[Any]:
    """A page of a new browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        # The page forbids `new Function`, by which it is watched here.
        page = started.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True).new_page()
        page.add_init_script(WATCH)
        yield page
        started.close()


def opening(root: Path, runs: int) -> dict[str, float]:
    with server(root) as url, browser() as page:
        page.goto(url, wait_until="commit")
        seen = page.evaluate(SEEN, f"document.querySelectorAll('.runs a').length >= {runs}")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        page.reload(wait_until="commit")
        again = page.evaluate(SEEN, f"document.querySelectorAll('.runs a').length >= {runs}")
    return {"first paint": paint, "all runs seen": seen, "all runs seen, second visit": again}


def drawing(root: Path, steps: int) -> dict[str, float]:
    with server(root) as url:
        began = time.perf_counter()
        with urlopen(f"{url}/v1/studio/runs/run-000/base/curves?points=700") as answer:
            size = len(answer.read())
        first = time.perf_counter() - began
        began = time.perf_counter()
        with urlopen(f"{url}/v1/studio/runs/run-000/base/curves?points=700") as answer:
            answer.read()
        later = time.perf_counter() - began
    with server(root) as url, browser() as page:
        page.goto(url)
        page.wait_for_selector(".runs a")
        page.evaluate("held.length = 0")
        start = page.evaluate("() => { location.hash = '#/run/run-000/base'; return performance.now(); }")
        seen = page.evaluate(SEEN, "document.querySelectorAll('.chart').length >= 6")
        page.wait_for_timeout(300)
        held = page.evaluate("Math.max(0, ...held.splice(0))")
        page.focus(".chart canvas")
        zoomed = page.evaluate("performance.now()")
        page.keyboard.press("+")
        shown = page.evaluate(SEEN, "!document.querySelector('.controls button').hidden")
        page.wait_for_timeout(300)
        held_zoom = page.evaluate("Math.max(0, ...held.splice(0))")
    return {
        "server, first look, ms": 1000 * first,
        "server, later look, ms": 1000 * later,
        "bytes sent": size,
        "click to curves, ms": seen - start,
        "longest freeze, ms": held,
        "zoom to curves, ms": shown - zoomed,
        "longest freeze of a zoom, ms": held_zoom,
    }


def middle(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Median and range of each figure."""
    return {
        name: {
            "median": round(statistics.median(one[name] for one in rounds), 1),
            "from": round(min(one[name] for one in rounds), 1),
            "to": round(max(one[name] for one in rounds), 1),
        }
        for name in rounds[0]
    }


if __name__ == "__main__":
    main()
