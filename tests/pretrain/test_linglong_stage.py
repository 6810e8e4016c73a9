"""LingLong and GPT-2 through the pretraining stage: they learn, go on to the bit, and stay what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from group import together  # type: ignore[import-not-found]
from tiny_runs import QUICK, lines, make_order, run_stage, saved  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM

from hanmo.errors import HanmoError, Interrupted
from hanmo.files import JsonlZstWriter
from hanmo.models.presets import build_config
from hanmo.pretrain.distributed import joined
from hanmo.pretrain.loading import without_dropout
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.steps import step_of
from hanmo.pretrain.trainer import Trainer
from hanmo.tokenizer import load

TEXTS = ["银行行长在重庆的银行里行走。", "春眠不觉晓，处处闻啼鸟。", "夜来风雨声，花落知多少。", "行长走了，鸟飞了。"]
#: Ten steps; a look at the end.
RUN: dict[str, Any] = {"tokens": 1280, "eval_every": 0, "sample_prompts": ["春眠"], "checkpoint_steps": 3, "lr": 0.003}
KINDS = ["linglong-1m", "linglong-1m-backward", "linglong-1m-pinyin", "wenzhong-2m"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokens folder of characters with their pinyin."""
    from hanmo.tokenizer.forms import pinyin
    from hanmo.tokens import stage
    from hanmo.tokens.settings import TokensSettings

    folder = tmp_path_factory.mktemp("data")
    for split, repeat in (("train", 40), ("heldout", 2)):
        with JsonlZstWriter(folder / "corpus" / split / "00000.jsonl.zst") as file:
            for number in range(repeat * len(TEXTS)):
                text = TEXTS[number % len(TEXTS)] * (1 + number % 3)
                file.write({"id": str(number), "text": text, "source": "poems"})
    pinyin.build(TEXTS * 4, 530, folder / "tokenizer")
    inputs = {"corpus": [folder / "corpus"], "tokenizer": [folder / "tokenizer"]}
    stage.run(TokensSettings(workers=1), inputs, folder / "tokens")
    return folder / "tokens"


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory):
    """A function that gives the folder of a preset's undisturbed run."""
    made: dict[str, Path] = {}

    def run(preset: str) -> Path:
        if preset not in made:
            made[preset] = tmp_path_factory.mktemp(preset)
            run_stage(data, made[preset], preset=preset, **RUN)
        return made[preset]

    return run


@pytest.mark.parametrize("preset", KINDS)
def test_it_learns_and_its_folder_says_what_it_is(trained, preset: str) -> None:
    out = trained(preset)
    losses = [line["loss"] for line in lines(out / "log.jsonl") if "loss" in line]
    assert len(losses) == 10 and losses[-1] < losses[0] - 1
    looks = [line["heldout_bpb"] for line in lines(out / "log.jsonl") if "heldout_bpb" in line]
    (sample,) = lines(out / "samples.jsonl")
    assert 0 < looks[-1] < 4
    backward = preset.endswith("backward")
    assert sample["text"].endswith("春眠") if backward else sample["text"].startswith("春眠")
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    assert getattr(model.config, "backward", False) == backward
    if preset.endswith("pinyin"):
        from hanmo.tokenizer.forms.pinyin import read_classes

        assert model.config.n_vocab_pinyin == len(read_classes(out / "model" / "pinyin.txt"))
    assert load(out / "model").decode(load(out / "model").encode("行走")) == "行走"


@pytest.mark.parametrize("preset", KINDS)
def test_resumed_is_bit_identical(trained, data: Path, preset: str, tmp_path: Path, monkeypatch) -> None:
    one_step = Trainer._one_step

    def stopping(self: Trainer, rows: Any, targets: int) -> float:
        if self.step == 5:
            self._stop.set()
        return one_step(self, rows, targets)

    monkeypatch.setattr(Trainer, "_one_step", stopping)
    with pytest.raises(Interrupted):
        run_stage(data, tmp_path, preset=preset, **RUN)
    monkeypatch.undo()
    run_stage(data, tmp_path, preset=preset, **RUN)
    torn, whole = saved(tmp_path / "model"), saved(trained(preset) / "model")
    assert all(torch.equal(value, torn[name]) for name, value in whole.items())


@pytest.mark.parametrize("preset", ["linglong-1m", "linglong-1m-pinyin"])
def test_micro_batches_do_not_change_the_run(trained, data: Path, preset: str, tmp_path: Path) -> None:
    run_stage(data, tmp_path, preset=preset, micro_tokens=32, **RUN)
    ours, whole = (
        [line["loss"] for line in lines(folder / "log.jsonl") if "loss" in line]
        for folder in (tmp_path, trained(preset))
    )
    assert ours == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("preset", KINDS)
def test_it_is_continued_as_what_it_is(trained, data: Path, preset: str, tmp_path: Path) -> None:
    run_stage(data, tmp_path, model=trained(preset), **{**RUN, "tokens": 256})
    old, new = (AutoModelForCausalLM.from_pretrained(f / "model").config for f in (trained(preset), tmp_path))
    assert {**new.to_dict(), "_name_or_path": ""} == {**old.to_dict(), "_name_or_path": ""}
    first = next(line["loss"] for line in lines(tmp_path / "log.jsonl") if "loss" in line)
    begun = next(line["loss"] for line in lines(trained(preset) / "log.jsonl") if "loss" in line)
    assert first < begun - 1


def test_data_without_pinyin_and_other_pinyin_are_one_line(trained, tokens: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="the model has pinyin and these tokens have none"):
        run_stage(tokens, tmp_path / "plain", preset="linglong-1m-pinyin")
    given = tmp_path / "given"
    import shutil

    shutil.copytree(trained("linglong-1m-pinyin") / "model", given)
    classes = (given / "pinyin.txt").read_text("utf-8").replace("ā", "á", 1)
    (given / "pinyin.txt").write_text(classes, "utf-8")
    with pytest.raises(HanmoError, match="its pinyin is not that of the data"):
        run_stage(data, tmp_path / "other", model=given, **RUN)


def _run(out: Path, preset: str, parallel: str) -> None:
    """In a group, or alone: four steps of five rows."""
    options = {**QUICK, "preset": preset, "parallel": parallel, "tokens": 4 * 160, "batch_tokens": 160, "eval_every": 0}
    settings = PretrainSettings(**options)
    torch.manual_seed(0)
    config = build_config(preset, 320, 32)
    config.attn_stride, config.attn_c = 8, 2
    model = AutoModelForCausalLM.from_config(config).train()
    without_dropout(model)
    with joined(settings) as world:
        Trainer(model, settings, make_order(), out, torch.float32, world=world, step=step_of(model, "causal")).run()


def _group(out: Path) -> None:
    for preset, parallel in (("linglong-1m", "ddp"), ("linglong-1m", "fsdp"), ("wenzhong-2m", "fsdp")):
        _run(out / f"{preset}-{parallel}", preset, parallel)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    together(2, _group, tmp_path)
    for preset, ways in (("linglong-1m", ("ddp", "fsdp")), ("wenzhong-2m", ("fsdp",))):
        _run(tmp_path / preset, preset, "ddp")
        wanted = [line["loss"] for line in lines(tmp_path / preset / "log.jsonl") if "loss" in line]
        for way in ways:
            found = [line["loss"] for line in lines(tmp_path / f"{preset}-{way}" / "log.jsonl") if "loss" in line]
            assert found == pytest.approx(wanted, rel=2e-3) and len(found) == 4
