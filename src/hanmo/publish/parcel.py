"""The folder that goes up: a model's files, its card and its lineage, and nothing else that lies beside them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from hanmo import lineage
from hanmo.errors import HanmoError
from hanmo.evaluate.card import MARK, write_card
from hanmo.files import front_matter, write_json
from hanmo.models.folder import resolve

#: Files of a model folder that are none of a model's: pickles may hold programs, and hubs warn of them.
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_REST = (".tmp", ".lock", ".log")
LINEAGE = "lineage.json"


@contextmanager
def parcel(model: Path, name: str, also: Iterable[Path] = (), licence: str = "") -> Iterator[Path]:
    """A folder with what goes up, for as long as it is wanted; its files are links where the file system has them.

    Args:
        model: a model folder or that of a stage; nothing in it changes.
        name: of the repository, OWNER/NAME, as which the card says to load it.
        also: folders of GGUF files, or such files, to go beside it.
        licence: that of the model; by default the one in its card.

    Raises:
        HanmoError: no model there; a card by somebody else that names another licence, or none; no GGUF file there.
    """
    folder = resolve(model)
    files = [path for path in sorted(folder.iterdir()) if _goes(path)]
    if not any(path.suffix == ".safetensors" for path in files):
        raise HanmoError(f"{folder}: no .safetensors file there: the weights are what is to be published")
    files += [path for place in also for path in _gguf(place)]
    # On the same file system, where links are free and weights are large.
    with TemporaryDirectory(prefix=".publish-", dir=folder.resolve().parent) as temporary:
        place = Path(temporary)
        for path in files:
            _put(path, place / path.name)
        _card(folder, place / "README.md", name, licence)
        stages = lineage.lineage(folder)
        if stages:
            write_json(place / LINEAGE, [_about(stage) for stage in stages])
        yield place


def skipped(model: Path) -> list[str]:
    """Names of what lies in the model folder and does not go up."""
    return [path.name for path in sorted(resolve(model).iterdir()) if not _goes(path)]


def licence_of(folder: Path) -> str:
    """That in the card of a folder."""
    return str(front_matter((folder / "README.md").read_text(encoding="utf-8")).get("license", ""))


def _card(folder: Path, to: Path, name: str, licence: str) -> None:
    """A card of ours, written anew; or the one that people have written, as it is."""
    if not to.is_file() or MARK in to.read_text(encoding="utf-8"):
        to.unlink(missing_ok=True)
        write_card(folder, name=name, licence=licence, to=to)
        return
    own = licence_of(to.parent)
    if licence and own != licence:
        raise HanmoError(
            f"{folder / 'README.md'}: this card names {own or 'no licence'}, and --licence {licence}; "
            f"write `license: {licence}` into it"
        )


def _goes(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix not in (*_PICKLES, *_REST)


def _gguf(place: Path) -> list[Path]:
    found = [place] if place.is_file() else sorted(place.glob("*.gguf")) if place.is_dir() else []
    if not found or any(path.suffix != ".gguf" for path in found):
        raise HanmoError(f"{place}: no .gguf file there; make one by `hanmo convert gguf`")
    return found


def _put(path: Path, target: Path) -> None:
    if target.exists():
        raise HanmoError(f"{path}: a second file of this name; rename one of them")
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copy2(path, target)


def _about(stage: lineage.Made) -> dict[str, Any]:
    """What a manifest says that is of use elsewhere; of paths only their last names, for they tell of a machine."""
    keys = ("do", "settings", "inputs", "counts", "seconds", "versions")
    return {"stage": stage.name} | {key: _nameless(stage.manifest[key]) for key in keys if key in stage.manifest}


def _nameless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nameless(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_nameless(one) for one in value]
    if isinstance(value, str) and ("://" not in value) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value
