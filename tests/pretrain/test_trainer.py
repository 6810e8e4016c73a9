"""The trainer: it learns, it resumes to the bit, it extends, and micro-batches do not change what it computes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from tiny_runs import weights  # type: ignore[import-not-found]
from torch.distributed.checkpoint import FileSystemWriter

from hanmo.errors import HanmoError, Interrupted
from hanmo.pretrain.optimizer import orthogonalise
from hanmo.pretrain.settings import PretrainSettings, parse_count
from hanmo.pretrain.trainer import Batches, Trainer


def trained(model, settings: PretrainSettings, order, out: Path, stop_at: int | None = None) -> Trainer:
    """Run (or go on with) a training; with `stop_at`, ask for a stop once that step is reached."""
    trainer = Trainer(model, settings, order, out, torch.float32)
    trainer.resume()
    if stop_at is None:
        trainer.run()
        return trainer
    one_step = trainer._one_step

    def stopping(rows, targets):
        if trainer.step == stop_at:
            trainer._stop.set()
        return one_step(rows, targets)

    trainer._one_step = stopping  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        trainer.run()
    return trainer


def log(out: Path) -> list[dict]:
    """The lines of log.jsonl."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_loss_falls(tiny_model, tiny_settings, tiny_order, out: Path) -> None:
    trained(tiny_model(), tiny_settings, tiny_order, out)
    losses = [line["loss"] for line in log(out) if "loss" in line]
    assert len(losses) == 20 and losses[-1] < losses[0] - 1


@pytest.mark.parametrize("stop_at", [0, 3, 11, 15])
def test_resumed_is_bit_identical(tiny_model, tiny_settings, tiny_order, tmp_path: Path, stop_at: int) -> None:
    whole = tiny_model()
    trained(whole, tiny_settings, tiny_order, tmp_path / "whole")
    torn = tmp_path / "torn"
    trained(tiny_model(), tiny_settings, tiny_order, torn, stop_at=stop_at)
    resumed = tiny_model()
    trained(resumed, tiny_settings, tiny_order, torn)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert [line["step"] for line in log(torn)] == list(range(21))


def test_extended_equals_the_longer_run(tiny_model, tiny_settings, tiny_order, tmp_path: Path) -> None:
    longer = tiny_settings.model_copy(update={"tokens": 32 * 128})
    whole = tiny_model()
    trained(whole, longer, tiny_order, tmp_path / "whole")
    trained(tiny_model(), tiny_settings, tiny_order, tmp_path / "grown")
    grown = tiny_model()
    trainer = Trainer(grown, longer, tiny_order, tmp_path / "grown", torch.float32)
    assert trainer.resume() and trainer.step == 12  # the decay of the 20 steps began there
    trainer.run()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(grown)[name]), name


def test_torn_checkpoint_is_passed_over(tiny_model, tiny_settings, tiny_order, out: Path, capfd) -> None:
    trained(tiny_model(), tiny_settings, tiny_order, out, stop_at=15)
    newest = sorted((out / "checkpoints").iterdir())[-1]
    file = newest / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-100])
    trainer = Trainer(tiny_model(), tiny_settings, tiny_order, out, torch.float32)
    assert trainer.resume() and trainer.step == 12
    assert "is torn" in capfd.readouterr().err


