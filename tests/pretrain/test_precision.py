"""The probe for the dtype of products, and fp16 with its loss scaler."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_runs import weights  # type: ignore[import-not-found]

from hanmo.pretrain import precision
from hanmo.pretrain.optimizer import orthogonalise
from hanmo.pretrain.precision import LossScaler, choose, gain
from hanmo.pretrain.trainer import Trainer


def test_the_probe_leaves_the_threads_as_they_were() -> None:
    threads = torch.get_num_threads()
    assert gain(torch.device("cpu"), torch.bfloat16, size=64, seconds=0.01) > 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_what_is_asked_for_is_not_probed(name: str) -> None:
    assert precision.short_name(choose(torch.device("cpu"), name)) == name


@pytest.mark.parametrize(
    ("device", "bf16", "fp16", "able", "chosen"),
    [
        ("cuda", 8.0, 8.0, True, torch.bfloat16),
        ("cuda", 0.0, 5.0, True, torch.float16),  # V100: no bf16
        ("cuda", 0.7, 4.0, True, torch.float16),  # T4: slow bf16
        ("cuda", 0.7, 4.0, False, torch.float32),  # a caller without a scaler
        ("cpu", 0.9, 4.0, True, torch.float32),
        ("cuda", 1.0, 1.1, True, torch.float32),
    ],
)
def test_auto_takes_what_is_fast(monkeypatch, device: str, bf16: float, fp16: float, able: bool, chosen) -> None:
    found = {torch.bfloat16: bf16, torch.float16: fp16}
    monkeypatch.setattr(precision, "gain", lambda device, dtype: found[dtype])
    assert choose.__wrapped__(torch.device(device), "auto", fp16=able) == chosen


def test_the_scale_halves_at_an_overflow_and_grows_again() -> None:
    scaler = LossScaler(scale=4.0, interval=3)
    assert scaler.overflowed(math.inf) and scaler.scale == 2
    assert scaler.overflowed(math.nan) and scaler.scale == 1 and scaler.overflows == 2
    assert not scaler.overflowed(math.inf), "at scale 1 the guard must judge"
    for _ in range(3):
        assert not scaler.overflowed(1.0)
    assert scaler.scale == 2
    again = LossScaler()
    again.load(json.loads(json.dumps(scaler.state())))
    assert again.state() == scaler.state()


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def train(model, settings, order, out: Path, dtype: torch.dtype, scale: float | None = None) -> Trainer:
    trainer = Trainer(model, settings, order, out, dtype)
    if scale and trainer.scaler:
        trainer.scaler.scale = scale
    trainer.resume()
    trainer.run()
    return trainer


def test_fp16_learns_what_fp32_learns(tiny_model, tiny_settings, tiny_order, tmp_path: Path) -> None:
    model = tiny_model()
    # AdamW alone: Muon's iterations are slow in fp16 on a CPU, and have a test of their own below.
    settings = tiny_settings.model_copy(update={"tokens": 8 * 128, "optimizer": "adamw"})
    half = train(model, settings, tiny_order, tmp_path / "half", torch.float16)
    train(tiny_model(), settings, tiny_order, tmp_path / "full", torch.float32)
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "full"), abs=0.03)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert half.scaler and half.scaler.overflows == 0 and half.guard.skipped == 0


def test_an_overflow_is_skipped_and_no_fault(tiny_model, tiny_settings, tiny_order, out: Path) -> None:
    """At a scale of 2^40 all gradients are infinite in fp16."""
    model = tiny_model()
    before = weights(model)
    trainer = Trainer(model, tiny_settings, tiny_order, out, torch.float16)
    assert trainer.scaler
    trainer.scaler.scale = 2.0**40
    trainer._one_step(trainer._rows(0), 128)
    assert trainer.scaler.scale == 2.0**39 and trainer.scaler.overflows == 1 and trainer.guard.skipped == 0
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_a_resumed_fp16_run_ends_with_the_same_bits(tiny_model, tiny_settings, tiny_order, tmp_path: Path) -> None:
    settings = tiny_settings.model_copy(update={"tokens": 6 * 128, "optimizer": "adamw"})
    whole, killed = tiny_model(), tiny_model()
    one = train(whole, settings, tiny_order, tmp_path / "whole", torch.float16, scale=2.0**24)
    assert one.scaler and 0 < one.scaler.overflows < 6
    first = Trainer(tiny_model(), settings, tiny_order, tmp_path / "killed", torch.float16)
    assert first.scaler
    first.scaler.scale = 2.0**24
    for step in range(3):
        first._one_step(first._rows(step), 128)
        first.step += 1
    first.save()
    first.store.close()
    two = train(killed, settings, tiny_order, tmp_path / "killed", torch.float16)
    assert two.scaler and two.scaler.state() == one.scaler.state()
    assert all(torch.equal(value, weights(killed)[name]) for name, value in weights(whole).items())


def test_fp16_iterations_bear_small_momenta() -> None:
    torch.manual_seed(0)
    momenta = torch.randn(2, 32, 64) * 1e-9
    values = torch.linalg.svdvals(orthogonalise(momenta, dtype=torch.float16).float())
    assert values.min() > 0.3 and values.max() < 1.6
