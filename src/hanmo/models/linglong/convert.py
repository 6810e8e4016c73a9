"""Published LingLong weights, of both forms, as our class.

| form | weights | configuration |
|---|---|---|
| legacy (before 0.10) | `transformer.blocks.3.attn.c_attn.w`; 12 tensors a layer and 4 more, no head | YAML |
| Hugging Face (0.10 on) | `transformer.h.3.attn.c_attn.weight`, `lm_head.weight` tied or absent | config.json |

Projections are stored `[in, out]` in both, as in our class. The code of the pinyin model was never published: its table
is looked for by its shape, `[1354, width]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.models.linglong.configuration import PINYIN_ROWS, LingLongConfig
from hanmo.models.linglong.modeling import LingLongForCausalLM

_HEAD, _TOKENS, _PINYIN = "lm_head.weight", "transformer.wte.weight", "transformer.pinyin.weight"
#: All published models have so many heads, whatever their width.
_HEADS = 16
#: Keys of the legacy YAML, under ours.
_KEYS = {
    "n_position": ("n_ctx",),
    "vocab_size": ("n_vocab",),
    "n_head": ("n_head",),
    "layer_norm_epsilon": ("epsilon",),
    "embd_pdrop": ("embd_dropout",),
    "attn_pdrop": ("attn_dropout",),
    "resid_pdrop": ("resid_dropout",),
    "attn_mode": ("attn_mode", "mode"),
    "attn_stride": ("attn_stride", "stride"),
    "attn_c": ("attn_c", "c"),
    "backward": ("backward",),
    "use_pinyin": ("use_pinyin",),
    "n_vocab_pinyin": ("n_vocab_pinyin",),
}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class Imported(NamedTuple):
    """What an import gives.

    Attributes:
        model: in fp32 on the CPU, in evaluation mode.
        left_out: names of the tensors that have no place in it.
    """

    model: LingLongForCausalLM
    left_out: list[str]


def import_legacy(state_dict: Mapping[str, Tensor], yaml_config: Mapping[str, Any]) -> Imported:
    """A model of the legacy form.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it.
        yaml_config: the keys of its YAML file, maybe in sections. Width and layers are read from the weights.

    Raises:
        HanmoError: a tensor is missing or of another shape than the configuration says.
    """
    keys = _flat(yaml_config)
    given = {ours: keys[name] for ours, names in _KEYS.items() for name in names if keys.get(name) is not None}
    state = {_renamed(name): tensor for name, tensor in state_dict.items()}
    tokens, places = _wanted(state, _TOKENS), _wanted(state, "transformer.wpe.weight")
    layers = {int(found[1]) for name in state if (found := re.match(r"transformer\.h\.(\d+)\.", name))}
    chosen: dict[str, Any] = (
        {"n_head": _HEADS, "vocab_size": tokens.shape[0], "n_position": places.shape[0]}
        | {"attn_mode": "sparse" if "attn_stride" in given else "dense"}
        | given
        | {"n_embd": tokens.shape[1], "n_layer": len(layers)}
    )
    return _imported(LingLongConfig(**chosen), state)


def import_hf(folder: Path | str, activation: str = "gelu") -> Imported:
    """A model of the Hugging Face form.

    Args:
        folder: with config.json and model.safetensors or pytorch_model.bin, whole or in shards.
        activation: what the feed-forward parts have, whatever the configuration says: later ones say gelu_new, and the
            published weights were trained with exact GELU (the logits differ by about 1e-3).

    Raises:
        HanmoError: files, tensors or keys that are missing or do not go together.
    """
    folder = Path(folder)
    given = read_json(folder / "config.json")
    if given.get("model_type") != LingLongConfig.model_type:
        raise HanmoError(f"{folder / 'config.json'}: model_type is {given.get('model_type')!r} and not 'linglong'")
    left = {"architectures", "auto_map", "model_type", "transformers_version", "_name_or_path", "torch_dtype", "dtype"}
    named: dict[str, Any] = {key: value for key, value in given.items() if key not in left and value is not None}
    named["activation_function"] = activation
    return _imported(LingLongConfig(**named), _read(folder))


def _imported(config: LingLongConfig, state: dict[str, Tensor]) -> Imported:
    state = dict(state)
    if _PINYIN not in state:
        _find_pinyin(config, state)
    config.use_pinyin = _PINYIN in state
    head = state.pop(_HEAD, None)
    if head is not None and not torch.equal(head, _wanted(state, _TOKENS)):
        raise HanmoError(f"{_HEAD}: it is not the token embedding, to which LingLong's head is tied")
    model = LingLongForCausalLM(config).float()
    own = model.state_dict()
    missing = sorted(name for name in own if name not in state and name != _HEAD)
    if missing:
        raise HanmoError(f"{len(missing)} tensors are missing, among them {', '.join(missing[:3])}; is the file whole?")
    odd = sorted(name for name in own if name != _HEAD and own[name].shape != state[name].shape)
    if odd:
        shapes = f"{list(state[odd[0]].shape)} and not {list(own[odd[0]].shape)}"
        raise HanmoError(f"{odd[0]}: its shape is {shapes}, as the configuration says; is it that of these weights?")
    model.load_state_dict({name: state[name].float() for name in own if name != _HEAD}, strict=False)
    model.tie_weights()
    return Imported(model.eval(), sorted(name for name in state if name not in own))


def _find_pinyin(config: LingLongConfig, state: dict[str, Tensor]) -> None:
    """Give the pinyin table, which is known by its shape, our name.

    Raises:
        HanmoError: the configuration says that there is one, and there is none; or there are several.
    """
    rows = config.n_vocab_pinyin or PINYIN_ROWS
    known = re.compile(r"transformer\.(wte|wpe|ln_f|h\.\d+)\.|lm_head\.|reward_head\.")
    found = [
        name for name, value in state.items() if not known.match(name) and list(value.shape) == [rows, config.n_embd]
    ]
    if len(found) > 1:
        raise HanmoError(f"{', '.join(found)}: each may be the pinyin table ([{rows}, {config.n_embd}]); keep one")
    if found:
        state[_PINYIN] = state.pop(found[0])
    elif config.use_pinyin:
        raise HanmoError(f"use_pinyin: there is no pinyin table [{rows}, {config.n_embd}] among the weights")


def _renamed(name: str) -> str:
    """The name of a legacy tensor in our class."""
    name = re.sub(r"^transformer\.blocks\.", "transformer.h.", name)
    return re.sub(r"\.(c_attn|c_proj|c_fc)\.([wb])$", lambda m: f".{m[1]}.{'weight' if m[2] == 'w' else 'bias'}", name)


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of all sections."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        found.update(_flat(value) if isinstance(value, Mapping) else {key: value})
    return found


def _wanted(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise HanmoError(f"{name}: no such tensor; these are not the weights of a LingLong model")
    return state[name]


def _read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder."""
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return {
                k: v
                for part in sorted(set(read_json(index)["weight_map"].values()))
                for k, v in _load(folder / part).items()
            }
        if (folder / name).is_file():
            return _load(folder / name)
    raise HanmoError(f"{folder}: neither {' nor '.join(_WEIGHTS)} there; give the folder of a model")


def _load(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, json.JSONDecodeError) as error:
        raise HanmoError(f"{path}: it cannot be read ({' '.join(str(error).split())[:100]}); fetch it again") from None
