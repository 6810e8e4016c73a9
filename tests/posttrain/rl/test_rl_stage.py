"""The stage: it earns more, says what it wrote, keeps near the start, and refuses what cannot work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hanmo.errors import HanmoError
from hanmo.posttrain import reward, training
from hanmo.posttrain.rl import stage
from hanmo.posttrain.rl.rollouts import answers_of
from hanmo.posttrain.settings import RewardSettings, RlSettings

from ..conftest import NAMES, PLACES, pair

FIXED: dict[str, Any] = {"precision": "fp32", "threads": 1}


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rl") / "dialogues.jsonl"
    rows = [{"question": f"{NAMES[i % 10]}在哪里？第{i}次", "answer": f"{PLACES[i % 6]}"} for i in range(40)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def options(**given: Any) -> RlSettings:
    """Short answers are rewarded: even a random model writes some that are shorter than others."""
    base = {**FIXED, "rewards": {"length": 1.0}, "characters": [1, 4], "steps": 12, "prompts": 4, "generations": 4}
    base |= {"answer_tokens": 16, "learning_rate": 3e-3, "validation": 0.2, "log_every": 1, "evaluations": 1}
    return RlSettings(**(base | given))


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_it_earns_more_and_keeps_what_it_wrote(
    method: str, tiny_model_dir: Path, dialogues: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    counts = stage.run(options(method=method), {"model": [tiny_model_dir], "records": [dialogues]}, out)
    assert (counts["records"], counts["validation_records"], counts["steps"]) == (32, 8, 12)
    found = json.loads((out / "aligned.json").read_text(encoding="utf-8"))
    assert found["kind"] == "rl" and found["method"] == method and found["n"] == 8
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    earned = [line["reward_mean"] for line in lines if "reward_mean" in line]
    assert len(earned) == 12 and sum(earned[-4:]) > sum(earned[:4])
    assert any(line.get("kl", 0) > 0 for line in lines)
    rollouts = [json.loads(line) for line in (out / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rollouts) == 12 * 4 and all(len(line["answers"]) == 4 for line in rollouts)
    assert [line["step"] for line in rollouts[::4]] == list(range(1, 13))
    first = rollouts[0]
    assert first["prompt"][0]["role"] == "user" and first["reference"] in PLACES
    rewards = [one["reward"] for one in first["answers"]]
    assert rewards == sorted(rewards, reverse=True)
    means = [sum(one["reward"] for line in rollouts[at : at + 4] for one in line["answers"]) / 16 for at in (0, 44)]
    assert means == pytest.approx([earned[0], earned[-1]], abs=1e-3)
    assert AutoModelForCausalLM.from_pretrained(out / "model").generation_config.eos_token_id == [2, 0]


class Stopped(BaseException):
    """Ends a run as a signal would: nothing catches it."""


@pytest.mark.parametrize(
    "kind", [{"method": "grpo", "validation": 0.25}, {"method": "rloo", "validation": 0.0, "beta": 0.0}]
)
def test_a_stopped_run_goes_on_where_it_was_and_ends_at_the_same_weights(
    kind: dict[str, Any], tiny_model_dir: Path, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its second pass over the prompts, two steps behind a checkpoint, in the second micro-batch of a step."""
    given = options(**kind, steps=7, prompts=2, max_records=8, log_every=2, answer_tokens=4)
    given = given.model_copy(update={"micro_batch": 4, "checkpoint_seconds": 1e-6})
    inputs, whole, halves = {"model": [tiny_model_dir], "records": [dialogues]}, tmp_path / "whole", tmp_path / "halves"
    counts = stage.run(given, inputs, whole)

    step, made = training.Careful.training_step, []

    def stopping(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(self.state.global_step)
        if made.count(5) == 2:
            raise Stopped
        return step(self, *args, **kwargs)

    monkeypatch.setattr(training.Careful, "training_step", stopping)
    with pytest.raises(Stopped):
        stage.run(given, inputs, halves)
    assert [path.name for path in (halves / "trainer").glob("*step-*")] == ["step-4"]
    written = (halves / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(written) == 6 * given.prompts
    monkeypatch.setattr(training.Careful, "training_step", step)
    (halves / "rollouts.jsonl").write_text("\n".join(written[:8]), encoding="utf-8")
    with pytest.raises(HanmoError, match=r"rollouts\.jsonl: 7 of the 8 lines of the steps that are done"):
        stage.run(given, inputs, halves)
    (halves / "rollouts.jsonl").write_text("\n".join(written)[:-40], encoding="utf-8")
    again = stage.run(given, inputs, halves)

    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (halves, whole))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert (whole / "aligned.json").exists() == bool(given.validation)
    for name in ("rollouts.jsonl", "records.json", *(["aligned.json"] if given.validation else [])):
        assert (halves / name).read_text(encoding="utf-8") == (whole / name).read_text(encoding="utf-8")
    timed = {"seconds", "answers_per_second", "tokens_per_second"}
    told = [
        [
            {name: value for name, value in json.loads(line).items() if name not in timed}
            for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for folder in (halves, whole)
    ]
    assert told[0] == told[1]
    assert {n: v for n, v in again.items() if n not in timed} == {n: v for n, v in counts.items() if n not in timed}
    assert not (halves / "trainer").exists()


def test_answers_are_those_of_plain_generation(tiny_model_dir: Path, tmp_path: Path) -> None:
    start = training.Start(tiny_model_dir, options(), tmp_path)
    prompts = [
        start.chat.encode([{"role": "user", "content": text}], add_generation_prompt=True)[0]
        for text in ("小猫在哪里？", "你好", "今天天气怎么样？")
    ]
    found = answers_of(start, prompts, 12)
    for prompt, answer in zip(prompts, found, strict=True):
        plain = start.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=[2, 0])
        assert answer == plain[0, len(prompt) :].tolist()
    drawn = answers_of(start, [prompts[0]] * 4, 12, temperature=1.0, seed=3)
    assert drawn == answers_of(start, [prompts[0]] * 4, 12, temperature=1.0, seed=3)
    assert len({tuple(ids) for ids in drawn}) > 1


def test_a_reward_model_judges(
    tiny_model_dir: Path, dialogues: Path, jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    pairs = {"model": [tiny_model_dir], "pairs": [jsonl([pair(index) for index in range(24)])]}
    reward.run(RewardSettings(**FIXED, batch_size=8, validation=0.0), pairs, tmp_path / "judge")
    inputs = {"model": [tiny_model_dir], "records": [dialogues]}
    judged = options(rewards={"model": 1.0, "length": 0.1}, steps=1)
    stage.run(judged, inputs | {"reward": [tmp_path / "judge"]}, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "aligned.json").read_text(encoding="utf-8"))
    assert set(found["before"]["parts"]) == {"model", "length"}
    parts = found["before"]["parts"]
    assert found["before"]["reward"] == pytest.approx(parts["model"] + 0.1 * parts["length"], abs=1e-5)
    with pytest.raises(HanmoError, match="needs a reward model: give the input `reward`"):
        stage.run(judged, inputs, tmp_path / "none")
    with pytest.raises(HanmoError, match="does not name 'model'"):
        stage.run(options(), inputs | {"reward": [tmp_path / "judge"]}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_cannot_work_is_said(
    tiny_model_dir: Path, dialogues: Path, jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    inputs = {"model": [tiny_model_dir], "records": [dialogues]}
    with pytest.raises(HanmoError, match="vllm is not installed"):
        stage.run(options(vllm=True), inputs, tmp_path / "out")
    with pytest.raises(HanmoError, match=r"none of the 40 records can be used .*no answer that the rewards can check"):
        stage.run(options(rewards={"choice": 1.0}), inputs, tmp_path / "out")
    with pytest.raises(HanmoError, match=r"prompts is 64, but only 32 of the 40 records can be used"):
        stage.run(options(prompts=64), inputs, tmp_path / "out")
    with pytest.raises(HanmoError, match=r"bad\.jsonl:2"):
        stage.run(
            options(), inputs | {"records": [jsonl([{"question": "a", "answer": "b"}, "{"], "bad.jsonl")]}, tmp_path
        )
    lines = stage.warnings_of({}, [{"frac_reward_zero_std": 0.9, "reward": 1.0}])
    assert len(lines) == 1 and "all answers earned the same" in lines[0]
