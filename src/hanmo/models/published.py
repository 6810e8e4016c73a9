"""Weights of a folder as it was published: safetensors or pickles, whole or in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.files import read_json

_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read_published(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(config.json, weights by name) of a model folder, on the CPU, in the types that they have there.

    Pickles are read as weights only, which runs nothing that is in them.

    Raises:
        HanmoError: a file is missing or cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise HanmoError(f"{folder}: no config.json there; give a model folder")
    config = read_json(folder / "config.json")
    found = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if found is None:
        raise HanmoError(f"{folder}: no weights there ({', '.join(_FILES)}); is the download whole?")
    shards = [found]
    if found.suffix == ".json":
        names = sorted(set(read_json(found).get("weight_map", {}).values()))
        # A name is a file beside the list, and never a path out of the folder.
        shards = [folder / Path(str(name)).name for name in names]
    weights: dict[str, Tensor] = {}
    for shard in shards:
        weights.update(_read(shard))
    return config, weights


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn or foreign pickle fails in whatever way its bytes lead to
        said = " ".join(str(error).split())[:150]
        raise HanmoError(f"{path}: cannot be read ({said}); fetch it again") from None
    if not isinstance(state, dict):
        raise HanmoError(f"{path}: not weights by name; give the folder of a published model")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
