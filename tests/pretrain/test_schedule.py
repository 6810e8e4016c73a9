"""Learning rates and batch sizes as functions of the step, and runs that are extended or killed under each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import weights  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.pretrain.optimizer import momentum_at
from hanmo.pretrain.schedule import SHAPES, BatchSizes, Schedule
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.trainer import Trainer


def schedule(**options) -> Schedule:
    settings = PretrainSettings(context=32, batch_tokens=128, **options)
    return Schedule.of(settings, BatchSizes.of(settings))


def test_wsd_up_to_the_decay_knows_no_budget() -> None:
    short, long = (schedule(tokens=steps * 128, warmup_tokens=10 * 128) for steps in (100, 200))
    assert short == Schedule(100, 10, 40)
    assert all(short.factor(step) == long.factor(step) for step in range(short.decay_start))
    assert short.factor(0) == pytest.approx(1 / 11) and short.factor(10) == 1
    assert 0 < short.factor(99) < 0.03 and short.factor(59) == 1


def test_a_budget_below_the_warm_up_does_not_change_it() -> None:
    short, long = (schedule(tokens=steps * 128, warmup_tokens=50 * 128) for steps in (20, 200))
    assert short.warmup == long.warmup == 50
    assert all(short.factor(step) == long.factor(step) for step in range(short.decay_start))


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_shapes_fall_from_one_to_zero(shape: str) -> None:
    values = [SHAPES[shape](left / 10) for left in range(10, -1, -1)]
    assert values[0] == 1 and values[-1] == pytest.approx(0)
    assert values == sorted(values, reverse=True)
    middle = {"linear": 0.5, "sqrt": 1 - 0.5**0.5, "cosine": 0.5}[shape]
    assert SHAPES[shape](0.5) == pytest.approx(middle)


def test_cosine_to_a_tenth() -> None:
    """TinyLlama's Chinese recipe: 4e-4 to 4e-5 along a cosine, after 200 steps of warm-up."""
    one = schedule(schedule="cosine", tokens=1000 * 128, warmup_tokens=200 * 128, min_lr=0.1)
    assert one.warmup == one.decay_start == 200
    assert one.factor(199) < 1 and one.factor(200) == pytest.approx(1, abs=1e-5)
    assert one.factor(600) == pytest.approx(0.55, abs=2e-3)
    assert one.factor(999) == pytest.approx(0.1, abs=1e-5)


def test_constant_and_linear() -> None:
    assert {schedule(schedule="constant", tokens=12800, warmup_tokens=0).factor(step) for step in range(100)} == {1.0}
    line = schedule(schedule="linear", tokens=12800, warmup_tokens=0, min_lr=0.5)
    assert line.factor(50) == pytest.approx(0.75, abs=0.01) and line.factor(99) == pytest.approx(0.5, abs=0.01)


def test_the_batch_grows_in_stages_of_equal_tokens() -> None:
    settings = PretrainSettings(
        context=32, batch_tokens=32 * 12, batch_start=32 * 2, batch_warmup_tokens=32 * 48, tokens=32 * 100
    )
    sizes = BatchSizes.of(settings)
    assert sizes == BatchSizes(12, ((2, 8), (4, 4), (8, 2)))
    rows = [sizes.rows(step) for step in range(20)]
    assert rows == [2] * 8 + [4] * 4 + [8] * 2 + [12] * 6
    assert [sizes.first(step) for step in range(21)] == [sum(rows[:step]) for step in range(21)]
    for count in range(1, 121):  # the fewest steps that have so many rows
        steps = sizes.steps(count)
        assert sizes.first(steps) >= count > sizes.first(steps - 1)
    one = Schedule.of(settings, sizes)
    assert one.steps == 19 and sizes.first(19) * 32 >= settings.tokens


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"batch_start": 100, "batch_warmup_tokens": 640}, "batch_start: 100 is no multiple of context 32; 96 is"),
        ({"batch_start": 64}, "batch_start is given without batch_warmup_tokens"),
        ({"batch_warmup_tokens": 64}, "batch_warmup_tokens is given without batch_start"),
        ({"batch_start": 256, "batch_warmup_tokens": 640}, "batch_start: 256 is more than batch_tokens"),
    ],
)
def test_batches_that_cannot_grow_are_one_line(given: dict, line: str) -> None:
    with pytest.raises(HanmoError, match=line):
        BatchSizes.of(PretrainSettings(context=32, batch_tokens=128, **given))


def run(model, settings, order, out: Path, until: int | None = None) -> Trainer:
    """Train, going on from what is in `out`; with `until`, only so far as a run that is killed after that step."""
    trainer = Trainer(model, settings, order, out, torch.float32)
    trainer.resume()
    if until is not None:
        trainer.log.begin(trainer.step, trainer.meter, 0, torch.device("cpu"), torch.float32)
        while trainer.step < until:
            rows = trainer._rows(trainer.step)
            trainer._one_step(rows, rows.targets.size)
            trainer.step += 1
        trainer.save()
        trainer.store.close()
        return trainer
    trainer.run()
    return trainer


GROWING = {"batch_start": 32, "batch_warmup_tokens": 640, "tokens": 1792}


def test_a_growing_batch_sees_every_row_once_and_resumes_to_the_bit(
    tiny_model, tiny_settings, tiny_order, tmp_path: Path
) -> None:
    settings = tiny_settings.model_copy(update=GROWING)
    whole, killed = tiny_model(), tiny_model()
    trainer = run(whole, settings, tiny_order, tmp_path / "whole")
    assert trainer.sizes == BatchSizes(4, ((1, 10), (2, 5)))
    seen = [trainer._rows(step).targets for step in range(trainer.schedule.steps)]
    assert (torch.cat([torch.from_numpy(one) for one in seen]).numpy() == tiny_order.rows(0, 56).targets).all()
    run(tiny_model(), settings, tiny_order, tmp_path / "killed", until=12)
    run(killed, settings, tiny_order, tmp_path / "killed")
    assert all(torch.equal(value, weights(killed)[name]) for name, value in weights(whole).items())
    longer = settings.model_copy(update={"tokens": 4096})
    grown, long = tiny_model(), tiny_model()
    run(grown, longer, tiny_order, tmp_path / "whole")
    run(long, longer, tiny_order, tmp_path / "long")
    assert all(torch.equal(value, weights(grown)[name]) for name, value in weights(long).items())


def test_cosine_with_a_larger_budget_goes_on_from_the_warm_up_and_says_so(
    tiny_model, tiny_settings, tiny_order, tmp_path: Path, capfd
) -> None:
    settings = tiny_settings.model_copy(update={"schedule": "cosine", "tokens": 8 * 128})
    longer = settings.model_copy(update={"tokens": 12 * 128})
    run(tiny_model(), settings, tiny_order, tmp_path / "grown")
    grown, long = tiny_model(), tiny_model()
    run(grown, longer, tiny_order, tmp_path / "grown")
    said = capfd.readouterr().err
    assert "schedule: cosine falls from the end of the warm-up on" in said and "resuming at step 2 of 12" in said
    run(long, longer, tiny_order, tmp_path / "long")
    assert all(torch.equal(value, weights(grown)[name]) for name, value in weights(long).items())


def test_the_momentum_rises_and_knows_nothing_of_the_budget() -> None:
    assert momentum_at(0) == 0.85 and momentum_at(150) == pytest.approx(0.9)
    assert momentum_at(300) == momentum_at(10**6) == 0.95
