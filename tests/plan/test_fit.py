"""Layouts that fit, and the words about them; a run under a real limit dies without --fit and passes with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hanmo.plan.devices import Device
from hanmo.plan.fit import changes, choose, explain, layout_of, layouts, settle
from hanmo.plan.memory import need
from hanmo.plan.shape import Shape, of_new
from hanmo.plan.shortage import out_of_memory
from hanmo.pretrain.distributed import World
from hanmo.pretrain.settings import PretrainSettings

LARGE = PretrainSettings(preset="hanmo-1b5", context=2048, batch_tokens=2**19, micro_tokens=32768, device="cpu")


def new(preset: str, vocab: int, context: int) -> Shape:
    return of_new(PretrainSettings(preset=preset, context=context), vocab)


def cuda(gigabytes: float) -> Device:
    return Device("cuda", 1e14, gigabytes * 1e9)


def test_what_is_asked_for_is_kept_where_it_fits() -> None:
    shape = new("hanmo-1b5", 32768, 2048)
    asked = layout_of(LARGE, cuda(400))
    assert asked.micro_tokens == 32768 and asked.processes == 1
    found = choose(shape, asked, cuda(400))
    assert found and found[0] == asked


def test_less_memory_takes_smaller_pieces_then_recomputes_then_shards() -> None:
    shape = new("hanmo-1b5", 32768, 2048)
    asked = layout_of(LARGE, cuda(80))
    for gigabytes in (80, 48, 40):
        found = choose(shape, asked, cuda(gigabytes))
        assert found and found[1].total <= gigabytes * 1e9
        assert found[0].micro_tokens < asked.micro_tokens or found[0].recompute
    assert choose(shape, asked, cuda(24)) is None
    eight = layout_of(LARGE, cuda(24), processes=8)
    found = choose(shape, eight, cuda(24))
    assert found and found[0].parallel == "fsdp"


def test_needs_grow_as_they_should() -> None:
    shape = new("hanmo-92m", 32768, 1024)
    asked = layout_of(PretrainSettings(context=1024, batch_tokens=2**17, device="cpu"), cuda(80))
    whole = need(shape, asked)
    assert need(shape, asked.with_(micro_tokens=1024)).total < whole.total
    assert need(shape, asked.with_(recompute=True)).total < whole.total
    shared = need(shape, asked.with_(processes=4, parallel="fsdp"))
    assert shared.parts["weights (fp32)"] == whole.parts["weights (fp32)"] / 4
    adamw = need(shape, asked.with_(optimizer="adamw"))
    assert adamw.parts["optimiser state"] == 8 * shape.parameters
    muon = 4 * shape.layers * shape.layer + 8 * (shape.embedding + shape.gains)
    assert whole.parts["optimiser state"] == muon
    assert all(128 <= layout.micro_tokens <= 8192 for layout in layouts(asked, 1024))


def test_lanes_take_memory() -> None:
    """On a CPU each lane has gradients of its own."""
    shape = new("hanmo-92m", 16384, 512)
    settings = PretrainSettings(preset="hanmo-92m", context=512, batch_tokens=8192, threads=4)
    here = Device("cpu", 1e12, 1e12, cpu=True)
    asked = layout_of(settings, here)
    assert asked.lanes == 4 and layout_of(settings.model_copy(update={"compile": False}), here).lanes == 1
    with_lanes, without = need(shape, asked).total, need(shape, asked.with_(lanes=1)).total
    assert with_lanes > without + 3 * 4 * shape.parameters
    found = choose(shape, asked, Device("cpu", 1e12, (without + 1e8) / 0.92, cpu=True))
    assert found and found[0] != asked and found[1].total <= without + 1e8
    assert changes(asked, asked.with_(lanes=1)) == {"lanes": 1}
    assert layout_of(settings.model_copy(update={"lanes": 1}), here).lanes == 1


def tiny_model():
    """A random model of 320 tokens."""
    from transformers import Qwen3ForCausalLM

    from hanmo.models.presets import build_config

    return Qwen3ForCausalLM(build_config("hanmo-1m", 320, 32))


def test_recompute_auto_is_settled_by_the_memory_there_is(monkeypatch, capfd) -> None:
    settings = PretrainSettings(preset="hanmo-1m", context=32, batch_tokens=8192)
    world = World(torch.device("cpu"))
    for room, expected in ((4e9, "none"), (0.41e9, "layers")):
        monkeypatch.setattr("hanmo.plan.devices.room", lambda _, room=room: room)
        assert settle(settings, tiny_model(), world, torch.float32).recompute == expected
    assert "layers are recomputed in the backward pass" in capfd.readouterr().err
    fixed = settings.model_copy(update={"recompute": "none"})
    assert settle(fixed, tiny_model(), world, torch.float32).recompute == "none", "what is asked for is done"


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_shortage_is_told_from_other_faults(error: Exception, short: bool) -> None:
    assert out_of_memory(error) is short


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokens folder of 40,000 tokens with a tokenizer of 300."""
    from hanmo.api import tokenizer as train
    from hanmo.api import tokens as encode
    from hanmo.files import JsonlZstWriter

    folder = tmp_path_factory.mktemp("fit")
    corpus = folder / "corpus"
    for split, count in (("train", 150), ("heldout", 2)):
        (corpus / split).mkdir(parents=True)
        with JsonlZstWriter(corpus / split / "00000.jsonl.zst") as file:
            for number in range(count):
                text = "".join(chr(0x4E00 + (number * 7 + i * i) % 90) for i in range(120))
                file.write({"id": f"{split}{number}", "text": text, "source": "made", "meta": {}})
    train(corpus, folder / "tokenizer", vocab_size=300)
    encode(corpus, folder / "tokenizer", folder / "tokens", workers=1)
    return folder / "tokens"


