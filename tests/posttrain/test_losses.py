"""Preference losses: TRL's figure is the formula's, each learns, and what goes wrong is said."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from hanmo.errors import HanmoError
from hanmo.posttrain import dpo, reward
from hanmo.posttrain.answers import warnings_of
from hanmo.posttrain.losses import held_out_loss
from hanmo.posttrain.settings import DpoSettings, RewardSettings
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import ChatFormat

from .conftest import pair

FIXED: dict[str, Any] = {"precision": "fp32", "threads": 1}
LOSSES = ("dpo", "ipo", "kto", "orpo", "simpo")
COUNT = 8


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "few.jsonl"
    path.write_text("".join(json.dumps(pair(i), ensure_ascii=False) + "\n" for i in range(COUNT)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "many.jsonl"
    path.write_text("".join(json.dumps(pair(i), ensure_ascii=False) + "\n" for i in range(50)), encoding="utf-8")
    return path


def sums(folder: Path, crossed: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """From plain logits: log-probabilities of the answers [pairs, 2], their lengths, and the mean over all tokens of
    prompt and chosen answer (ORPO's SFT part). Crossed: the answers are those of the next pair."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = ChatFormat(load(folder))
    values, lengths, whole, tokens = [], [], 0.0, 0
    for index in range(COUNT):
        prompt = chat.encode(pair(index)["prompt"], add_generation_prompt=True)[0]
        for side in ("chosen", "rejected"):
            other = pair((index + 1) % COUNT if crossed else index)
            ids, mask = chat.encode([*other["prompt"], *other[side]])
            answer = ids[mask.index(1) : len(mask) - mask[::-1].index(1)]
            row = prompt + answer
            with torch.no_grad():
                log_probs = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
            each = [float(log_probs[at - 1, row[at]]) for at in range(1, len(row))]
            values.append(sum(each[len(prompt) - 1 :]))
            lengths.append(len(answer))
            if side == "chosen":
                whole, tokens = whole + sum(each), tokens + len(each)
    return torch.tensor(values).view(-1, 2), torch.tensor(lengths).view(-1, 2), torch.tensor(whole / tokens)


def by_hand(loss: str, first: Path, start: Path) -> float:
    """The loss of the model in `first` with that in `start` as reference."""
    now, lengths, whole = sums(first)
    (chosen, rejected), (c0, r0) = now.T, sums(start)[0].T
    n, m = lengths.T
    if loss == "dpo":
        return float(-F.logsigmoid(0.1 * ((chosen - c0) - (rejected - r0))).mean())
    if loss == "ipo":
        return float((((chosen - c0) / n - (rejected - r0) / m - 1 / 0.2) ** 2).mean())
    if loss == "kto":
        z = (sums(first, True)[0] - sums(start, True)[0]).mean().clamp(min=0)
        better, worse = 1 - torch.sigmoid(0.1 * (chosen - c0 - z)), 1 - torch.sigmoid(0.1 * (z - rejected + r0))
        return float(torch.cat([better, worse]).mean())
    if loss == "orpo":
        odds = [math.log(math.exp(v) / (1 - math.exp(v))) for v in torch.cat([chosen / n, rejected / m]).tolist()]
        ratio = torch.tensor(odds).view(2, -1)
        return float(-whole - 0.1 * F.logsigmoid(ratio[0] - ratio[1]).mean())
    return float(-F.logsigmoid(2.0 * (chosen / n - rejected / m) - 1.0).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_the_second_steps_loss_is_the_formulas(loss: str, tiny_model_dir: Path, few: Path, tmp_path: Path) -> None:
    options = DpoSettings(
        **FIXED, loss=loss, epochs=2, batch_size=COUNT, learning_rate=5e-4, warmup=0.0, validation=0.0, log_every=1
    )
    inputs = {"model": [tiny_model_dir], "pairs": [few]}
    dpo.run(options, inputs, tmp_path / "two")
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    # With one epoch the rate falls to 0 behind the first step, which is the same first step.
    dpo.run(options.model_copy(update={"epochs": 1}), inputs, tmp_path / "one")
    assert lines[0]["loss"] == pytest.approx(by_hand(loss, tiny_model_dir, tiny_model_dir), rel=2e-3)
    assert lines[1]["loss"] == pytest.approx(by_hand(loss, tmp_path / "one" / "model", tiny_model_dir), rel=2e-3)
    assert lines[1]["loss"] < lines[0]["loss"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "one" / "model").generation_config.eos_token_id == [2, 0]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_held_out_loss_is_the_formulas(loss: str, tiny_model_dir: Path) -> None:
    now, lengths, _ = sums(tiny_model_dir)
    reference = now - torch.linspace(-3, 3, now.numel()).view(-1, 2)
    found = held_out_loss(now, reference, lengths, DpoSettings(loss=loss))
    (c, r), (c0, r0), (n, m) = now[0].tolist(), reference[0].tolist(), lengths[0].tolist()

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    odds = [math.exp(v) / (1 - math.exp(v)) for v in (c / n, r / m)]
    expected = {
        "dpo": -math.log(sigmoid(0.1 * (c - c0 - r + r0))),
        "ipo": ((c - c0) / n - (r - r0) / m - 5) ** 2,
        "kto": 0.5 * (1 - sigmoid(0.1 * (c - c0))) + 0.5 * (1 - sigmoid(-0.1 * (r - r0))),
        "orpo": -c / n - 0.1 * math.log(sigmoid(math.log(odds[0] / odds[1]))),
        "simpo": -math.log(sigmoid(2 * (c / n - r / m) - 1)),
    }
    assert float(found[0]) == pytest.approx(expected[loss], rel=1e-4)


@pytest.mark.parametrize("loss", ["ipo", "kto", "orpo", "simpo"])
def test_each_learns_to_prefer(loss: str, tiny_model_dir: Path, many: Path, tmp_path: Path) -> None:
    options = DpoSettings(
        **FIXED, loss=loss, epochs=2, batch_size=8, learning_rate=1e-3, validation=0.2, answers=2, answer_tokens=8
    )
    out = tmp_path / "out"
    counts = dpo.run(options, {"model": [tiny_model_dir], "pairs": [many]}, out)
    found = json.loads((out / "aligned.json").read_text(encoding="utf-8"))
    assert counts["validation_accuracy_after"] > 0.9 and found["accuracy"]["low"] > 0.5
    assert found["margin"]["low"] > 0 and found["loss"] == loss
    assert found["after"]["validation_loss"] < found["before"]["validation_loss"]
    assert not any("nothing was learnt" in line for line in counts["warnings"])


def singles(path: Path, labels: Sequence[bool]) -> Path:
    """One answer of each pair with its label."""
    records = [
        {"prompt": pair(index)["prompt"], "completion": pair(index)["chosen" if label else "rejected"], "label": label}
        for index, label in enumerate(labels)
    ]
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    return path


def test_ktos_loss_on_single_answers_is_the_formulas(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Three good answers for every bad one: bad ones weigh three times as much."""
    labels = [index % 4 != 3 for index in range(COUNT)]
    path = singles(tmp_path / "single.jsonl", labels)
    options = DpoSettings(
        **FIXED, loss="kto", epochs=2, batch_size=COUNT, learning_rate=5e-4, warmup=0.0, validation=0.0, log_every=1
    )
    inputs = {"model": [tiny_model_dir], "pairs": [path]}
    counts = dpo.run(options, inputs, tmp_path / "two")
    assert counts["records"] == COUNT and counts["steps"] == 2
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    dpo.run(options.model_copy(update={"epochs": 1}), inputs, tmp_path / "one")
    good = torch.tensor(labels)
    for line, folder in zip(lines, (tiny_model_dir, tmp_path / "one" / "model"), strict=True):
        now, start = (torch.where(good, *sums(at)[0].T) for at in (folder, tiny_model_dir))
        crossed = [mixed(at, good) for at in (folder, tiny_model_dir)]
        z = (crossed[0] - crossed[1]).mean().clamp(min=0)
        moved = 0.1 * (now - start - z)
        losses = torch.where(good, 1 - torch.sigmoid(moved), 3 * (1 - torch.sigmoid(-moved)))
        assert line["loss"] == pytest.approx(float(losses.mean()), rel=2e-3)
    assert lines[1]["loss"] < lines[0]["loss"]


def mixed(folder: Path, good: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next record's answer behind each prompt, [answers]."""
    return torch.where(good.roll(-1), *sums(folder, True)[0].T)


def test_kto_learns_of_single_answers(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = singles(tmp_path / "single.jsonl", [index % 3 > 0 for index in range(60)])
    options = DpoSettings(
        **FIXED, loss="kto", epochs=2, batch_size=8, learning_rate=1e-3, validation=0.25, answers=2, answer_tokens=8
    )
    out = tmp_path / "out"
    counts = dpo.run(options, {"model": [tiny_model_dir], "pairs": [path]}, out)
    found = json.loads((out / "aligned.json").read_text(encoding="utf-8"))
    assert found["single"] and found["n"] == counts["validation_records"] == 15
    assert counts["validation_accuracy_before"] == 0.5 and counts["validation_margin_before"] == 0
    assert counts["validation_accuracy_after"] > 0.9 and found["margin"]["low"] > 0
    assert found["after"]["validation_loss"] < found["before"]["validation_loss"] == pytest.approx(0.5, abs=1e-4)
    told = json.loads((out / "records.json").read_text(encoding="utf-8"))
    assert told["train"]["chosen"] + told["train"]["rejected"] == 45
    for bad, words in (({"micro_batch": 1}, "needs two answers in it; set micro_batch: 2"), ({"loss": "dpo"}, "kto")):
        with pytest.raises(HanmoError, match=words):
            dpo.run(options.model_copy(update=bad), {"model": [tiny_model_dir], "pairs": [path]}, tmp_path / "bad")
    singles(path, [True] * 60)
    with pytest.raises(HanmoError, match="answers to train on are labelled true: nothing tells good from bad"):
        dpo.run(options, {"model": [tiny_model_dir], "pairs": [path]}, tmp_path / "bad")
    with pytest.raises(HanmoError, match="is of a single answer"):
        reward.run(RewardSettings(**FIXED), {"model": [tiny_model_dir], "pairs": [path]}, tmp_path / "bad")


def test_answers_before_and_behind_are_compared_by_a_reward_model(
    tiny_model_dir: Path, many: Path, tmp_path: Path
) -> None:
    inputs = {"model": [tiny_model_dir], "pairs": [many]}
    reward.run(RewardSettings(**FIXED, batch_size=8, learning_rate=1e-3, validation=0.1), inputs, tmp_path / "judge")
    options = DpoSettings(**FIXED, epochs=2, batch_size=8, learning_rate=1e-3, validation=0.2, answers=6)
    options = options.model_copy(update={"answer_tokens": 12})
    counts = dpo.run(options, inputs | {"reward": [tmp_path / "judge"]}, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "aligned.json").read_text(encoding="utf-8"))
    assert found["lengths"]["n"] == found["win_rate"]["n"] == 6
    assert 0 <= found["win_rate"]["low"] <= found["win_rate"]["mean"] == counts["win_rate"] <= 1
    assert found["win_rate"]["after"] != found["win_rate"]["before"]
    # What is drawn from the tuned model is likelier under it than under the reference.
    assert found["kl"]["mean"] > 0 and found["kl"]["per_token"] == pytest.approx(found["kl"]["mean"] / 12, rel=0.2)
    assert {"prompt", "before", "after", "rewards"} == found["shown"][0].keys()


def test_warnings_of_lengths_and_of_distance() -> None:
    lengths = {"before": 10.0, "after": 40.0, "cut": 0.5, "difference": {"mean": 30.0, "low": 20.0, "high": 40.0}}
    lines = warnings_of({"lengths": lengths, "kl": {"mean": 50.0, "low": 40.0, "high": 60.0}})
    assert len(lines) == 3 and "length is what was learnt" in lines[0]
    calm = {"before": 10.0, "after": 9.0, "cut": 0.0, "difference": {"mean": -1.0, "low": -2.0, "high": 0.0}}
    assert warnings_of({"lengths": calm, "kl": {"mean": 3.0, "low": 2.0, "high": 4.0}}) == [] == warnings_of({})


def test_settings_that_do_not_go_together(tiny_model_dir: Path, few: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sft_weight: loss orpo has an SFT loss of its own"):
        DpoSettings(loss="orpo", sft_weight=0.1)
    with pytest.raises(HanmoError, match="not a reward model"):
        options = DpoSettings(**FIXED, validation=0.5, answers=1, answer_tokens=2)
        inputs = {"model": [tiny_model_dir], "pairs": [few], "reward": [tiny_model_dir]}
        dpo.run(options, inputs, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()
