"""Model folders: where the weights of a stage are, and what a loadable folder must hold."""

from __future__ import annotations

from pathlib import Path

from hanmo.errors import HanmoError
from hanmo.files import read_json


def resolve(path: Path | str) -> Path:
    """Return the Hugging Face model folder meant by `path`: itself, or its `model/` when it is a stage's folder.

    Raises:
        HanmoError: neither holds a config.json.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise HanmoError(f"{path}: no such folder; give a model folder or the folder of a stage that made one")
    if any((folder / "adapter_config.json").is_file() for folder in (path, path / "adapter")):
        raise HanmoError(
            f"{path}: only an adapter is there; make a model of it by `hanmo model merge {path} --out DIR`"
        )
    raise HanmoError(f"{path}: no model there (no config.json in it or in its model/); has the stage finished?")


def is_encoder_decoder(path: Path | str) -> bool:
    """Whether `path`, a model folder or that of a stage, holds an encoder-decoder."""
    configs = (folder / "config.json" for folder in (Path(path), Path(path) / "model"))
    found = next((config for config in configs if config.is_file()), None)
    return found is not None and bool(read_json(found).get("is_encoder_decoder"))
