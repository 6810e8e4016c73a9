"""Planted NaN, Inf and spikes: what is skipped, where a run goes back to, and that a killed run decides the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import lines, plant, weights  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.pretrain.guard import Guard, GuardSettings
from hanmo.pretrain.trainer import Trainer
from hanmo.tokens.order import Order


def train(model, settings, order: Order, out: Path, rows: range, factor: float, until: int | None = None) -> Trainer:
    trainer = plant(Trainer(model, settings, order, out, torch.float32), rows, factor)
    trainer.resume()
    if until is not None:
        one_step = trainer._one_step

        def stopping(piece: Any, targets: int) -> float:
            if trainer.step == until:
                trainer._stop.set()
            return one_step(piece, targets)

        trainer._one_step = stopping  # type: ignore[method-assign]
        with pytest.raises(Exception, match="stopped at step"):
            trainer.run()
    else:
        trainer.run()
    return trainer


def test_a_step_without_numbers_leaves_weights_and_optimiser_alone(tiny_model, tiny_settings, tiny_order, out) -> None:
    trainer = plant(Trainer(tiny_model(), tiny_settings, tiny_order, out, torch.float32), range(4, 8), math.nan)
    trainer._one_step(trainer._rows(0), 128)
    trainer.step = 1
    before = weights(trainer.model)
    moments = {
        k: v.clone() for k, v in trainer.optimizers[1].state[trainer.model.model.layers[0].mlp.up_proj.weight].items()
    }
    trainer._one_step(trainer._rows(1), 128)
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer.model).items())
    after = trainer.optimizers[1].state[trainer.model.model.layers[0].mlp.up_proj.weight]
    assert all(torch.equal(value, after[name]) for name, value in moments.items())
    trainer.step = 2
    trainer._one_step(trainer._rows(2), 128)
    assert not torch.equal(weights(trainer.model)["model.norm.weight"], before["model.norm.weight"])


def test_skipped_steps_are_counted_and_told(tiny_model, tiny_settings, tiny_order, out: Path, capfd) -> None:
    trainer = train(tiny_model(), tiny_settings, tiny_order, out, range(20, 28), math.inf)
    assert trainer.guard.skipped == 2 and trainer.guard.rollbacks == 0
    assert lines(out / "guard.jsonl") == [
        {"step": 5, "skipped": "the loss is inf", "rows": [20, 24]},
        {"step": 6, "skipped": "the loss is inf", "rows": [24, 28]},
    ]
    log = [line for line in lines(out / "log.jsonl") if line["step"]]
    assert ["loss" in line for line in log[4:8]] == [True, False, False, True]
    assert log[-1]["skipped"] == 2 and log[-1]["rollbacks"] == 0 and "skipped" not in log[4]
    assert "step 5 is skipped: the loss is inf" in capfd.readouterr().err
    assert all(torch.isfinite(value).all() for value in weights(trainer.model).values())


def test_spikes_of_the_gradient_are_skipped(tiny_model, tiny_settings, tiny_order, out: Path) -> None:
    settings = tiny_settings.model_copy(update={"guard": GuardSettings(window=16, deviations=0)})
    trainer = train(tiny_model(), settings, tiny_order, out, range(40, 41), 1000.0)
    assert trainer.guard.skipped == 1
    (event,) = lines(out / "guard.jsonl")
    assert event["step"] == 10 and "the gradient's norm is" in event["skipped"] and event["rows"] == [40, 44]


def test_judging() -> None:
    guard = Guard(GuardSettings(window=16, deviations=8, norm_ratio=10))
    assert guard.judge(0, 3.0, 1.0) == "" and guard.judge(1, 300.0, 1.0) == ""  # nothing to compare with yet
    for step in range(2, 9):
        assert guard.judge(step, 3 + 0.1 * (step % 3), 1.0) == ""
    assert guard.judge(9, 4.2, 1.0) == ""  # 3.1 and 8 * 1.4826 * 0.1 are 4.286
    assert "the loss is 4.4, the last ones were about 3.1" in guard.judge(10, 4.4, 1.0)
    assert guard.judge(11, 3.2, 1.0) == "" and guard.skipped == 1
    assert "the gradient's norm is 11" in guard.judge(12, 3.2, 11.0)
    assert guard.judge(13, 3.2, math.nan) == "the gradient's norm is nan"
    again = Guard(guard.settings)
    again.load(json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()


ANCHORED = GuardSettings(skips=3, anchor_steps=4, rollbacks=2)


@pytest.mark.parametrize("until", [None, 6, 8])
def test_a_bad_stretch_is_gone_back_from_and_passed_over_the_same_after_a_kill(
    tiny_model, tiny_settings, tiny_order, tmp_path: Path, until: int | None
) -> None:
    settings = tiny_settings.model_copy(update={"guard": ANCHORED, "tokens": 14 * 128})
    bad = range(24, 40)  # steps 6 to 9; three skips lead back to step 4
    model = tiny_model()
    if until is None:
        # The same as a run whose rows 16 to 35 do not exist, from step 4 on, where step 4 then skips 36 to 39.
        trainer = train(model, settings, tiny_order, tmp_path / "run", bad, math.nan)
        assert trainer.guard.rollbacks == 1 and trainer.guard.offset == 20 and trainer.guard.skipped == 4
        events = lines(tmp_path / "run" / "guard.jsonl")
        assert [event.get("rows") or event["back_to"] for event in events] == [
            [24, 28],
            [28, 32],
            [32, 36],
            4,
            [36, 40],
        ]
        assert [line["step"] for line in lines(tmp_path / "run" / "log.jsonl")] == list(range(15))
        plain = tiny_model()
        by_hand = Trainer(plain, settings, tiny_order, tmp_path / "hand", torch.float32)
        for step, first in enumerate([0, 4, 8, 12, None, *range(40, 76, 4)]):
            by_hand.step = step
            if first is not None:
                by_hand._one_step(tiny_order.rows(first, 4), 128)
        assert all(torch.equal(value, weights(model)[name]) for name, value in weights(plain).items())
        return
    train(tiny_model(), settings, tiny_order, tmp_path / "killed", bad, math.nan, until=until)
    train(model, settings, tiny_order, tmp_path / "killed", bad, math.nan)
    whole = tiny_model()
    train(whole, settings, tiny_order, tmp_path / "whole", bad, math.nan)
    assert all(torch.equal(value, weights(model)[name]) for name, value in weights(whole).items())
    events = [(tmp_path / name / "guard.jsonl").read_text() for name in ("whole", "killed")]
    assert events[0] == events[1]


def test_a_run_that_does_not_recover_gives_up_in_one_line(tiny_model, tiny_settings, tiny_order, out: Path) -> None:
    settings = tiny_settings.model_copy(update={"guard": ANCHORED, "tokens": 60 * 128})
    with pytest.raises(
        HanmoError,
        match=r"the loss is nan: 3 steps in a row are skipped since step 4, and the run has gone back 2 times",
    ):
        train(tiny_model(), settings, tiny_order, out, range(24, 240), math.nan)
    assert sum("back_to" in event for event in lines(out / "guard.jsonl")) == 2
