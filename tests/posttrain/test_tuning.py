"""The stages: what they write, that they learn, that they equal plain torch, that a kill changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from hanmo.errors import HanmoError
from hanmo.posttrain import distill, dpo, reward, sft, training
from hanmo.posttrain.encode import IGNORE
from hanmo.posttrain.scoring import pad_rows
from hanmo.posttrain.settings import DistillSettings, DpoSettings, RewardSettings, SftSettings
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import ChatFormat

from .conftest import dialogue, pair

FIXED: dict[str, Any] = {"precision": "fp32", "threads": 1}
DIALOGUES = [dialogue(index) for index in range(60)]
PAIRS = [pair(index) for index in range(60)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_sft_learns_and_leaves_a_model_that_loads_anywhere(
    tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl([*DIALOGUES, DIALOGUES[0]])
    out = tmp_path / "sft"
    options = SftSettings(**FIXED, epochs=3, batch_size=8, learning_rate=2e-3, validation=0.1)
    counts = sft.run(options, {"model": [tiny_model_dir], "records": [path]}, out)
    assert capsys.readouterr().out == ""
    assert (counts["records"], counts["validation_records"], counts["duplicates"]) == (54, 6, 1)
    assert counts["steps"] == 3 * 7
    assert counts["last_loss"] < counts["first_loss"] - 1
    assert counts["validation_loss_after"] < counts["validation_loss_before"] - 1
    assert sorted(item.name for item in out.iterdir()) == ["log.jsonl", "model", "records.json"]

    lines = log_of(out)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 5, 10, 15, 20, 21]
    assert all(line["tokens_per_second"] > 0 and "learning_rate" in line for line in steps)
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 5, 10, 16, 21]
    records = json.loads((out / "records.json").read_text(encoding="utf-8"))
    assert records["read"] == 61 and records["duplicates"] == 1
    assert records["train"]["records"] == 54 and 0 < records["train"]["learnt"] < records["train"]["tokens"]

    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert model.dtype == torch.float32
    assert "hanmo" not in (out / "model" / "config.json").read_text(encoding="utf-8")
    assert model.generation_config.eos_token_id == [2, 0]
    assert model.generation_config.pad_token_id == 0
    assert tokenizer.chat_template == ChatFormat.template
    assert type(tokenizer).__name__.startswith("PreTrainedTokenizer") or tokenizer.is_fast
    reread, _ = load(out / "model").backend_tokenizer, model
    assert reread.encode("小猫").ids == tokenizer.backend_tokenizer.encode("小猫").ids


def test_one_step_equals_plain_torch(tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    """TRL with everything around it does what ten lines of torch do: loss on the answers' tokens, one AdamW step."""
    records = DIALOGUES[:6]
    options = SftSettings(**FIXED, epochs=1, batch_size=6, learning_rate=1e-3, warmup=0.0, validation=0.0)
    counts = sft.run(options, {"model": [tiny_model_dir], "records": [jsonl(records)]}, tmp_path / "a")
    assert counts["steps"] == 1

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    chat = ChatFormat(load(tiny_model_dir))
    rows = []
    for record in records:
        ids, mask = chat.encode(record["messages"])
        rows.append((ids, [token if counts else IGNORE for token, counts in zip(ids, mask, strict=True)]))
    ids, labels, _ = pad_rows(rows, 0)
    logits = model(input_ids=ids).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
    assert counts["first_loss"] == pytest.approx(loss.item(), rel=1e-4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    trained = weights(tmp_path / "a")
    for name, parameter in model.named_parameters():
        if name in trained:
            # AdamW's first step is the sign of the gradient: where that is nearly zero, rounding decides.
            close = torch.isclose(trained[name], parameter, rtol=1e-4, atol=2e-5).float().mean()
            assert close > 0.995, name


def test_micro_batches_change_nothing_but_rounding(
    tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    inputs = {"model": [tiny_model_dir], "records": [jsonl(DIALOGUES)]}
    losses = []
    for micro in (0, 4):
        options = SftSettings(**FIXED, epochs=1, batch_size=16, micro_batch=micro, log_every=1, validation=0.0)
        sft.run(options, inputs, tmp_path / f"m{micro}")
        losses.append([line["loss"] for line in log_of(tmp_path / f"m{micro}")])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    with pytest.raises(HanmoError, match="micro_batch is 5; it must divide batch_size, which is 16"):
        sft.run(SftSettings(**FIXED, batch_size=16, micro_batch=5), inputs, tmp_path / "m5")


def test_long_records_are_taken_in_smaller_passes() -> None:
    assert training.micro_batch(SftSettings(batch_size=16), 512) == 16
    assert training.micro_batch(SftSettings(batch_size=16), 513) == 8
    assert training.micro_batch(SftSettings(batch_size=12), 2048) == 4
    assert training.micro_batch(SftSettings(batch_size=12), 10**6) == 1
    assert training.micro_batch(SftSettings(batch_size=12, micro_batch=6), 10**6) == 6


def test_dpo_prefers_the_chosen_answers(
    tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = DpoSettings(**FIXED, epochs=3, batch_size=8, learning_rate=1e-3, validation=0.2, log_every=1)
    out = tmp_path / "dpo"
    counts = dpo.run(options, {"model": [tiny_model_dir], "pairs": [jsonl(PAIRS)]}, out)
    assert capsys.readouterr().out == ""
    assert (counts["records"], counts["validation_records"]) == (48, 12)
    assert counts["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert counts["validation_margin_before"] == 0 and counts["validation_accuracy_before"] == 0.5
    assert counts["validation_margin_after"] > 0.1 and counts["validation_accuracy_after"] > 0.9
    assert not any("nothing was learnt" in line for line in counts["warnings"])
    first = next(line for line in log_of(out) if line.get("step") == 1 and "loss" in line)
    assert {"loss", "margin", "accuracy", "reward_chosen", "learning_rate", "tokens_per_second"} <= first.keys()
    assert AutoModelForCausalLM.from_pretrained(out / "model").generation_config.eos_token_id == [2, 0]
    assert sorted(item.name for item in out.iterdir()) == ["aligned.json", "log.jsonl", "model", "records.json"]


def test_dpo_loss_equals_the_papers(tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    """After one step, the logged loss of the second is the formula over log-probabilities from plain logits."""
    options = DpoSettings(**FIXED, epochs=2, batch_size=60, learning_rate=5e-4, warmup=0.0, validation=0.0, log_every=1)
    dpo.run(options, {"model": [tiny_model_dir], "pairs": [jsonl(PAIRS)]}, tmp_path / "two")
    second = log_of(tmp_path / "two")[1]
    # With one epoch the rate falls to 0 behind the first step, which is the same first step.
    dpo.run(
        options.model_copy(update={"epochs": 1}), {"model": [tiny_model_dir], "pairs": [jsonl(PAIRS)]}, tmp_path / "one"
    )
    chat = ChatFormat(load(tiny_model_dir))
    sums = []
    for folder in (tmp_path / "one" / "model", tiny_model_dir):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for side in ("chosen", "rejected"):
            for record in PAIRS:
                start = len(chat.encode(record["prompt"], add_generation_prompt=True)[0])
                ids, _ = chat.encode([*record["prompt"], *record[side]])
                ids = ids[: len(ids) - ids[::-1].index(chat.turn_end)]
                with torch.no_grad():
                    log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                sums.append(sum(log_probs[at - 1, ids[at]] for at in range(start, len(ids))))
    values = torch.stack(sums).view(2, 2, len(PAIRS))  # type: ignore[arg-type]
    margins = 0.1 * ((values[0, 0] - values[1, 0]) - (values[0, 1] - values[1, 1]))
    assert second["loss"] == pytest.approx(float(-F.logsigmoid(margins).mean()), rel=2e-3)
    assert second["margin"] == pytest.approx(float(margins.mean()), rel=1e-2, abs=1e-3)


def test_dpo_says_when_nothing_was_learnt(tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    options = DpoSettings(**FIXED, batch_size=16, learning_rate=1e-9, sft_weight=0.1)
    counts = dpo.run(options, {"model": [tiny_model_dir], "pairs": [jsonl(PAIRS)]}, tmp_path / "stuck")
    assert any("nothing was learnt" in line for line in counts["warnings"])


@pytest.mark.usefixtures("warm_stages")
def test_a_killed_run_started_again_ends_at_the_same_weights(
    tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = jsonl([dialogue(index) for index in range(80)]), tmp_path / "killed"
    options = SftSettings(**FIXED, epochs=1, batch_size=4, log_every=1, checkpoint_seconds=1e-6)
    inputs = {"model": [tiny_model_dir], "records": [path]}
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from hanmo.posttrain import sft\n"
        "from hanmo.posttrain.settings import SftSettings\n"
        "sft.run(SftSettings.model_validate_json(sys.argv[1]),"
        " {'model': [Path(sys.argv[2])], 'records': [Path(sys.argv[3])]}, Path(sys.argv[4]))\n"
    )
    command = [sys.executable, "-c", script, options.model_dump_json(), str(tiny_model_dir), str(path), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "log.jsonl").is_file() and (out / "log.jsonl").read_bytes().count(b"\n") >= 6:
            break
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    assert process.communicate()[0] == b""
    assert not (out / "model").exists() and (out / "trainer" / "begun.json").is_file()

    sft.run(options, inputs, out)
    assert "goes on from step " in capsys.readouterr().err
    sft.run(options, inputs, tmp_path / "undisturbed")
    assert same(weights(out), weights(tmp_path / "undisturbed"))
    assert not same(weights(out), load_file(tiny_model_dir / "model.safetensors"))


class Stopped(BaseException):
    """Ends a run as a signal would: nothing catches it."""


@pytest.mark.parametrize("kind", ["lora", "packed", "dpo", "reward", "distill"])
def test_a_stopped_run_goes_on_where_it_was_and_ends_at_the_same_weights(
    kind: str, tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its second pass over the records, between two checkpoints, with a noise that is drawn at every step."""
    fixed: dict[str, Any] = FIXED | {"epochs": 2, "batch_size": 8, "log_every": 2}
    fixed |= {"evaluations": 1, "checkpoint_seconds": 1e-6}
    inputs = {"model": [tiny_model_dir], "records": [jsonl(DIALOGUES[:28])], "pairs": [jsonl(PAIRS[:28], "p.jsonl")]}
    module, options = {
        "lora": (sft, SftSettings(**fixed, adapter="lora", rank=2, dropout=0.1)),
        "packed": (sft, SftSettings(**fixed, packing=True, neftune=5)),
        "dpo": (dpo, DpoSettings(**fixed, answers=4, answer_tokens=4)),
        "reward": (reward, RewardSettings(**fixed)),
        "distill": (distill, DistillSettings(**fixed)),
    }[kind]
    inputs |= {"teacher": [tiny_model_dir]} if kind == "distill" else {}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    counts = module.run(options, inputs, whole)

    step, made = training.Careful.training_step, []

    def stopping(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(self.state.global_step)
        if made[-1] == 7:
            raise Stopped
        return step(self, *args, **kwargs)

    monkeypatch.setattr(training.Careful, "training_step", stopping)
    with pytest.raises(Stopped):
        module.run(options, inputs, halves)
    assert [path.name for path in (halves / "trainer").glob("*step-*")] == ["step-6"]
    monkeypatch.setattr(training.Careful, "training_step", step)
    again = module.run(options, inputs, halves)

    assert same(weights(halves), weights(whole))
    timed = {"seconds", "records_per_second", "tokens_per_second"}
    assert {name: again[name] for name in again.keys() - timed} == {
        name: counts[name] for name in counts.keys() - timed
    }
    told = [[{name: line[name] for name in line.keys() - timed} for line in log_of(out)] for out in (halves, whole)]
    assert told[0] == told[1]
    assert not (halves / "trainer").exists()


def test_errors_of_settings_and_models(tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    path, out = jsonl(DIALOGUES), tmp_path / "out"
    inputs = {"model": [tiny_model_dir], "records": [path]}
    with pytest.raises(HanmoError, match=r"max_length is 512, but the model in .* has a context of 256 tokens"):
        sft.run(SftSettings(**FIXED, max_length=512), inputs, out)
    with pytest.raises(HanmoError, match="none of the 60 records fits into 8 tokens"):
        sft.run(SftSettings(**FIXED, max_length=8), inputs, out)
    with pytest.raises(HanmoError, match="no such folder"):
        sft.run(SftSettings(**FIXED), inputs | {"model": [tmp_path / "none"]}, out)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(HanmoError, match=r"no tokenizer\.json"):
        sft.run(SftSettings(**FIXED), inputs | {"model": [broken]}, out)
    (broken / "tokenizer.json").write_bytes((tiny_model_dir / "tokenizer.json").read_bytes())
    (broken / "tokenizer_config.json").write_bytes((tiny_model_dir / "tokenizer_config.json").read_bytes())
    with pytest.raises(HanmoError, match="not a causal language model that loads"):
        sft.run(SftSettings(**FIXED), inputs | {"model": [broken]}, out)
    assert not (out / "model").exists()


def test_a_loss_that_is_no_number_stops_the_run(
    tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    load(tiny_model_dir).save_pretrained(str(tmp_path / "nan"))
    inputs = {"model": [tmp_path / "nan"], "records": [jsonl(DIALOGUES)]}
    with pytest.raises(HanmoError, match=r"step 1: the loss is nan; lower learning_rate"):
        sft.run(SftSettings(**FIXED), inputs, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_a_restart_keeps_the_arithmetic_of_the_killed_try(tiny_model_dir: Path, tmp_path: Path) -> None:
    begun = tmp_path / "trainer" / "begun.json"
    first = training.Start(tiny_model_dir, SftSettings(), tmp_path)
    assert json.loads(begun.read_text())["dtype"] == str(first.dtype).removeprefix("torch.")
    for name in ("float32", "bfloat16"):
        begun.write_text(json.dumps({"device": str(first.device), "dtype": name}))
        assert training.Start(tiny_model_dir, SftSettings(), tmp_path).dtype == getattr(torch, name)
    # What the settings say outright holds.
    assert training.Start(tiny_model_dir, SftSettings(precision="fp32"), tmp_path).dtype == torch.float32


def test_batches_are_of_like_length_and_every_record_comes_once() -> None:
    lengths = [(index * 37) % 101 + 1 for index in range(103)]
    sampler = training.LikeLengths(lengths, 8, seed=3)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(103))
    assert first != second
    assert first == list(training.LikeLengths(lengths, 8, seed=3))
    padded = sum(8 * max(lengths[index] for index in first[at : at + 8]) for at in range(0, 96, 8))
    assert padded < 1.1 * sum(lengths[index] for index in first[:96])


def test_rates_fall_with_the_size() -> None:
    assert training.rate_for(4_000_000, 1.0) == pytest.approx(1e-3)
    assert training.rate_for(16_000_000, 1.0) == pytest.approx(5e-4)
    assert training.rate_for(800_000, 1.0) == pytest.approx(1e-3)
    assert training.rate_for(10**12, 0.05) == pytest.approx(1e-6)