def test_a_full_disk_loses_no_checkpoint(
    tiny_model, tiny_settings, tiny_order, out: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    often = tiny_settings.model_copy(update={"checkpoint_steps": 4})
    trainer = Trainer(tiny_model(), often, tiny_order, out, torch.float32)
    one_step = trainer._one_step

    def filling(rows, targets):
        if trainer.step == 6:
            monkeypatch.setattr(FileSystemWriter, "write_data", full)
        return one_step(rows, targets)

    trainer._one_step = filling  # type: ignore[method-assign]
    with pytest.raises(HanmoError, match=r"the last checkpoint could not be written \(the disk is full\); mend"):
        trainer.run()
    said = capfd.readouterr().err
    assert said.count("no checkpoint could be written (the disk is full)") == 4  # at 8, 12, 16 and the end
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000004"]
    monkeypatch.undo()
    resumed = Trainer(tiny_model(), often, tiny_order, out, torch.float32)
    assert resumed.resume() and resumed.step == 4
    resumed.run()
    assert sorted(path.name[-2:] for path in (out / "checkpoints").iterdir()) == ["12", "16", "20"]


def test_another_order_of_documents_is_refused(tiny_model, tiny_settings, tiny_order, out: Path, monkeypatch) -> None:
    trained(tiny_model(), tiny_settings, tiny_order, out, stop_at=3)
    monkeypatch.setattr(tiny_order, "form", 2)
    with pytest.raises(HanmoError, match="an earlier version began this run"):
        Trainer(tiny_model(), tiny_settings, tiny_order, out, torch.float32).resume()


def test_micro_batches_change_only_rounding(tiny_model, tiny_settings, tiny_order, tmp_path: Path) -> None:
    whole, cut = tiny_model(), tiny_model()
    # The first steps of AdamW move a weight by the whole rate, one way or the other, where rounding decides.
    few = tiny_settings.model_copy(update={"tokens": 3 * 128, "warmup_tokens": 0, "lr": 3e-3})
    trained(whole, few, tiny_order, tmp_path / "a")
    trained(cut, few.model_copy(update={"micro_tokens": 32}), tiny_order, tmp_path / "b")
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(cut)[name], rtol=2e-2, atol=2e-3, msg=name)


def test_nan_is_one_line(tiny_model, tiny_settings, tiny_order, out: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(HanmoError, match="the loss is nan: 5 steps in a row are skipped since step 0, and there is no"):
        trained(model, tiny_settings, tiny_order, out)


def test_batches() -> None:
    settings = PretrainSettings(context=32, batch_tokens=32 * 12, micro_tokens=32 * 5)
    batches = Batches.plan(settings)
    assert batches.sizes.full == 12 and batches.micro == 4 and batches.piece(9) == 3
    assert Batches.plan(settings, processes=5).share(12) == 3
    with pytest.raises(HanmoError, match="batch_tokens: 100 is no multiple of context 32; 96 is"):
        Batches.plan(PretrainSettings(context=32, batch_tokens=100))


def test_orthogonalise() -> None:
    torch.manual_seed(0)
    # A square random matrix has singular values near 0, which no few iterations lift: oblong ones only.
    for shape in ((3, 32, 64), (2, 64, 32)):
        for dtype in (torch.bfloat16, torch.float32):
            values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), dtype).float())
            assert values.min() > 0.6 and values.max() < 1.3
    # Directions of a hundredth of the largest are lifted, too.
    values = torch.linalg.svdvals(orthogonalise(torch.diag(torch.tensor([1.0] + 31 * [0.01]))[None], torch.float32))
    assert values.min() > 0.6 and values.max() < 1.3
    assert not orthogonalise(torch.zeros(2, 8, 16), torch.float16).any()


@pytest.mark.parametrize("shape", [(2, 32, 64), (2, 64, 32), (2, 48, 48)])
def test_orthogonalise_is_the_quintic_behind_a_bound_of_the_largest_singular_value(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    matrices = torch.randn(shape)
    x = matrices.double()
    bound = torch.linalg.svdvals(x).pow(8).sum(-1).pow(1 / 8)
    x = x / bound[:, None, None]
    for _ in range(4):
        x = 3.4445 * x - 4.7750 * x @ x.mT @ x + 2.0315 * x @ x.mT @ x @ x.mT @ x
    torch.testing.assert_close(orthogonalise(matrices, torch.float32), x.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("text", "count"), [("3M", 3_000_000), ("1.5k", 1500), ("2B", 2 * 10**9), (7, 7)])
def test_counts(text: object, count: int) -> None:
    assert parse_count(text) == count


def test_counts_refuse_words() -> None:
    with pytest.raises(ValueError, match="'many' is not a count"):
        PretrainSettings(tokens="many")  # type: ignore[arg-type]
