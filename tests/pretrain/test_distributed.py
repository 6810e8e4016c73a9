"""Several processes train as one: same rows, same gradients, same resume; every matrix is treated once."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from group import together  # type: ignore[import-not-found]
from tiny_runs import lines, make_model, make_order, make_settings, plant  # type: ignore[import-not-found]

from hanmo.errors import HanmoError, Interrupted
from hanmo.models.loss import IGNORE
from hanmo.pretrain import optimizer
from hanmo.pretrain.distributed import World, joined
from hanmo.pretrain.guard import GuardSettings
from hanmo.pretrain.optimizer import local
from hanmo.pretrain.rows import filled_up
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.pretrain.trainer import Batches, Trainer
from hanmo.tokens.order import Order, Rows

CPU = torch.device("cpu")


class Partial:
    """An order in which a fifth of the targets do not count, and of every third row only the first eight do."""

    mix, form = None, 1

    def __init__(self, order: Order) -> None:
        self._order = order

    def rows(self, first: int, count: int) -> Rows:
        rows = self._order.rows(first, count)
        targets = np.where(rows.targets % 5 == 0, IGNORE, rows.targets)
        targets[np.arange(first, first + count) % 3 == 0, 8:] = IGNORE
        return Rows(rows.inputs, targets, rows.position, rows.segment)


def settings(**more):
    return make_settings().model_copy(
        update={"threads": 1, "warmup_tokens": 0, "clip": 0.1, "micro_tokens": 32, **more}
    )


def trainer(out: Path, world: World | None, order=None, **more) -> Trainer:
    return Trainer(make_model(), settings(**more), order or make_order(), out, torch.float32, world=world)


def gradients(found: Trainer) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradients of the first step, whole, as they stand before the optimiser."""
    kept = {}

    def keep(limit: float) -> torch.Tensor:
        for name, parameter in found.model.named_parameters():
            grad = parameter.grad
            kept[name] = (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).clone()
        return torch.zeros(())

    found.spread.clip = keep  # type: ignore[method-assign]
    mine = found._rows(0)
    targets = found.world.sum(int(np.count_nonzero(mine.targets != IGNORE)))[0]
    return found._one_step(mine, int(targets)), kept


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], **how: float) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], msg=lambda words, name=name: f"{name}: {words}", **how)


def same_gradients(out: Path, whole: Path, rows: int) -> None:
    """In a group: both ways come to the gradient of one process, and every matrix is orthogonalised once."""
    loss, expected = torch.load(whole)
    done = []
    real = optimizer.orthogonalise
    optimizer.orthogonalise = lambda stack, *how, **more: done.append(len(stack)) or real(stack, *how, **more)
    for parallel, recompute in (("ddp", "none"), ("fsdp", "none"), ("fsdp", "layers")):
        done.clear()
        with joined(settings(parallel=parallel)) as world:
            # 6 rows over 4 processes are 2, 1, 2, 1: the shares are uneven and the targets in them, too.
            more = {"batch_tokens": 32 * rows, "parallel": parallel, "recompute": recompute}
            found = trainer(out / parallel, world, Partial(make_order()), **more)
            got, kept = gradients(found)
            assert got == pytest.approx(loss, rel=1e-6)
            close(kept, expected, rtol=1e-4, atol=1e-6)
            matrices = list(found.optimizers[1].param_groups[0]["params"])
            assert sum(world.gathered(lambda: sum(done))) == len(matrices) == 28
            assert max(world.gathered(lambda: sum(done))) <= 28 / world.size + 3
            held = sum(local(p).numel() for p in found.model.parameters())
            if parallel == "fsdp":
                assert held < 1.1 / world.size * sum(p.numel() for p in make_model().parameters())


@pytest.mark.parametrize(("processes", "rows"), [(2, 5), (4, 6)])
def test_gradients_are_those_of_one_process(tmp_path: Path, processes: int, rows: int) -> None:
    one = trainer(tmp_path / "one", None, Partial(make_order()), batch_tokens=32 * rows)
    torch.save(gradients(one), tmp_path / "whole.pt")
    together(processes, same_gradients, tmp_path, tmp_path / "whole.pt", rows)


def run_some(out: Path, parallel: str, stop_at: int | None, stopping: int = 0, **more) -> None:
    """In a group, or alone: train, or go on, to the end or until one process is asked to stop; keep the weights."""
    with joined(settings(parallel=parallel)) as world:
        found = trainer(out, world, parallel=parallel, tokens=8 * 128, **more)
        found.resume()
        one_step = found._one_step

        def step(rows: Rows, targets: int) -> float:
            if found.step == stop_at and world.rank == stopping:
                found._stop.set()
            return one_step(rows, targets)

        found._one_step = step  # type: ignore[method-assign]
        if stop_at is None:
            found.run()
        else:
            with pytest.raises(Interrupted, match=f"stopped at step {stop_at + 1}; the same command"):
                found.run()
        model = found.spread.whole()
        if world.first:
            torch.save({name: p.detach().clone() for name, p in model.named_parameters()}, out / "weights.pt")


def go_on(out: Path) -> None:
    """In a group of 2: whole runs, and runs stopped by a signal at one process and resumed, both ways."""
    for parallel in ("ddp", "fsdp"):
        run_some(out / f"{parallel}-whole", parallel, None)
        run_some(out / f"{parallel}-torn", parallel, 2, stopping=1)
        run_some(out / f"{parallel}-torn", parallel, None)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in lines(out / "log.jsonl") if "loss" in line]


