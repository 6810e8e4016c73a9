"""What the benchmarks of the planner share: measuring every run in a process of its own, fitting prices, the result."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What is compared, by its name in "plan" and "error".
NAMES = ("peak", "tokens_per_second")


@dataclass(frozen=True)
class Check:
    """A benchmark of the planner.

    Attributes:
        script: its file; `script --one RUN ...` measures one run and prints it.
        what: a line about it.
        runs: by role; "fit" and "check" are among them.
        measure: does a run, and says what it took; it is given the run and the options.
        fit: prices from measured runs.
        compare: puts the "error" of each of NAMES beside the measured runs, by the prices given.
        prices: those in use.
        options: added to the parser, and passed on to the process of each run.
        more: further entries of the result.
    """

    script: Path
    what: str
    runs: dict[str, list[dict[str, Any]]]
    measure: Callable[[dict[str, Any], argparse.Namespace], dict[str, Any]]
    fit: Callable[[list[dict[str, Any]]], Any]
    compare: Callable[[list[dict[str, Any]], Any], list[dict[str, Any]]]
    prices: Callable[[], Any]
    options: dict[str, int]
    more: Callable[[], dict[str, Any]] = dict

    @property
    def result(self) -> Path:
        """The file of the result."""
        return self.script.parent / "results" / f"{self.script.stem}.json"

    def main(self, about: str) -> None:
        """Measure (or take the last measurements), fit, compare, write; `about` is the script's docstring."""
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        for name, value in self.options.items():
            parser.add_argument(f"--{name}", type=int, default=value)
        parser.add_argument("--again", action="store_true", help="take the runs of the last result that are there")
        parser.add_argument("--one", help=argparse.SUPPRESS)
        options = parser.parse_args()
        if options.one:
            print(json.dumps(self.measure(json.loads(options.one), options)))
            return
        self._write(self._measured(options, self._last() if options.again else []))

    def _last(self) -> list[dict[str, Any]]:
        last = json.loads(self.result.read_text(encoding="utf-8"))
        return [{name: item[name] for name in ("role", "run", "measured")} for item in last["runs"]]

    def _measured(self, options: argparse.Namespace, there: list[dict[str, Any]]) -> list[dict[str, Any]]:
        passed = [word for name in self.options for word in (f"--{name}", str(getattr(options, name)))]
        found = list(there)
        for role, many in self.runs.items():
            for run in many:
                if any(item["run"] == run for item in there):
                    continue
                command = [sys.executable, str(self.script), "--one", json.dumps(run), *passed]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ))
                found.append({"role": role, "run": run, "measured": json.loads(done.stdout.splitlines()[-1])})
                print(found[-1], file=sys.stderr)
        return found

    def _write(self, runs: list[dict[str, Any]]) -> None:
        from hanmo.child import machine, versions

        prices = self.fit([item for item in runs if item["role"] == "fit"])
        compared = self.compare(runs, self.prices())
        checked = [item["error"] for item in compared if item["role"] == "check"]
        errors = {name: [error[name] for error in checked if name in error] for name in NAMES}
        result = {
            "what": self.what,
            "fitted_prices": prices,
            "prices_in_use": self.prices(),
            "worst_error_of_checks": {name: max(many, key=abs) for name, many in errors.items()},
            "mean_error_of_checks": {name: statistics.fmean(map(abs, many)) for name, many in errors.items()},
            "runs": [{name: value for name, value in item.items() if name != "work"} for item in compared],
            **self.more(),
            "machine": machine(),
            "versions": versions(),
        }
        self.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for item in compared:
            print(item["role"], item["run"], {name: f"{value:+.0%}" for name, value in item["error"].items()})
        print(json.dumps({name: result[name] for name in ("fitted_prices", "prices_in_use", "worst_error_of_checks")}))


def fit_prices(work: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[float, ...]:
    """Prices of the kinds of work, none negative, with the smallest squares of relative errors of the seconds.

    Args:
        work: amounts of each kind, a row a run.
        seconds: times the rate of a matrix product, a number a run.
    """
    import numpy as np

    matrix = np.array(work) / np.array(seconds)[:, None]
    runs, kinds = matrix.shape
    best: tuple[float, np.ndarray] = (float("inf"), np.zeros(kinds))
    for taken in itertools.product((False, True), repeat=kinds):
        columns, prices = np.flatnonzero(taken), np.zeros(kinds)
        if len(columns):
            prices[columns] = np.linalg.lstsq(matrix[:, columns], np.ones(runs), rcond=None)[0]
        left = float(np.sum((matrix @ prices - 1) ** 2))
        if (prices >= 0).all() and left < best[0]:
            best = (left, prices)
    return tuple(float(f"{price:.4g}") for price in best[1])
