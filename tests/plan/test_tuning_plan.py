"""The plan of tuning stages: what is followed in a step, what fits, the words about it, and measured runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.plan import tuning
from hanmo.plan.devices import KNOWN, Device
from hanmo.plan.rehearsal import Alive, Batch, _forward, _Lesson, rehearse
from hanmo.plan.tuning import Records, Task, explain, fitted, records_of
from hanmo.plan.tuning_cost import plan_tuning, show
from hanmo.posttrain.attention import NAME
from hanmo.posttrain.settings import AdapterSettings, DistillSettings, DpoSettings, RewardSettings, SftSettings
from hanmo.recipe import load_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import plan_tuning as measuring

#: What is promised: the largest error of a run.
MEMORY, SPEED = 0.25, 0.30
CPU = Device("cpu", 1e11, 64e9, cpu=True, width=4, measured=True)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """40 dialogues, the longest of 90 characters, and 40 pairs."""
    folder = tmp_path_factory.mktemp("records")
    found = {"records": folder / "sft.jsonl", "pairs": folder / "pref.jsonl"}
    lines: dict[str, list[dict[str, Any]]] = {"records": [], "pairs": []}
    for number in range(40):
        answer = chr(0x4E00 + number) * (51 + number)
        lines["records"].append({"instruction": f"第{number}个", "output": answer})
        lines["pairs"].append({"prompt": f"第{number}个", "chosen": answer, "rejected": "不知道"})
    for role, path in found.items():
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines[role]), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def shallow(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder with two layers in its configuration, which is all that a plan reads of it."""
    folder = tmp_path_factory.mktemp("shallow") / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"num_hidden_layers": 2, "layer_types": config["layer_types"][:2]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def task(folder: Path, settings: Any, longest: int = 64, cpu: bool = True) -> Task:
    config = AutoConfig.from_pretrained(folder)
    return Task(
        settings,
        config,
        Records(longest, 0.5, 100, 2, 40.0 * 100, 1 if isinstance(settings, SftSettings) else 2),
        128,
        4,
        cpu,
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_a_rehearsal_follows_what_a_real_step_holds(shallow: Path, recompute: bool) -> None:
    config = AutoConfig.from_pretrained(shallow)
    batch = Batch(4, 40, 0.5)
    seen = rehearse(config, batch, Batch(8, 40), torch.bfloat16, NAME, recompute=recompute)
    with Alive() as alive:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=NAME).train()
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        alive.peak = weights = alive.now
        loss, kept = _forward(model, batch, torch.bfloat16, alive)
        loss.backward()
    assert seen.parameters == seen.trained == model.num_parameters()
    assert seen.weights == pytest.approx(weights, rel=0.02)
    assert seen.step == pytest.approx(alive.peak - weights, rel=0.03)
    assert seen.kept == pytest.approx(kept, rel=0.03)


def test_a_rehearsal_follows_what_a_step_with_a_teacher_holds(shallow: Path) -> None:
    config = AutoConfig.from_pretrained(shallow)
    batch, settings = Batch(4, 40, 0.5), DistillSettings()
    seen = rehearse(config, batch, Batch(8, 40), torch.float32, NAME, taught=(config, settings, 0))
    with Alive() as alive:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=NAME).train()
        own = alive.now
        lesson = _Lesson(config, settings, 0, torch.float32, NAME)
        held = alive.peak = alive.now
        loss, _ = _forward(model, batch, torch.float32, alive, lesson)
        loss.backward()
    assert seen.teacher == pytest.approx(held - own, rel=0.02)
    assert seen.step == pytest.approx(alive.peak - held, rel=0.03)
    alone = rehearse(config, batch, Batch(8, 40), torch.float32, NAME)
    assert alone.teacher == 0 and alone.step < seen.step and alone.look < seen.look


def test_what_is_done_shows_in_what_is_held(shallow: Path) -> None:
    config = AutoConfig.from_pretrained(shallow)

    def see(rows: int = 8, **more: Any):
        return rehearse(config, Batch(rows, 64, 0.5), Batch(1, 64), torch.float32, NAME, **more)

    plain = see()
    double = see(16, accumulates=True)
    assert 1.9 < double.kept / plain.kept < 2.1 and double.step > 1.5 * plain.step
    lora = see(adapter=AdapterSettings(adapter="lora", rank=4))
    assert lora.trained < 0.2 * plain.trained and lora.parameters == plain.parameters + lora.trained
    coded = see(adapter=AdapterSettings(adapter="qlora", rank=4))
    assert coded.weights < lora.weights and coded.trained == lora.trained
    assert see(scores=True).step < plain.step


