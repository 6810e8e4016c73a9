"""Model folders: where the weights of a stage are, and what a loadable folder must hold."""

from __future__ import annotations

from pathlib import Path

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.models import hub


def resolve(path: Path | str) -> Path:
    """Return the Hugging Face model folder meant by `path`: itself, or its `model/` when it is a stage's folder.

    A model given by name (`hf:OWNER/NAME`) is fetched where it is not there yet, see `hanmo.models.hub`.

    Raises:
        HanmoError: neither holds a config.json; a name that means no model.
    """
    path = hub.local(path)
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise HanmoError(
            f"{path}: no such folder; give a model folder, that of a stage that made one, or hf:OWNER/NAME"
        )
    if any((folder / "adapter_config.json").is_file() for folder in (path, path / "adapter")):
        raise HanmoError(
            f"{path}: only an adapter is there; make a model of it by `hanmo model merge {path} --out DIR`"
        )
    raise HanmoError(f"{path}: no model there (no config.json in it or in its model/); has the stage finished?")


def title(path: Path | str) -> str:
    """What a model is called: its folder, the stage's that holds `model/`, a .gguf file's stem, its name on a hub."""
    path = Path(path).resolve()
    if path.suffix.lower() == ".gguf":
        return path.stem
    if repository := hub.repository_at(path):
        return repository.partition("/")[2]
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def is_encoder_decoder(path: Path | str) -> bool:
    """Whether `path`, a model folder or that of a stage, holds an encoder-decoder."""
    path = hub.local(path)
    configs = (folder / "config.json" for folder in (path, path / "model"))
    found = next((config for config in configs if config.is_file()), None)
    return found is not None and bool(read_json(found).get("is_encoder_decoder"))
