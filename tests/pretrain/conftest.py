"""A tiny folder of token shards that the tests of this room train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import make_model, make_order, make_settings  # type: ignore[import-not-found]

from hanmo.pretrain.settings import PretrainSettings
from hanmo.tokens.order import Order

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_order() -> Order:
    """See `make_order`."""
    return make_order()


@pytest.fixture
def tiny_settings() -> PretrainSettings:
    """See `make_settings`."""
    return make_settings()


@pytest.fixture
def tiny_model():
    """See `make_model`."""
    return make_model


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for a run."""
    return tmp_path


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
