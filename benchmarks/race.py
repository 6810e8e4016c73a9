"""Quality per second: bits per byte of held-out text against seconds of training, ours and its peers' on the same text.

    HANMO_DATA=/path/to/data hanmo run benchmarks/race.yaml --out runs/race/data
    python benchmarks/race.py --data runs/race/data --work runs/race/work --cores 0-3 \
        --minimind PATH --nanochat PATH [--minutes 10] [--sweep-seconds 60]

Every runner is a process of its own, one after the other on the same cores, with models of about the same number of
parameters. A peer is timed for some steps, then trained briefly at each of five learning rates, and then for the whole
time at the best of them, with its own schedule ending when the time does. Ours has one fixed recipe and no sweep; its
runs end after several budgets, and each end is a point of its curve. How text is scored: `peers/clock.py`; which text
each runner gets: `peers/text.py`. The clock stands still while text is scored. Compiling and warming up are in
`seconds_with_startup` and not in `seconds`.

Each finished run is kept in the work folder, so that the same command goes on where it was cut off; the result is
written anew after each of them, from what there is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import yaml

import hanmo
from hanmo.child import machine, versions
from hanmo.files import fingerprint_json
from peers.clock import STARTUP, curve, step_seconds
from peers.cores import settle
from peers.draw import draw
from peers.job import SIZES, Job
from peers.runners import RUNNERS, absent, perform
from peers.runners import main as run_job
from peers.text import prepare

#: Our recipe, where it differs from the defaults of `hanmo pretrain`. (Steps are rows x context tokens for everyone.)
RECIPE: dict[str, Any] = {"start": "bigram", "decay_fraction": 0.8}
#: Our shape by size where it is not the Trainer's preset. In minutes, two wide layers learn more than many; with a head
#: of its own that is 12.6M parameters.
OURS: dict[str, dict[str, Any]] = {
    "16m": {"preset": "hanmo-8m", "shape": {"hidden": 448, "ffn": 1344, "layers": 2, "heads": 7, "kv_heads": 7}}
}
RESULTS = Path(__file__).parent / "results"
#: Ends of our runs, as parts of the whole time: where the peers' figures are to be reached. 0 is our shortest run.
ENDS = {"cpu": (0, 1 / 30, 1 / 6, 0.25, 0.5, 0.9), "cuda": (0.1, 1 / 3, 0.6, 0.9, 1.15)}
#: Looks at held-out text in a peer's run.
LOOKS = 6
#: The lab script needs no more than this part of the time to get where it is measured.
LAB = 0.5
#: Steps of our shortest run: hardly more than the fit of its start, and one that compiles nothing.
FIRST = STARTUP + 1
#: Steps of the run that tells how long a step takes.
PROBE = 12
#: What the lab script was first seen to reach, after 257 seconds, on four cores and other pages of the same sources.
LAB_BITS = 2.46
#: The largest ratio of our time to the peer's that we aim at.
AIMS = {
    "cpu": {"minimind": 1 / 30, "run_clm": 1 / 6, "run_clm-bf16-compile": 1 / 2, "nanochat": 0.9, "lab": 0.6},
    "cuda": {"minimind": 1 / 3, "nanochat": 1.15},
}


class Race:
    """The runs of one benchmark, each done once."""

    def __init__(self, options: argparse.Namespace, text: dict[str, Any]) -> None:
        self.options = options
        self.work = Path(options.work).resolve()
        # Runs on other text, or of another state of our engine, are other runs.
        self.runs = self.work / f"runs-{fingerprint_json(text)[:8]}"
        self.runs.mkdir(parents=True, exist_ok=True)
        source = Path(hanmo.__file__).parent
        files = sorted(path for room in ("pretrain", "models", "tokens") for path in (source / room).rglob("*.py"))
        self.engine = fingerprint_json([path.read_text(encoding="utf-8") for path in files])[:8]
        self.ends = [float(part) for part in options.ends.split(",")] if options.ends else ENDS[kind(options.device)]
        given = (item.partition("=") for item in options.set)
        self.recipe = RECIPE | OURS.get(options.size, {}) | {key: yaml.safe_load(value) for key, _, value in given}
        self.result: dict[str, Any] = {}

    def record(self, name: str, steps: int, rate: float, every: float) -> dict[str, Any]:
        """The record of a run: from the work folder where it is there, else by running it."""
        options = self.options
        job = Job(
            name,
            options.size,
            steps,
            rate,
            every,
            str(Path(options.data).resolve()),
            str(self.work),
            options.device,
            options.rows,
            options.context,
            {"minimind": options.minimind, "nanochat": options.nanochat}.get(name),
            self.recipe if name == "hanmo" else {},
        )
        kept = self.runs / f"{job.key}{f'-{self.engine}' if name == 'hanmo' else ''}.json"
        if kept.is_file():
            return json.loads(kept.read_text(encoding="utf-8"))
        began = time.perf_counter()
        # Only runs whose start-up is reported must pay for it in full.
        counts = name == "hanmo" or every > 0
        record = perform(job, __file__, None if counts and every >= 0 else self.work / "compiled")
        torn = kept.with_suffix(".tmp")
        torn.write_text(json.dumps(record), encoding="utf-8")
        torn.replace(kept)
        bits = f", {record['points'][-1][1]:.4f} bits per byte" if record["points"] else ""
        print(
            f"{name}: {steps} steps at {rate:g} in {sum(record['seconds']):.0f} s of training{bits} "
            f"({time.perf_counter() - began:.0f} s in all)",
            file=sys.stderr,
        )
        return record

    def step(self, name: str) -> float:
        """Seconds of a step."""
        return step_seconds(self.record(name, PROBE, RUNNERS[name].rates[0], -1)["seconds"])

    def sweep(self, name: str) -> dict[float, float]:
        """Bits per byte by learning rate, after a short training at each whose schedule ends with it."""
        steps = max(PROBE, round(self.options.sweep_seconds / self.step(name)))
        return {rate: self.record(name, steps, rate, 0)["points"][-1][1] for rate in RUNNERS[name].rates}

    def run(self, name: str) -> dict[str, Any]:
        """All runs of one runner: {records}, and {rate, sweep} where rates were tried."""
        seconds, step = self.options.minutes * 60, self.step(name)

        def steps(wanted: float) -> int:
            return max(PROBE, round(wanted / step))

        if name == "hanmo":
            counts = [steps(seconds * part) if part else FIRST for part in self.ends]
            return {"records": [self.record(name, count, 1.0, 0) for count in counts]}
        if name == "lab":
            return {"records": [self.record(name, steps(seconds * LAB), 1.0, seconds * LAB / 10)]}
        tried = self.sweep(RUNNERS[name].like or name)
        # A rate that diverged has no number to compare.
        best = min(tried, key=lambda rate: tried[rate] if math.isfinite(tried[rate]) else math.inf)
        record = self.record(name, steps(seconds), best, seconds / LOOKS)
        return {"records": [record], "rate": best, "sweep": {f"{rate:g}": round(b, 4) for rate, b in tried.items()}}

    def note(self, name: str, found: dict[str, Any]) -> None:
        """Put a runner's figures into the result."""
        records = found.pop("records")
        last = records[-1]
        self.result["runners"][name] = {
            "parameters": last["parameters"],
            "dtype": last["dtype"],
            "tokens_per_second": round(last["job"]["tokens_per_step"] / step_seconds(last["seconds"]), 1),
            "heldout_bytes_per_token": round(last["heldout_bytes_per_token"], 3),
            **({"commit": last["commit"]} if "commit" in last else {}),
            **({"settings": last["settings"]} if "settings" in last else {}),
            **({"real_targets": round(sum(last["targets"]) / len(last["targets"]))} if "targets" in last else {}),
            **found,
            "curve": sorted((p for r in records for p in curve(r)), key=lambda point: point["seconds"]),
        }


