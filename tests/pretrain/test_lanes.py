"""Lanes compute what one thread computes, and the same bits every time."""

from __future__ import annotations

import pytest
import torch

from hanmo.pretrain.alone import Alone
from hanmo.pretrain.distributed import World
from hanmo.pretrain.lanes import Laned
from hanmo.tokens.order import Order


@pytest.fixture
def threads():
    """Three threads, though a test may run on two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def gradients(way: Alone, rows) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    way.model.zero_grad()
    loss = way.loss(rows)
    (loss / rows.targets.size).backward()
    return loss.detach(), {name: p.grad.clone() for name, p in way.model.named_parameters()}


@pytest.mark.parametrize("count", [1, 4, 5, 6])
def test_lanes_equal_one_thread(tiny_model, tiny_settings, tiny_order: Order, threads, count: int) -> None:
    rows = tiny_order.rows(0, count)
    world = World(torch.device("cpu"))
    one, three = (gradients(way(tiny_model(), tiny_settings, torch.float32, world), rows) for way in (Alone, Laned))
    torch.testing.assert_close(one[0], three[0])
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, three[1][name], rtol=1e-4, atol=1e-5, msg=name)
    assert torch.get_num_threads() == 3


def test_the_same_bits_every_time(tiny_model, tiny_settings, tiny_order: Order, threads) -> None:
    rows = tiny_order.rows(0, 6)
    way = Laned(tiny_model(), tiny_settings, torch.float32, World(torch.device("cpu")))
    first, second = gradients(way, rows), gradients(way, rows)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[1][name], gradient) for name, gradient in second[1].items())
    assert way.measure(rows) == pytest.approx(float(first[0]), rel=1e-6)


def test_micro_batches_add_up(tiny_model, tiny_settings, tiny_order: Order, threads) -> None:
    way = Laned(tiny_model(), tiny_settings, torch.float32, World(torch.device("cpu")))
    _, whole = gradients(way, tiny_order.rows(0, 6))
    way.model.zero_grad()
    for start in (0, 3):
        (way.loss(tiny_order.rows(start, 3)) / 192).backward()
    for name, parameter in way.model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-5, msg=name)


def test_compiled_lanes(tiny_model, tiny_settings, tiny_order: Order, threads) -> None:
    rows = tiny_order.rows(0, 3)
    compiled = tiny_settings.model_copy(update={"compile": True})
    world = World(torch.device("cpu"))
    plain = gradients(Alone(tiny_model(), tiny_settings, torch.float32, world), rows)
    fast = gradients(Laned(tiny_model(), compiled, torch.float32, world), rows)
    torch.testing.assert_close(plain[0], fast[0])
    for name, gradient in plain[1].items():
        torch.testing.assert_close(gradient, fast[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_lanes_whose_compiler_has_given_up(tiny_model, tiny_settings, tiny_order: Order, threads) -> None:
    # It does so without a word where it has met eight shapes; the lanes' weights must not meet in one block then.
    rows = tiny_order.rows(0, 6)
    compiled = tiny_settings.model_copy(update={"compile": True})
    world = World(torch.device("cpu"))
    plain = gradients(Alone(tiny_model(), tiny_settings, torch.float32, world), rows)
    way = Laned(tiny_model(), compiled, torch.float32, world)
    with torch.compiler.set_stance("force_eager"):
        for _ in range(5):
            lanes = gradients(way, rows)
            torch.testing.assert_close(lanes[0], plain[0])
            for name, gradient in plain[1].items():
                torch.testing.assert_close(lanes[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)
