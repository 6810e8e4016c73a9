"""A tiny folder of token shards that the tests of this room train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hanmo.pretrain.settings import PretrainSettings
from hanmo.tokens.order import Order
from hanmo.tokens.shards import split_of

torch.set_num_threads(1)


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


@pytest.fixture(scope="session")
def tiny_order() -> Order:
    """See `make_order`."""
    return make_order()


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


@pytest.fixture
def tiny_settings() -> PretrainSettings:
    """See `make_settings`."""
    return make_settings()


def make_model():
    """The same random model of 320 tokens every time."""
    from transformers import Qwen3ForCausalLM

    from hanmo.models.presets import build_config

    torch.manual_seed(0)
    return Qwen3ForCausalLM(build_config("hanmo-1m", 320, 32)).train()


@pytest.fixture
def tiny_model():
    """See `make_model`."""
    return make_model


def weights(model) -> dict[str, torch.Tensor]:
    """A model's parameters, copied."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for a run."""
    return tmp_path