def test_the_longest_records_are_found(shallow: Path, records: dict[str, Path]) -> None:
    found = records_of(SftSettings(), [records["records"]], shallow, 1000)
    guessed = records_of(SftSettings(), [records["records"]], None, 1000)
    assert found.count == 39 and found.held == 1 and found.longest >= 90
    assert 0.5 < found.learnt < 1 and 70 * 39 < found.tokens < found.longest * 39
    assert guessed.longest == round(0.7 * (90 + 4)) + 10 and guessed.count == 39
    assert records_of(SftSettings(), [records["records"]], shallow, 60).longest <= 60
    pairs = records_of(DpoSettings(), [records["pairs"]], shallow, 1000)
    assert pairs.longest >= 90 and pairs.mean > found.mean, "a pair counts its prompt with each of the two answers"


def test_less_memory_takes_fewer_records_then_recomputes(shallow: Path) -> None:
    stage = task(shallow, SftSettings(batch_size=2), longest=128)
    whole, one = stage.need(2, False), stage.need(1, False)
    least = stage.need(1, True)
    assert least.total < one.total < whole.total
    assert stage.choose(whole.total)[:2] == (2, False)  # type: ignore[index]
    assert stage.choose(one.total)[:2] == (1, False)  # type: ignore[index]
    found = stage.choose((one.total + least.total) / 2)
    assert found and found[1] and stage.changes(*found[:2])["recompute"] == "layers"
    assert stage.choose(0.9 * least.total) is None
    assert whole.parts["optimiser state"] == 8 * stage.rehearsed(2, False).trained


def test_the_reference_of_dpo_counts(shallow: Path) -> None:
    pairs = task(shallow, DpoSettings(batch_size=4))
    need = pairs.need(4, False)
    assert need.moments["reference model"] > 4 * pairs.rehearsed(4, False).parameters
    every = task(shallow, DpoSettings(batch_size=4, loss="orpo")).need(4, False)
    assert every.total > need.total, "TRL holds the logits of all tokens there"
    assert task(shallow, RewardSettings(batch_size=4)).need(4, False).total < need.total
    merged = task(shallow, SftSettings(batch_size=4, adapter="lora")).need(4, False)
    assert "merging" in merged.moments


def test_fit_changes_only_what_must_be(shallow: Path, records: dict[str, Path], monkeypatch, capfd) -> None:
    inputs = {"model": [shallow], "records": [records["records"]]}
    asked = SftSettings(batch_size=16)
    monkeypatch.setattr(tuning, "here", lambda *_, **__: CPU)
    assert fitted(asked, inputs) == asked and "nothing to change" in capfd.readouterr().err
    stage = tuning.task_of(asked, inputs, CPU)
    assert stage
    room = stage.need(4, False).total / tuning.MARGIN
    short = Device("cpu", 1e11, room, cpu=True, width=4, measured=True)
    monkeypatch.setattr(tuning, "here", lambda *_, **__: short)
    assert fitted(asked, inputs) == asked.model_copy(update={"micro_batch": 4})
    assert "fit: micro_batch: 4 (about" in capfd.readouterr().err
    words = explain(asked, inputs, Device("cpu", 1e11, stage.need(8, False).total, cpu=True, width=4))
    assert words.startswith("16 records of up to") and "set micro_batch: " in words and words.endswith("--fit")
    assert not explain(asked, inputs, CPU, sure=False), "a run that was killed for another reason"
    tiny = Device("cpu", 1e11, 1e8, cpu=True, width=4)
    monkeypatch.setattr(tuning, "here", lambda *_, **__: tiny)
    with pytest.raises(HanmoError, match=r"even one record of .* take a smaller max_length, adapter: lora"):
        fitted(asked, inputs)