def test_the_advice_names_settings(tokens: Path) -> None:
    small = PretrainSettings(preset="hanmo-1m", context=256, batch_tokens=8192, compile=False)
    words = explain(small, {"data": [tokens]}, Device("cpu", 1.0, 0.7e9, cpu=True))
    assert words.startswith("micro-batches of 8192 tokens need about") and "0.7 GB" not in words
    assert "can be had: set micro_tokens: " in words and words.endswith("or run it with --fit")
    assert "take a smaller preset" in explain(small, {"data": [tokens]}, Device("cpu", 1.0, 0.2e9, cpu=True))
    fits = explain(small, {"data": [tokens]}, Device("cpu", 1.0, 64e9, cpu=True), sure=False)
    assert not fits, "a run that was killed for another reason gets no advice about memory"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of processes as Linux has them")
def test_a_run_that_dies_of_too_little_memory_passes_with_fit(tokens: Path, tmp_path: Path) -> None:
    limit = 900_000_000
    command = [sys.executable, "-m", "hanmo", "pretrain", "--data", str(tokens), "--out", str(tmp_path / "base")]
    command += [
        "--preset",
        "hanmo-2m",
        "--context",
        "512",
        "--batch-tokens",
        "8192",
        "--tokens",
        "8k",
        "--threads",
        "1",
    ]
    command += ["--compile", "false", "--eval-every", "0", "--precision", "fp32", "--recompute", "none"]

    def run(*more: str) -> subprocess.CompletedProcess:
        limited = (
            f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_DATA, ({limit},) * 2); "
            "sys.argv = sys.argv[1:]; runpy.run_module('hanmo', run_name='__main__', alter_sys=True)"
        )
        return subprocess.run(
            [sys.executable, "-c", limited, *command[2:], *more],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    died = run()
    assert died.returncode == 2, died.stderr
    [line] = [line for line in died.stderr.splitlines() if "error" in line]
    assert "stage 'base': out of memory: micro-batches of 8192 tokens need about" in died.stderr, died.stderr
    assert not (tmp_path / "base" / "model").exists()
    passed = run("--fit")
    assert passed.returncode == 0, passed.stderr
    assert "fit: " in passed.stderr and line
    stage = json.loads((tmp_path / "base" / "manifest.json").read_text(encoding="utf-8"))
    assert 0 < stage["settings"]["micro_tokens"] < 8192 or stage["settings"]["recompute"] == "layers"
    assert stage["peak_anonymous_mb"] * 1e6 < limit
    weights = (tmp_path / "base" / "model" / "model.safetensors").stat().st_size
    assert weights > 4e6 and np.isfinite(stage["counts"]["loss"])