def reach(points: list[dict[str, float]], bits: float, clock: str) -> float | None:
    """Seconds at which a curve comes down to `bits`, straight between its points; None where it does not.

    A curve that begins below says its first point, which is later than the moment asked for.
    """
    before = None
    for point in points:
        if point["bits_per_byte"] <= bits:
            if before is None:
                return point[clock]
            drop = before["bits_per_byte"] - point["bits_per_byte"]
            share = (before["bits_per_byte"] - bits) / drop if drop > 0 else 1.0
            return before[clock] + share * (point[clock] - before[clock])
        before = point
    return None


def kind(device: str) -> str:
    """The device's key in `ENDS` and `AIMS`."""
    return "cuda" if device.startswith("cuda") else "cpu"


def compare(runners: dict[str, Any], aims: dict[str, float]) -> dict[str, Any]:
    """Of each peer: where it ends, when ours is there, and the ratio, with and without start-up."""
    found = {}
    if "hanmo" not in runners:
        return found
    ours = runners["hanmo"]["curve"]
    for name, facts in runners.items():
        if name == "hanmo" or not facts["curve"]:
            continue
        end = facts["curve"][-1]
        bits = end["bits_per_byte"]
        row: dict[str, Any] = {"bits_per_byte": bits, "aim": round(aims[name], 4) if name in aims else None}
        for clock in ("seconds", "seconds_with_startup"):
            when = reach(ours, bits, clock)
            row[clock] = {
                "peer": end[clock],
                "ours": None if when is None else round(when, 1),
                "ratio": None if when is None else round(when / end[clock], 4),
            }
        if name == "lab" and (theirs := reach(facts["curve"], LAB_BITS, "seconds")):
            when = reach(ours, LAB_BITS, "seconds")
            row["to_2.46"] = {"peer": round(theirs, 1), "ours": when, "ratio": when and round(when / theirs, 4)}
        found[name] = row
    return found


