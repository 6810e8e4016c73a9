"""Tiny models, orders and runs; in a module of a name of its own, which the processes of a group import as well."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.trainer import Trainer
from hanmo.tokens.order import Order, Rows
from hanmo.tokens.shards import split_of

#: A stage's settings under which a run of a few steps takes a second.
QUICK = {
    "preset": "hanmo-1m",
    "context": 32,
    "batch_tokens": 128,
    "warmup_tokens": 256,
    "tokens": 1280,
    "precision": "fp32",
    "compile": False,
    "log_every": 1,
    "threads": 1,
    "device": "cpu",
    "sample_prompts": [],
}


def make_order() -> Order:
    """Rows of 32 over 60 documents in which every token is followed by the next number: learnable in a few steps."""
    generator = np.random.Generator(np.random.PCG64(0))
    pieces, ends, total = [], [], 0
    for _ in range(60):
        length = int(generator.integers(3, 40))
        start = int(generator.integers(3, 300))
        pieces.append(np.concatenate([np.arange(start, start + length) % 300 + 3, [0]]))
        total += length + 1
        ends.append(total)
    return Order(split_of(np.concatenate(pieces).astype(np.uint16), np.array(ends)), 32, seed=1)


def make_settings() -> PretrainSettings:
    """20 steps of 4 rows, eager and in fp32 so that a test takes a second."""
    return PretrainSettings(
        preset="hanmo-1m",
        tokens=20 * 128,
        context=32,
        batch_tokens=128,
        warmup_tokens=256,
        precision="fp32",
        compile=False,
        eval_every=0,
        log_every=1,
    )


def make_model():
    """The same random model of 320 tokens every time."""
    from transformers import Qwen3ForCausalLM

    from hanmo.models.presets import build_config

    torch.manual_seed(0)
    return Qwen3ForCausalLM(build_config("hanmo-1m", 320, 32)).train()


def plant(trainer: Trainer, rows: range, factor: float) -> Trainer:
    """Make a trainer that cannot digest some rows of its order: their loss is multiplied by NaN, Inf, or much.

    They are known by their content, so that it does not matter in which step, or process, they come.
    """
    bad = {trainer.order.rows(row, 1).targets.tobytes() for row in rows}
    inner = trainer.spread.loss

    def loss(piece: Rows) -> torch.Tensor:
        found = inner(piece)
        return found * factor if any(row.tobytes() in bad for row in piece.targets) else found

    trainer.spread.loss = loss  # type: ignore[method-assign]
    return trainer


def lines(path: Path) -> list[dict]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def weights(model) -> dict[str, torch.Tensor]:
    """A model's parameters, copied."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def run_stage(data: Path | list[Path], out: Path, model: Path | None = None, **options) -> dict:
    """Run the pretraining stage in this process; its counts."""
    from hanmo.pretrain import stage

    inputs = {"data": data if isinstance(data, list) else [data]} | ({"model": [model]} if model else {})
    return stage.run(PretrainSettings(**{**QUICK, **options}), inputs, out)


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a model folder."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
