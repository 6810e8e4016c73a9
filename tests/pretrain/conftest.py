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


def run_stage(data: Path | list[Path], out: Path, model: Path | None = None, **options) -> dict:
    """Run the pretraining stage in this process; its counts."""
    from hanmo.pretrain import stage

    inputs = {"data": data if isinstance(data, list) else [data]} | ({"model": [model]} if model else {})
    return stage.run(PretrainSettings(**{**QUICK, **options}), inputs, out)


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a model folder."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="session")
def make_tokens(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path):
    """A function that makes a tokens folder of random ids by name, with sources and a tokenizer."""
    import shutil

    from hanmo.files import read_json, write_json
    from hanmo.tokens.shards import ShardWriter
    from hanmo.tokens.stage import _amount

    def make(
        name: str, sources: list[str], tokenizer: Path = tiny_tokenizer_dir, size: int = 400, seed: int = 1
    ) -> Path:
        folder = tmp_path_factory.mktemp("data") / name
        chooser = np.random.default_rng(seed)
        shards: dict[str, list[dict]] = {}
        for split, count in (("train", 3), ("heldout", 1)):
            for number in range(count):
                with ShardWriter(folder / split, number, size, "abc") as shard:
                    lengths = chooser.integers(10, 60, 12)
                    ids = chooser.integers(5, size, lengths.sum())
                    ids[np.cumsum(lengths) - 1] = 0
                    shard.write(ids, np.cumsum(lengths), 3 * lengths, [n % len(sources) for n in range(12)])
                facts = read_json(folder / split / f"{number:05d}.json")
                shards.setdefault(split, []).append({"name": f"{number:05d}"} | facts)
        shutil.copytree(tokenizer, folder / "tokenizer")
        info = {"vocab_size": size, "dtype": "<u2", "eos_id": 0, "tokenizer": str(tokenizer), "sources": sources}
        write_json(
            folder / "tokens.json",
            info | {"shards": shards} | {split: _amount(folder / split, len(sources)) for split in shards},
        )
        return folder

    return make


@pytest.fixture(scope="session")
def tokens(make_tokens) -> Path:
    """A tokens folder with one source."""
    return make_tokens("tokens", ["news"])