def table(ratios: dict[str, Any]) -> str:
    """The comparison for people."""
    lines = [
        "| peer | its bits per byte | its seconds | ours to the same | ratio | aim | with start-up |",
        "|" + "---|" * 7,
    ]
    for name, row in ratios.items():
        plain, whole = row["seconds"], row["seconds_with_startup"]
        lines.append(
            f"| {name} | {row['bits_per_byte']:.3f} | {plain['peer']:.0f} | {plain['ours']} | {plain['ratio']} "
            f"| {row['aim']} | {whole['ratio']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Take the runs that are missing and write the result."""
    if sys.argv[1:2] == ["--job"]:
        run_job(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="runs/race/data", help="a folder made by benchmarks/race.yaml")
    parser.add_argument("--work", default="runs/race/work", help="keeps finished runs")
    parser.add_argument("--minimind", help="a checkout of jingyaogong/minimind")
    parser.add_argument("--nanochat", help="a checkout of karpathy/nanochat")
    parser.add_argument("--runners", default=",".join(RUNNERS), help="which, in which order")
    parser.add_argument("--size", choices=SIZES, default="16m")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each peer")
    parser.add_argument("--sweep-seconds", type=float, default=60.0, help="training time at each learning rate")
    parser.add_argument("--ends", help="of our runs, as parts of the minutes, e.g. 0.1,0.5,1")
    parser.add_argument("--heldout-kb", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cores", help="e.g. 0-3; all of the process where not given")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of our recipe")
    parser.add_argument("--result", type=Path, default=RESULTS / "race.json", help="the picture is beside it")
    options = parser.parse_args()
    if unknown := set(options.runners.split(",")) - set(RUNNERS):
        parser.error(f"--runners: {min(unknown)} is none of {', '.join(RUNNERS)}")
    if not (Path(options.data) / "tokens" / "tokens.json").is_file():
        print(f"skipped: no text in {options.data}; make it by `hanmo run benchmarks/race.yaml --out {options.data}`")
        return
    used = settle(options.cores)
    text = prepare(Path(options.data), options.context, options.heldout_kb)
    race = Race(options, text)
    race.result = {
        "what": "bits per byte of held-out text against seconds of training",
        "settings": {
            name: getattr(options, name)
            for name in ("size", "minutes", "sweep_seconds", "device", "rows", "context", "heldout_kb")
        }
        | {"cores": used, "recipe": race.recipe},
        "text": {name: text[name] for name in ("pieces", "heldout_documents", "heldout_bytes")},
        "runners": {},
        "skipped": {},
        "machine": machine(),
        "versions": versions(),
    }
    for name in options.runners.split(","):
        if why := absent(name, {"minimind": options.minimind, "nanochat": options.nanochat}.get(name)):
            race.result["skipped"][name] = why
            print(f"{name}: skipped ({why})", file=sys.stderr)
        else:
            try:
                race.note(name, race.run(name))
            except RuntimeError as error:
                race.result["skipped"][name] = str(error).splitlines()[0]
                print(f"{name}: failed\n{error}", file=sys.stderr)
        race.result["ratios"] = compare(race.result["runners"], AIMS[kind(options.device)])
        options.result.parent.mkdir(parents=True, exist_ok=True)
        options.result.write_text(json.dumps(race.result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        options.result.with_suffix(".svg").write_text(draw(race.result["runners"]), encoding="utf-8")
    print(table(race.result["ratios"]))


if __name__ == "__main__":
    main()
