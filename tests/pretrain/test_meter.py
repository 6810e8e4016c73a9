"""The meter's figures by hand-made times, and what a run's log holds of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hanmo.pretrain import meter as module
from hanmo.pretrain.meter import Meter, Yardstick, in_words, measure
from hanmo.pretrain.runlog import RunLog
from hanmo.pretrain.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in a list of one, for the test to move."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_rates_shares_and_mfu(clock: list[float]) -> None:
    meter = Meter(CPU, flops_per_token=1000, yardstick=Yardstick(1e6, 64, "fp32", "cpu", 1), processes=2)
    for part, seconds in (("data", 1), ("forward", 3), ("backward", 4), ("look", 6), ("checkpoint", 4)):
        with meter.part(part):
            clock[0] += seconds
    clock[0] += 2
    meter.count(600)
    meter.count(400)
    found = meter.flush()
    # 20 seconds, 10 of them training.
    assert found["tokens_per_second"] == 100 and found["model_flops_per_second"] == 100_000
    assert found["mfu"] == 0.05  # of two processes with 1e6 each
    assert found["shares"] == {
        "data": 0.05,
        "forward": 0.15,
        "backward": 0.2,
        "look": 0.3,
        "checkpoint": 0.2,
        "other": 0.1,
    }
    assert found["memory_mb"] > 10
    clock[0] += 1
    meter.count(300)
    assert meter.flush()["tokens_per_second"] == 300
    assert meter.summary()["tokens_per_second"] == 200


def test_a_part_that_fails_is_timed_too(clock: list[float]) -> None:
    meter = Meter(CPU, 1)
    with pytest.raises(ValueError), meter.part("forward"):
        clock[0] += 1
        raise ValueError
    assert meter.flush()["shares"] == {"forward": 1.0, "other": 0.0}


def test_device_parts_are_timed_by_events(monkeypatch) -> None:
    """With a stand-in for the device's events: nothing waits but once a line, for the last of them."""
    waits = []

    class Event:
        clock = 0.0

        def __init__(self, device, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            Event.clock += 0.5
            self.at = Event.clock

        def synchronize(self) -> None:
            waits.append(self.at)

        def elapsed_time(self, end: Event) -> float:
            return (end.at - self.at) * 1000

    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(module, "memory", lambda device: 0)
    meter = Meter(torch.device("cuda"), 1)
    waits.clear()
    for _ in range(3):
        with meter.part("forward"):
            pass
        with meter.part("data"):
            pass
    assert not waits
    meter._began -= 10
    shares = meter.flush()["shares"]
    assert len(waits) == 1 and shares["forward"] == pytest.approx(0.15, abs=0.01)


def test_the_yardstick_is_a_real_product_measured_once() -> None:
    one = measure(CPU, torch.float32)
    assert one is measure(CPU, torch.float32)
    assert one.size in (1024, 2048, 4096) and one.flops_per_second > 1e8
    left = torch.randn(512, 512)
    rate = module.matmul_rate(CPU, torch.float32, size=512, seconds=0.1)
    assert left.dtype == torch.float32 and 0.05 < rate / one.flops_per_second < 20


def test_a_log_names_its_yardstick_first_and_keeps_it(tiny_model, tiny_settings, tiny_order, out: Path) -> None:
    settings = tiny_settings.model_copy(update={"tokens": 3 * 128, "log_every": 2})
    trainer = Trainer(tiny_model(), settings, tiny_order, out, torch.float32, bytes_per_token=3.0)
    last = trainer.run()
    first, *lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert first["step"] == 0 and first["yardstick"]["dtype"] == "fp32" and first["yardstick"]["device"] == "cpu"
    assert first["model"]["flops_per_token"] == trainer.meter.flops_per_token > 6 * 300_000
    assert [line["step"] for line in lines] == [2, 3] and lines[-1] == last
    expected = last["tokens_per_second"] * first["model"]["flops_per_token"] / first["yardstick"]["flops_per_second"]
    assert last["mfu"] == pytest.approx(expected, abs=1e-3)
    assert last["bits_per_byte"] == pytest.approx(last["loss"] / math.log(2) / 3, abs=1e-4)
    assert last["gradient_norm"] > 0 and set(last["shares"]) >= {"data", "forward", "backward", "optimiser", "other"}
    assert sum(last["shares"].values()) == pytest.approx(1, abs=0.01)
    # A later try, whose device is found to be twice as fast, goes on with the measure of the first.
    log = RunLog(out, settings)
    again = Meter(CPU, trainer.meter.flops_per_token)
    log.begin(3, again, 1, CPU, torch.float32)
    assert again.yardstick == trainer.meter.yardstick
    log.begin(3, again, 1, CPU, torch.bfloat16)
    added = json.loads((out / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert added["step"] == 3 and added["yardstick"]["dtype"] == "bf16"


def test_the_summary_in_words() -> None:
    figures = {"tokens_per_second": 2500.0, "model_flops_per_second": 3.2e11, "mfu": 0.412}
    yardstick = Yardstick(7.77e11, 4096, "bf16", "cpu", 4)
    assert in_words(75, 190_000, figures, yardstick, "2 steps skipped") == (
        "190.00k tokens in 1 m 15 s: 2.50k tokens/s, MFU 41% (320.00 GFLOP/s; a 4096^3 bf16 product here: "
        "777.00 GFLOP/s); 2 steps skipped"
    )
    assert in_words(75, 190_000, {}, None, "") == "190.00k tokens in 1 m 15 s"
