"""Files of a stage that can be taken along: one by one, or a model's folder as one zip file, made while it is sent."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hanmo.studio.shelf import Missing, Shelf

#: Folders of a stage whose files are shown with its own; shards and checkpoints are not for taking along.
_FOLDERS = ("model", "tokenizer", "adapter")
_PART = 1 << 20


def files(shelf: Shelf, folder: Path) -> list[dict[str, Any]]:
    """[{name, bytes}]: names are those below the stage's folder, with "/"."""
    return [{"name": name, "bytes": path.stat().st_size} for name, path in sorted(_files(shelf, folder).items())]


def file(shelf: Shelf, folder: Path, name: str) -> Path:
    """The file of that name, one of those that `files` lists.

    Raises:
        Missing: there is none.
    """
    found = _files(shelf, folder).get(name)
    if found is None:
        raise Missing(f"{folder.name}: no file '{name}' to take along")
    return found


def zipped(shelf: Shelf, folder: Path) -> Iterator[bytes]:
    """The model's folder as a zip file, stored and not compressed: weights do not get smaller.

    Raises:
        Missing: there is no model.
    """
    found = {name: path for name, path in _files(shelf, folder).items() if name.startswith("model/")}
    if not found:
        raise Missing(f"{folder.name}: no model there")
    return _zip(found)


def _files(shelf: Shelf, folder: Path) -> dict[str, Path]:
    places = [folder, *(folder / name for name in _FOLDERS)]
    return {
        path.relative_to(folder).as_posix(): path
        for place in places
        if place.is_dir() and shelf.inside(place)
        for path in place.iterdir()
        if path.is_file() and not path.name.startswith(".") and shelf.inside(path)
    }


class _Pipe(io.RawIOBase):
    """Takes what a zip file writes, for handing it on."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held.append(bytes(data))
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        return data


def _zip(found: dict[str, Path]) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for name, path in found.items():
            entry = zipfile.ZipInfo.from_file(path, name.removeprefix("model/"))
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while part := source.read(_PART):
                    target.write(part)
                    yield pipe.take()
    yield pipe.take()