def test_resumed_on_the_same_and_on_other_layouts(tmp_path: Path) -> None:
    together(2, go_on, tmp_path)
    for parallel in ("ddp", "fsdp"):
        whole, torn = (torch.load(tmp_path / f"{parallel}-{kind}" / "weights.pt") for kind in ("whole", "torn"))
        assert all(torch.equal(value, torn[name]) for name, value in whole.items())
    run_some(tmp_path / "alone", "ddp", None)
    expected = losses(tmp_path / "alone")
    assert losses(tmp_path / "ddp-torn") == pytest.approx(expected, rel=2e-3)
    # Three processes go on where one stopped, one where they did, and two where that did: cut, whole, copied.
    moved = tmp_path / "moved"
    run_some(moved, "ddp", 1)
    together(3, run_some, moved, "fsdp", 3, 2)
    run_some(moved, "ddp", 5, micro_tokens=128)
    together(2, run_some, moved, "ddp", None)
    assert losses(moved) == pytest.approx(expected, rel=5e-3)


def one_cannot_read(out: Path) -> None:
    with joined(settings()) as world:
        found = trainer(out, world, tokens=8 * 128)
        rows = found._rows

        def torn(step: int) -> Rows:
            if step == 3 and world.rank == 1:
                raise HanmoError("shard 7 is torn")
            return rows(step)

        found._rows = torn  # type: ignore[method-assign]
        with pytest.raises(HanmoError, match="shard 7 is torn"):
            found.run()
        assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]


def compiled(out: Path) -> None:
    """In a group: the real compiler makes one graph for all layers under FSDP2, steps and looks at held-out text."""
    torch._dynamo.config.error_on_recompile = True  # type: ignore[attr-defined]
    torch._inductor.config.compile_threads = 1  # others would be processes of their own, which import torch
    torch._inductor.config.cpp.simdlen = 1  # plain loops, which the C++ compiler is quick with
    with joined(settings(parallel="fsdp")) as world:
        found = trainer(out, world, parallel="fsdp", compile=True, tokens=3 * 128)
        one_step = found._one_step

        def step(rows: Rows, targets: int) -> float:
            loss = one_step(rows, targets)
            found.spread.measure(Rows(rows.inputs[:1], rows.targets[:1], rows.position[:1], rows.segment[:1]))
            return loss

        found._one_step = step  # type: ignore[method-assign]
        found.run()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # the layer and the chunk of the loss


BAD = GuardSettings(skips=2, anchor_steps=4, rollbacks=2)


def one_sees_nan(out: Path) -> None:
    """In a group of 2: rows that only the second process gets are bad; both skip, go back and go on together."""
    for parallel in ("ddp", "fsdp"):
        with joined(settings(parallel=parallel)) as world:
            found = guarded(out / parallel, world, parallel=parallel)
            assert found.guard.rollbacks == 1
            assert len(set(world.gathered(lambda found=found: str(found.guard.state())))) == 1


def guarded(out: Path, world: World | None, **more) -> Trainer:
    """A run whose rows 22, 23 (step 5) and 26, 27 (step 6) are bad: two skips, and back to step 4."""
    found = trainer(out, world, guard=BAD, tokens=10 * 128, **more)
    bad = plant(plant(found, range(22, 24), math.nan), range(26, 28), math.nan)
    bad.run()
    return found


def test_what_is_no_number_in_one_is_skipped_by_all(tmp_path: Path) -> None:
    together(2, one_sees_nan, tmp_path)
    guarded(tmp_path / "alone", None)
    events = lines(tmp_path / "alone" / "guard.jsonl")
    assert [event.get("skipped") or event["back_to"] for event in events] == [*["the loss is nan"] * 2, 4]
    for parallel in ("ddp", "fsdp"):
        assert lines(tmp_path / parallel / "guard.jsonl") == events
        assert losses(tmp_path / parallel) == pytest.approx(losses(tmp_path / "alone"), rel=2e-3)


def several(out: Path) -> None:
    one_cannot_read(out / "torn")
    compiled(out / "compiled")


def test_a_fault_in_one_is_a_fault_of_all_and_compiled_steps_are_those_of_one(tmp_path: Path) -> None:
    together(2, several, tmp_path)
    alone = trainer(tmp_path / "alone", None, tokens=3 * 128)
    alone.run()
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "alone"), rel=2e-4)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_shares_of_a_batch(processes: int) -> None:
    worlds = [World(CPU, rank, processes) for rank in range(processes)]
    parts = [world.share(5) for world in worlds]
    assert [row for first, last in parts for row in range(first, last)] == list(range(5))
    batches = Batches.plan(settings(batch_tokens=5 * 32), processes)
    share = batches.share(5)
    assert batches.sizes.full == 5 and share == -(-5 // processes) and share % batches.micro == 0
    assert all(last - first in (share, share - 1) for first, last in parts)


def test_filled_up_rows_count_for_nothing() -> None:
    rows = make_order().rows(0, 2)
    more = filled_up(rows, 4)
    assert more.inputs.shape == (4, 32) and (more.targets[2:] == IGNORE).all() and filled_up(rows, 2) is rows
    step = PackedStep(make_model(), torch.float32, compiled=False, context=32)
    assert float(step.loss(more).detach()) == pytest.approx(float(step.loss(rows).detach()), rel=1e-6)
