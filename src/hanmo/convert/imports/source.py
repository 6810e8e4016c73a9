"""Opening a foreign checkpoint: which file it is, its tensors mapped and not read, and the configuration beside it.

A file says by its first bytes what it is; its name is looked at for nothing but error lines. Pickles are opened with
`torch.load(weights_only=True)` alone, which makes tensors and plain values and runs nothing.
"""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open

from hanmo.convert.imports import llama2c
from hanmo.errors import HanmoError, describe_os_error
from hanmo.files import read_json

#: What training leaves beside a model that has a model's form and is none.
_BESIDE = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
#: Where a training script puts the weights among other things; the first that holds tensors counts.
_WRAPPERS = ("model_state_dict", "state_dict", "model", "module")
#: What parallel and compiled training, and a trainer's own module around the model, put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_CONFIGS = ("config.json", "params.json")


class Keys:
    """A configuration's values, and which of them a family has used."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self._used = {"architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version"}

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of `names` that is set and not null."""
        self._used.update(names)
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def number(self, *names: str, default: float | None = None) -> Any:
        """As `get`, for what must be a number above 0; whole numbers stay whole."""
        value = self.get(*names, default=default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise HanmoError(f"{self.where}: {names[0]}: {value!r} is no number above 0")
        return value

    def heads(self, *names: str) -> int:
        """The number of attention heads, which no tensor tells."""
        value = self.number(*names)
        if value is None:
            raise HanmoError(
                f"{self.where}: {names[0]} is not there, and no tensor tells the number of attention heads; "
                "give the model's configuration with --config"
            )
        if value != int(value):
            raise HanmoError(f"{self.where}: {names[0]}: {value!r} is no whole number")
        return int(value)

    def confirm(self, found: int, *names: str) -> None:
        """Hold what a tensor tells against what the configuration says, if anything.

        Raises:
            HanmoError: they differ, so that its other keys may be another model's as well.
        """
        said = self.get(*names)
        if said is not None and said != found:
            name = next(name for name in names if self.values.get(name) is not None)
            raise HanmoError(
                f"{self.where}: {name}: {said!r}, but {found} by the weights; is that the configuration of this "
                "checkpoint?"
            )

    @property
    def unused(self) -> list[str]:
        """Keys with a value that no family has asked for."""
        return sorted(name for name, value in self.values.items() if name not in self._used and value is not None)


@dataclass
class Source:
    """A checkpoint that has been opened.

    Attributes:
        path: what was asked for.
        folder: where its companions (configuration, tokenizer) lie.
        files: of its weights.
        form: "safetensors", "pickle" or "llama2.c".
        tensors: by name, without a prefix that training put before all of them; mapped from the files.
        keys: the configuration; empty where there is none.
    """

    path: Path
    folder: Path
    files: list[Path]
    form: str
    tensors: dict[str, torch.Tensor]
    keys: Keys = field(default_factory=lambda: Keys({}, ""))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that must be there."""
        if name not in self.tensors:
            raise HanmoError(f"{self.path}: the weights lack {name}; is the checkpoint whole?")
        return tuple(self.tensors[name].shape)


def open_source(path: Path, config: Path | None = None) -> Source:
    """Find and open the one checkpoint at `path`.

    Raises:
        HanmoError: nothing there, several, torn, or a pickle that would run code.
    """
    if not path.exists():
        raise HanmoError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    files, form = _files(path)
    tensors: dict[str, torch.Tensor] = {}
    inner: dict[str, Any] = {}
    for file in files:
        match form:
            case "safetensors":
                found = _safetensors(file)
            case "pickle":
                found, inner = _pickle(file)
            case _:
                found, inner = llama2c.read(file, _head(file))
        tensors.update(found)
    while tensors and (prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in tensors)), None)):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if not tensors:
        raise HanmoError(f"{path}: no tensors in it")
    return Source(path, folder, files, form, tensors, _keys(path, folder, config, inner))


def _keys(path: Path, folder: Path, config: Path | None, inner: dict[str, Any]) -> Keys:
    """The given configuration, else the one beside the weights; shapes that stand in the file itself come first."""
    if config is not None and config.is_dir():
        config = config / "config.json"
    file = config or next((folder / name for name in _CONFIGS if (folder / name).is_file()), None)
    values = read_config(file) if file is not None else {}
    return Keys({**values, **inner}, str(file or path))


def read_config(path: Path) -> dict[str, Any]:
    """A configuration in JSON or YAML.

    Raises:
        HanmoError: missing, or not a mapping in either.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except FileNotFoundError:
        raise HanmoError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise HanmoError(f"{path}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise HanmoError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except yaml.YAMLError as error:
        line = f":{mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) is not None else ""
        raise HanmoError(f"{path}{line}: not YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(values, dict):
        raise HanmoError(f"{path}: a configuration is a mapping of keys to values; this is not")
    return values


def _files(path: Path) -> tuple[list[Path], str]:
    """The files of the one checkpoint there, and their form."""
    if path.is_file():
        if path.name.endswith(".index.json"):
            return _sharded(path)
        form, fault = _form(path)
        if form is None:
            raise HanmoError(f"{path}: {fault}")
        return [path], form
    found = {file: form for file in sorted(path.iterdir()) if file.is_file() and (form := _form(file)[0])}
    found = {file: form for file, form in found.items() if not file.name.startswith((".", *_BESIDE))}
    indexes = sorted(path.glob("*.index.json"))
    sets = [_sharded(index) for index in indexes]
    whole = [file for file in found if not any(file in files for files, _ in sets)]
    sets += [([file], found[file]) for file in whole]
    if not sets:
        faults = [f"{file.name}: {fault}" for file in sorted(path.iterdir()) if (fault := _form(file)[1])]
        why = f" ({faults[0]})" if faults else ""
        raise HanmoError(f"{path}: no weights in it{why}; give a checkpoint's file or folder")
    if len(sets) > 1:
        names = [index.name for index in indexes] + [file.name for file in whole]
        listed = ", ".join(names[:4]) + ", ..." * (len(names) > 4)
        raise HanmoError(f"{path}: {len(sets)} checkpoints in it ({listed}); give the path of the one you mean")
    return sets[0]


def _sharded(index: Path) -> tuple[list[Path], str]:
    """The files that an index names."""
    listed = read_json(index)
    names = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(names, dict) or not names:
        raise HanmoError(f"{index}: an index of shards has a weight_map; this has none")
    files = [index.parent / str(name) for name in sorted({str(name) for name in names.values()})]
    forms = set()
    for file in files:
        if not file.is_file():
            raise HanmoError(f"{file}: no such file, but {index.name} names it; fetch it")
        form, fault = _form(file)
        if form is None:
            raise HanmoError(f"{file}: {fault}")
        forms.add(form)
    if len(forms) > 1:
        raise HanmoError(f"{index}: its shards are of different forms ({', '.join(sorted(forms))})")
    return files, forms.pop()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(256)


def _form(path: Path) -> tuple[str | None, str]:
    """What a file is by its first bytes: (form, ""), or (None, what is wrong, "" for what is plainly no weights)."""
    if not path.is_file():
        return None, ""
    head = _head(path)
    if head[:1] == b"{" or head[:1] == b"[":
        return None, "" if path.suffix == ".json" else "text, no weights"
    if len(head) >= 9 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000:
        return "safetensors", ""
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):  # torch's archive, and its older plain pickle
        return "pickle", ""
    if head.startswith(llama2c.MARK) or (llama2c.legacy_header(head) and path.stat().st_size > 4096):
        return "llama2.c", ""
    if head.startswith(b"version https://git-lfs"):
        return None, "a Git LFS pointer in the place of the weights; fetch them with `git lfs pull`"
    if head.startswith(b"GGUF"):
        return None, "a GGUF file; it is what engines run, and not imported back"
    if not head:
        return None, "an empty file"
    return None, "" if path.suffix in (".md", ".txt", ".py", ".model", ".json", ".yaml") else "no weights known here"


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise HanmoError(f"{path}: torn or no safetensors file ({error}); fetch it again") from None


def _pickle(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a pickle, unwrapped, and the `model_args` that llama2.c's training keeps beside them."""
    archive = _head(path).startswith(b"PK")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickle protocols, which a torn file seems to have
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive or None)
    except pickle.UnpicklingError as error:
        said = str(error)
        if "Unsupported" in said or "GLOBAL" in said:
            what = said.split("GLOBAL ", 1)[1].split()[0] if "GLOBAL " in said else "objects beyond tensors"
            raise HanmoError(
                f"{path}: the pickle wants {what}, and only tensors and plain values are taken from pickles; "
                "save the model's state_dict() alone"
            ) from None
        raise HanmoError(f"{path}: torn or no pickle of torch; fetch it again") from None
    except Exception as error:  # bytes at random make torch's reader raise anything
        if describe_os_error(error) is not None:
            raise
        said = " ".join(str(error).split())[:120]
        raise HanmoError(f"{path}: torn or no checkpoint of torch ({said}); fetch it again") from None
    beside: dict[str, Any] = {}
    while isinstance(content, dict) and not any(isinstance(value, torch.Tensor) for value in content.values()):
        arguments = content.get("model_args")
        beside = arguments if isinstance(arguments, dict) else beside
        content = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
    if not isinstance(content, dict):
        raise HanmoError(f"{path}: no state dict in this pickle; save the model's state_dict()")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    return tensors, {key: value for key, value in beside.items() if isinstance(value, int | float | str)}
