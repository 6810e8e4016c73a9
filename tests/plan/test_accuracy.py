"""The plan against measured runs (benchmarks/results/plan_accuracy.json) and published ones: within stated errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import plan_accuracy

#: What is promised: the largest error of a run that the constants were not fitted to.
MEMORY, SPEED = 0.15, 0.25


def test_measured_runs() -> None:
    from hanmo.plan.speed import CPU_PRICES

    last = json.loads(plan_accuracy.CHECKS.result.read_text(encoding="utf-8"))
    compared = plan_accuracy.compare(last["runs"], CPU_PRICES)
    checked = [item for item in compared if item["role"] == "check"]
    fitted = [item["run"] for item in compared if item["role"] == "fit"]
    assert len(checked) >= 5 and not any(item["run"] in fitted for item in checked)
    for item in compared:
        assert abs(item["error"].get("peak", 0)) < MEMORY, item
    for item in checked:
        assert abs(item["error"].get("tokens_per_second", 0)) < SPEED, item


def test_published_runs() -> None:
    llama, tiny = plan_accuracy.published()
    assert llama["parameters"] == 1_235_314_688
    assert abs(llama["plans"]["by the rules"]["error"]) < 0.1
    assert abs(llama["plans"]["at its own MFU"]["error"]) < 0.1
    assert abs(tiny["plans"]["at its own MFU"]["error"]) < 0.05, "its FLOPs and its own utilisation make its hours"
    assert -0.45 < tiny["plans"]["by the rules"]["error"] < 0, "a usual utilisation is faster than its poor one"
