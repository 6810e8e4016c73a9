"""Reward models, preferences and rewards on the report's page: figures that the stages' own code makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fabricate import NASTY, fabricate
from hanmo.evaluate.collect import collect
from hanmo.evaluate.report import render
from hanmo.evaluate.settings import ReportSettings
from hanmo.posttrain.calibration import mean_interval
from hanmo.posttrain.encode import PairExample
from hanmo.posttrain.reward import judged


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> str:
    folder = tmp_path_factory.mktemp("aligned")
    found = fabricate(folder, tiny_tokenizer_dir)
    pairs = [PairExample([1], [1] * (3 + index % 4), [1] * (5 - index % 3)) for index in range(40)]
    rewards = torch.stack([torch.linspace(-0.5, 2, 40), torch.zeros(40)], 1)
    shown = [{"prompt": NASTY, "chosen": "好", "rejected": "", "rewards": [0.5, -1.25]}]
    preference = {
        "kind": "preference",
        "loss": "kto",
        "n": 40,
        "margin": mean_interval([0.5, 1.5] * 20),
        "accuracy": {"mean": 0.8, "low": 0.652, "high": 0.895},
        "tokens": {"chosen": 21.5, "rejected": 23.1},
        "lengths": {"before": 20.0, "after": 31.4, "cut": 0.05, "difference": mean_interval([10.0, 12.8])},
        "kl": mean_interval([3.0, 4.0]) | {"per_token": 0.111},
        "win_rate": mean_interval([1.0, 0.5, 1.0, 0.0]) | {"n": 4, "before": 0.1, "after": 0.4},
        "shown": [{"prompt": "你好", "before": "旧答", "after": "新答"}],
    }
    side = {"parts": {"exact": 0.5}, "tokens": 12.0, "cut": 0.0}
    rl = {
        "kind": "rl",
        "method": "rloo",
        "n": 200,
        "before": side | {"reward": 0.512},
        "after": side | {"reward": 0.733},
        "difference": {"mean": 0.221, "low": 0.15, "high": 0.29},
        "shown": [{"prompt": "几月？", "reference": "三月", "before": "二月", "after": "三月", "rewards": [0.0, 1.0]}],
    }
    reward = {"kind": "reward", "accuracy_before": 0.5, **judged(rewards, pairs), "shown": shown}
    for name, do, value in (("judge", "reward", reward), ("kto", "dpo", preference), ("grpo", "grpo", rl)):
        shutil.copytree(folder / "dpo", folder / name)
        manifest = json.loads((folder / name / "manifest.json").read_text(encoding="utf-8"))
        (folder / name / "manifest.json").write_text(json.dumps(manifest | {"stage": name, "do": do}))
        (folder / name / "aligned.json").write_text(json.dumps(value), encoding="utf-8")
    report = collect(folder, [found], ReportSettings(), folder / "report")
    assert list(report["aligned"]) == ["judge", "kto", "grpo"]
    (folder / "report").mkdir()
    return render(report | {"made": "2025-03-05", "version": "0"}, ReportSettings())


def test_figures_stand_there_with_their_intervals(page: str) -> None:
    section = page[page.index('<section id="aligned">') :]
    section = section[: section.index("</section>")]
    for text in ("of 40 held-out pairs ranked right [65.2%, 89.5%]", "80.0%", "21.5", "20.0 before", "0.111 per token"):
        assert text in section, text
    assert "of 4 answers win against the start" in section
    assert "<b>0.733</b>" in section and "0.512 before; +0.2210 [+0.1500, +0.2900]" in section
    assert "rloo" in section and "kto" in section and "三月" in section and "+1.0000" in section
    assert "留出偏好对排序正确" in section and "校准误差" in section
    assert "<script>alert" not in section and "&lt;script&gt;" in section


def test_a_run_without_such_stages_has_no_section(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    found = fabricate(tmp_path, tiny_tokenizer_dir)
    report = collect(tmp_path, [found], ReportSettings(), tmp_path / "report")
    assert report["aligned"] == {}
    assert 'id="aligned"' not in render(report | {"made": "2025-03-05", "version": "0"}, ReportSettings())