def test_the_plan_of_a_recipe(shallow: Path, records: dict[str, Path], tmp_path: Path, capsys) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text(
        "stages:\n"
        f"  - {{name: talk, do: sft, from: {{model: {shallow}, records: {records['records']}}}, epochs: 2, "
        "adapter: lora}\n"
        f"  - {{name: judge, do: reward, from: {{model: talk, pairs: {records['pairs']}}}}}\n"
        f"  - {{name: like, do: dpo, from: {{model: talk, pairs: {records['pairs']}}}, batch_size: 8}}\n"
        f"  - {{name: small, do: distill, from: {{model: {shallow}, teacher: talk, records: {records['records']}}}}}\n",
        encoding="utf-8",
    )
    done = CliRunner().invoke(cli, ["plan", str(path), "--device", "l4", "--price", "2", "--sample", "0", "--json"])
    assert done.exit_code == 0, done.output
    talk, judge, like, small = json.loads(done.stdout)["tuning"]
    assert [plan["stage"] for plan in (talk, judge, like, small)] == ["talk", "judge", "like", "small"]
    assert small["memory"]["parts"]["teacher"] == pytest.approx(2 * small["parameters"], rel=1e-3)
    assert talk["memory"]["parts"]["teacher"] == 0
    assert small["tokens_per_second"] < 0.85 * talk["tokens_per_second"], "the teacher reads what the student reads"
    assert talk["records"] == 39 and talk["steps"] == 3 * 2 and like["steps"] == 5
    assert talk["fits"] and talk["settings"] == {} and talk["trained_parameters"] < talk["parameters"]
    assert talk["hours"] == pytest.approx(talk["tokens"] / talk["tokens_per_second"] / 3600, rel=1e-3)
    assert talk["cost"] == pytest.approx(2 * talk["hours"]) and talk["kwh"] == pytest.approx(0.072 * talk["hours"])
    assert talk["disk"]["adapter"] == 4 * talk["trained_parameters"] and judge["disk"]["adapter"] == 0
    assert like["memory"]["peak"] < like["memory"]["room"] == pytest.approx(KNOWN["l4"].memory * 0.96)
    looked = like["tokens"] / like["tokens_per_second"] / 3600
    assert like["hours"] == pytest.approx(4 / 3 * looked, rel=1e-3), "a pass of the reference, which only looks"
    show([talk, judge, like], KNOWN["l4"], 2.0)
    shown = capsys.readouterr().out
    assert "talk (sft)" in shown and "of them learn" in shown and "no measured run stands behind it" in shown


def test_records_that_are_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "stages:\n"
        "  - {do: microworld}\n"
        "  - {do: corpus, from: microworld}\n"
        "  - {do: tokenizer, from: corpus, vocab_size: 1024}\n"
        "  - {do: tokens, from: {corpus: corpus, tokenizer: tokenizer}}\n"
        "  - {name: base, do: pretrain, from: {data: tokens}, preset: hanmo-1m, tokens: 1M, context: 64}\n"
        "  - {do: sft, from: {model: base, records: microworld}}\n",
        encoding="utf-8",
    )
    [plan] = plan_tuning(load_recipe(path), KNOWN["t4"])
    assert plan["longest"] == 64 and plan["records"] is plan["tokens"] is plan["hours"] is None
    assert plan["tokens_per_second"] > 0 and plan["parameters"] > 1e5


@pytest.mark.skipif(sys.platform != "linux", reason="limits of processes as Linux has them")
def test_a_stage_that_dies_of_too_little_memory_says_what_would_fit(
    shallow: Path, records: dict[str, Path], tmp_path: Path
) -> None:
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_DATA, (950_000_000,) * 2); "
        "sys.argv = sys.argv[1:]; runpy.run_module('hanmo', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", limited, "hanmo", "sft", "--model", str(shallow), "--records"]
    command += [str(records["records"]), "--out", str(tmp_path / "sft"), "--epochs", "1", "--batch-size", "2048"]
    command += ["--micro-batch", "2048", "--precision", "fp32", "--threads", "1"]
    many = records["records"].read_text(encoding="utf-8").splitlines()
    large = tmp_path / "many.jsonl"
    large.write_text(
        "".join(line.replace("第", f"第{turn}之") + "\n" for turn in range(60) for line in many), encoding="utf-8"
    )
    command[command.index(str(records["records"]))] = str(large)
    died = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert died.returncode == 2, died.stderr
    assert "stage 'sft': out of memory: 2048 records of up to" in died.stderr, died.stderr
    assert "set micro_batch: " in died.stderr and not (tmp_path / "sft" / "model").exists()


def test_measured_runs() -> None:
    last = json.loads(measuring.CHECKS.result.read_text(encoding="utf-8"))
    compared = measuring.compare(last["runs"], measuring.in_use())
    for some in (lambda run: run["do"] == "grpo", lambda run: "width" in run, lambda run: run["do"] != "grpo"):
        assert sum(item["role"] == "check" and some(item["run"]) for item in compared) >= 5
    for item in compared:
        assert abs(item["error"]["peak"]) < MEMORY, item
        if item["role"] == "check":
            assert abs(item["error"]["tokens_per_second"]) < SPEED, item
