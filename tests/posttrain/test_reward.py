"""Reward models: the loss is Bradley and Terry's, the folder loads anywhere, the calibration is what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from hanmo.errors import HanmoError
from hanmo.posttrain import reward
from hanmo.posttrain.calibration import calibration, mean_interval
from hanmo.posttrain.encode import PairExample
from hanmo.posttrain.reward import RewardModel, judged, warnings_of
from hanmo.posttrain.settings import RewardSettings
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import ChatFormat

from .conftest import pair

FIXED: dict[str, Any] = {"precision": "fp32", "threads": 1}


@pytest.fixture(scope="module")
def made(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A reward model that likes polite answers, and the counts of its training."""
    folder = tmp_path_factory.mktemp("reward")
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair(i), ensure_ascii=False) + "\n" for i in range(80)), encoding="utf-8")
    options = RewardSettings(**FIXED, epochs=2, batch_size=8, learning_rate=1e-3, validation=0.25, log_every=1)
    return folder / "out", reward.run(options, {"model": [tiny_model_dir], "pairs": [path]}, folder / "out")


def test_it_learns_what_the_pairs_prefer(made: tuple[Path, dict[str, Any]]) -> None:
    out, counts = made
    assert (counts["records"], counts["validation_records"]) == (60, 20)
    assert counts["first_loss"] > 0.3 and counts["last_loss"] < counts["first_loss"]
    assert counts["validation_accuracy"] > 0.9 and counts["validation_low"] > 0.5
    found = json.loads((out / "aligned.json").read_text(encoding="utf-8"))
    assert found["kind"] == "reward" and found["n"] == 20
    assert sum(part["n"] for part in found["bins"]) == 20 == sum(p["n"] for p in found["by_length"].values())
    assert {"prompt", "chosen", "rejected", "rewards"} == found["shown"][0].keys()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any("validation_ece" in line for line in lines) and any("margin" in line for line in lines)


def test_the_folder_loads_in_transformers_and_scores_the_same(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    model = AutoModelForSequenceClassification.from_pretrained(out / "model")
    assert type(model).__name__ == "Qwen3ForSequenceClassification" and model.config.num_labels == 1
    assert "hanmo" not in (out / "model" / "config.json").read_text(encoding="utf-8")
    chat = ChatFormat(load(out / "model"))
    prompts = [[{"role": "user", "content": "小猫在哪里？"}], [{"role": "user", "content": "小红在哪里？第三次"}]]
    answers = ["小猫在公园。很高兴。", "我不看。"]
    scores = RewardModel(out, torch.device("cpu")).score(prompts, answers)
    for prompt, answer, score in zip(prompts, answers, scores, strict=True):
        ids, mask = chat.encode([*prompt, {"role": "assistant", "content": answer}])
        ids = ids[: len(mask) - mask[::-1].index(1)]
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([ids])).logits
        assert score == pytest.approx(float(alone), abs=1e-4)
    assert scores[0] > scores[1]


def test_the_loss_is_bradley_and_terrys(tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    """The first step's loss by hand, from the same random head."""
    records = [pair(index) for index in range(6)]
    options = RewardSettings(**FIXED, batch_size=6, validation=0.0, center=0.5, seed=3)
    counts = reward.run(options, {"model": [tiny_model_dir], "pairs": [jsonl(records)]}, tmp_path / "out")
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = 0
    chat = ChatFormat(load(tiny_model_dir))
    scores = []
    for record in records:
        for side in ("chosen", "rejected"):
            ids, mask = chat.encode([*record["prompt"], *record[side]])
            with torch.no_grad():
                ids = ids[: len(mask) - mask[::-1].index(1)]
                scores.append(model(input_ids=torch.tensor([ids])).logits[0, 0])
    chosen, rejected = torch.stack(scores).view(-1, 2).T
    loss = -F.logsigmoid(chosen - rejected).mean() + 0.5 * ((chosen + rejected) ** 2).mean()
    assert counts["first_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert not (tmp_path / "out" / "aligned.json").exists()


def test_calibration_by_hand() -> None:
    """Two bins: confidence 0.88 in three picks of which two are right, confidence 0.5 in a tie."""
    found = calibration([2.0, 2.0, -2.0, 0.0])
    sure = 1 / (1 + math.exp(-2))
    assert found["accuracy"] == pytest.approx((2 + 0.5) / 4)
    assert [part["n"] for part in found["bins"]] == [1, 3]
    assert found["bins"][1]["accuracy"] == pytest.approx(2 / 3)
    assert found["ece"] == pytest.approx((3 * (sure - 2 / 3) + 0.0) / 4)
    expected = (2 * math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2)) + math.log(2)) / 4
    assert found["loss"] == pytest.approx(expected)
    assert found["low"] < found["accuracy"] < found["high"] and found["ece_low"] <= found["ece_high"]


def test_a_calibrated_judge_has_a_small_error_and_an_overconfident_one_a_large() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 4000)
    signs = np.where(rng.random(4000) < 1 / (1 + np.exp(-np.abs(margins))), 1, -1)
    true = np.abs(margins) * signs
    assert calibration(true.tolist(), resamples=10)["ece"] < 0.02
    assert calibration((true * 5).tolist(), resamples=10)["ece"] > 0.1


def test_it_says_when_a_model_only_measures_length() -> None:
    pairs = [PairExample([1], [1] * (2 + index % 5), [1] * (4 + index % 3)) for index in range(60)]
    lengths = torch.tensor([[len(one.chosen_ids), len(one.rejected_ids)] for one in pairs]).float()
    found = judged(lengths * 0.5, pairs)
    assert found["length_correlation"] == pytest.approx(1.0)
    assert found["by_length"]["chosen shorter"]["accuracy"] == 0.0
    lines = warnings_of(found)
    assert any("rewards follow the length" in line for line in lines)
    assert any("no better than a coin" in line for line in lines)


def test_the_bootstrap_of_a_mean() -> None:
    found = mean_interval([0.0, 1.0] * 200)
    assert found["mean"] == 0.5
    assert found["low"] == pytest.approx(0.5 - 1.96 * 0.025, abs=0.01) and found["high"] > 0.53


def test_errors(tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="not a reward model"):
        RewardModel(tiny_model_dir, torch.device("cpu"))
    bad = jsonl([pair(0), {"prompt": "你好", "chosen": "好"}])
    inputs = {"model": [tiny_model_dir], "pairs": [bad]}
    with pytest.raises(HanmoError, match=r"records\.jsonl:2: .*rejected"):
        reward.run(RewardSettings(**FIXED), inputs, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()
