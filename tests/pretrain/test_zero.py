"""DeepSpeed's ZeRO: the losses of one process, checkpoints that other ways read, steps left out, and clear faults."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pytest
import torch
from group import together  # type: ignore[import-not-found]
from tiny_runs import lines, make_model, make_order, make_settings, plant  # type: ignore[import-not-found]

from hanmo.errors import HanmoError, Interrupted
from hanmo.pretrain.distributed import World, joined
from hanmo.pretrain.guard import GuardSettings
from hanmo.pretrain.parallel import spread
from hanmo.pretrain.trainer import Trainer
from hanmo.tokens.order import Rows

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed (the extra deepspeed)"
)
ADAMW = {"optimizer": "adamw", "threads": 1, "warmup_tokens": 0, "clip": 0.1, "micro_tokens": 32, "tokens": 8 * 128}
STAGES = ("zero1", "zero2", "zero3", "zero2-offload", "zero3-offload")


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in lines(out / "log.jsonl") if "loss" in line]


def settings_of(parallel: str):
    return make_settings().model_copy(update={**ADAMW, "parallel": parallel, "guard": GuardSettings(skips=5)})


def run(out: Path, parallel: str, world: World, stop_at: int | None = None, bad: range | None = None) -> None:
    """Alone or in a group: train, or go on, to the end or to a step; keep the whole weights."""
    found = Trainer(make_model(), settings_of(parallel), make_order(), out, torch.float32, world=world)
    found.resume()
    if bad:
        plant(found, bad, float("nan"))
    one_step = found._one_step

    def step(rows: Rows, targets: int) -> float:
        if found.step == stop_at and world.rank == 0:
            found._stop.set()
        loss = one_step(rows, targets)
        if found.step == 2:  # a look between two steps
            found.spread.measure(Rows(rows.inputs[:1], rows.targets[:1], rows.position[:1], rows.segment[:1]))
        return loss

    found._one_step = step  # type: ignore[method-assign]
    if stop_at is None:
        found.run()
    else:
        with pytest.raises(Interrupted):
            found.run()
    model = found.spread.whole()
    if world.first:
        torch.save({name: p.detach().clone() for name, p in model.named_parameters()}, out / "weights.pt")


def all_ways(out: Path) -> None:
    """In a group of 2: whole runs and stopped ones of every stage, and ones that leave a step out."""
    with joined(settings_of("zero1")) as world:
        for parallel in STAGES:
            run(out / parallel, parallel, world)
        for parallel in ("zero2", "zero3", "zero3-offload"):
            run(out / f"{parallel}-torn", parallel, world, 3)
            run(out / f"{parallel}-torn", parallel, world)
            run(out / f"{parallel}-bad", parallel, world, bad=range(10, 11))
        run(out / "moved", "zero3", world, 2)
        run(out / "moved", "fsdp", world, 4)
        run(out / "moved", "zero1", world)


@needs_deepspeed
def test_all_stages_learn_what_one_process_learns(tmp_path: Path) -> None:
    alone = World(torch.device("cpu"))
    run(tmp_path / "alone", "ddp", alone)
    run(tmp_path / "alone-bad", "ddp", alone, bad=range(10, 11))
    together(2, all_ways, tmp_path)
    expected, weights = losses(tmp_path / "alone"), torch.load(tmp_path / "alone" / "weights.pt")
    for parallel in (*STAGES, "moved"):
        assert losses(tmp_path / parallel) == pytest.approx(expected, rel=1e-5), parallel
        for name, value in torch.load(tmp_path / parallel / "weights.pt").items():
            torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=2e-5)
    for parallel in ("zero2", "zero3", "zero3-offload"):
        whole, torn = (torch.load(tmp_path / f"{parallel}{kind}" / "weights.pt") for kind in ("", "-torn"))
        assert all(torch.equal(value, torn[name]) for name, value in whole.items())
        events = lines(tmp_path / f"{parallel}-bad" / "guard.jsonl")
        assert events == lines(tmp_path / "alone-bad" / "guard.jsonl") and len(events) == 1
        assert losses(tmp_path / f"{parallel}-bad") == pytest.approx(losses(tmp_path / "alone-bad"), rel=1e-5)


def test_what_cannot_be_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings().model_copy(update={**ADAMW, "parallel": "zero2"})
    two = World(torch.device("cpu"), 0, 2)

    def refused(dtype: torch.dtype = torch.float32, world: World = two, **more) -> str:
        with pytest.raises(HanmoError) as caught:
            spread(make_model(), settings.model_copy(update=more), dtype, world)
        return str(caught.value)

    assert "in which Muon finds no matrices: set optimizer: adamw" in refused(optimizer="muon")
    assert "does bf16 and fp32" in refused(torch.float16)
    alone = World(torch.device("cpu"))
    assert "is for several processes, and this is one" in refused(world=alone, parallel="zero3-offload")
    monkeypatch.setitem(__import__("sys").modules, "deepspeed", None)
    assert refused() == 'deepspeed is not installed: pip install "hanmo[deepspeed]"'


def test_what_deepspeed_says_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """Its logger is given a handler for stdout when it is imported, which accelerate does where it is installed."""
    import sys

    logger, handler = logging.getLogger("DeepSpeed"), logging.StreamHandler(sys.stdout)
    before = logger.level
    logger.setLevel(logging.INFO)  # as DeepSpeed does; an exporter that ran before may have quietened all others
    logger.addHandler(handler)
    logger.warning("no accelerator was found")
    logger.removeHandler(handler)
    logger.setLevel(before)
    said = capfd.readouterr()
    assert said.out == "" and said.err == "DeepSpeed: no accelerator was found\n"
