"""The parts of a model under names that are the same for every family.

    embeddings             what makes vectors of ids (with positions and norm, where an encoder has them)
    layers.0, layers.1 …   the layers
    layers.0.attention     attention of a layer
    layers.0.mlp           feed-forward part of a layer
    norm                   the norm behind the last layer, where there is one
    head                   what makes logits of the last hidden states

An encoder-decoder has two such stacks, `encoder.layers.0` … `encoder.norm` and `decoder.layers.0` … `decoder.norm`, and
in the decoder's layers `decoder.layers.0.cross`, what looks at the encoder's states.

They are what `freeze` and `hanmo model hidden` speak of; `modules_of` finds them in a transformers model.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from hanmo.errors import HanmoError, nearest

_ATTENTION = ("self_attn", "attention", "attn", "self_attention")
_FEED_FORWARD = (("mlp",), ("feed_forward",), ("intermediate", "output"), ("ffn",))
_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "encoder.ln", "encoder.norm", "final_norm")
#: Of a layer of an encoder-decoder: the part's name, and what T5 calls it.
_HALVES = {"attention": "SelfAttention", "cross": "EncDecAttention", "mlp": "DenseReluDense"}
_STACK = r"((?:encoder\.|decoder\.)?layers)\."
_RANGE = re.compile(_STACK + r"(\d+)-(\d+)(\..+)?")
_LAYER = re.compile(_STACK + r"(\d+)(?:\.(.+))?")


def modules_of(model: Any) -> dict[str, list[nn.Module]]:
    """The parts of a transformers model by name; a part may be several modules, in the order in which they run.

    Raises:
        HanmoError: no list of layers is found in it.
    """
    if model.config.is_encoder_decoder:
        return _of_two(model)
    base = model.base_model
    parts: dict[str, list[nn.Module]] = {}
    own = getattr(base, "embeddings", None)
    parts["embeddings"] = [own if isinstance(own, nn.Module) else model.get_input_embeddings()]
    for number, layer in enumerate(layers_of(model)):
        parts[f"layers.{number}"] = [layer]
        children = dict(layer.named_children())
        if attention := next((children[name] for name in _ATTENTION if name in children), None):
            parts[f"layers.{number}.attention"] = [attention]
        if names := next((names for names in _FEED_FORWARD if all(name in children for name in names)), None):
            parts[f"layers.{number}.mlp"] = [children[name] for name in names]
    there = dict(base.named_modules())
    if name := next((name for name in _NORMS if name in there), None):
        parts["norm"] = [there[name]]
    heads = [child for child in model.children() if child is not base and any(True for _ in child.parameters())]
    if heads:
        parts["head"] = heads
    return parts


def _of_two(model: Any) -> dict[str, list[nn.Module]]:
    """The parts of an encoder-decoder that is built like T5."""
    parts: dict[str, list[nn.Module]] = {"embeddings": [model.shared]}
    for half in ("encoder", "decoder"):
        stack = getattr(model, half)
        for number, block in enumerate(stack.block):
            at = f"{half}.layers.{number}"
            parts[at] = [block]
            inside = {name.rpartition(".")[2]: module for name, module in block.named_modules()}
            parts |= {f"{at}.{part}": [inside[name]] for part, name in _HALVES.items() if name in inside}
        parts[f"{half}.norm"] = [stack.final_layer_norm]
    if isinstance(head := getattr(model, "lm_head", None), nn.Module):
        parts["head"] = [head]
    return parts


def layers_of(model: Any) -> nn.ModuleList:
    """The list of a model's layers.

    Raises:
        HanmoError: none has as many entries as the configuration says.
    """
    count = model.config.get_text_config().num_hidden_layers
    lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    found = next((module for module in lists if len(module) == count), None)
    if found is None:
        raise HanmoError(f"{type(model).__name__}: no list of its {count} layers is found, so its parts have no names")
    return found


def chosen(patterns: Iterable[str], names: Iterable[str], what: str) -> list[str]:
    """The names that patterns such as `layers.0-5`, `layers.*.mlp` and `embeddings` stand for, in the order of `names`.

    Args:
        names: the known ones.
        what: key or option that the patterns are from, for errors.

    Raises:
        HanmoError: a pattern that stands for none.
    """
    names = list(names)
    wanted: set[str] = set()
    for pattern in patterns:
        if between := _RANGE.fullmatch(pattern):
            stack, first, last, rest = between[1], int(between[2]), int(between[3]), between[4] or ""
            found = {f"{stack}.{number}{rest}" for number in range(first, last + 1)}
            missing = sorted(found - set(names), key=_natural)
            if missing or not found:
                raise HanmoError(f"{what}: '{pattern}': no part '{(missing or [pattern])[0]}' ({_known(names)})")
        else:
            found = set(fnmatch.filter(names, pattern))
            if not found:
                raise HanmoError(f"{what}: no part '{pattern}'{nearest(pattern, names)} ({_known(names)})")
        wanted |= found
    return [name for name in names if name in wanted]


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _known(names: list[str]) -> str:
    """The names in few words: the many layers of a stack as one range."""
    listed: dict[str, None] = {}
    for name in names:
        if not (found := _LAYER.fullmatch(name)):
            listed[name] = None
            continue
        numbers = [int(one[2]) for other in names if (one := _LAYER.fullmatch(other)) and one[1] == found[1]]
        span = f"{found[1]}.{min(numbers)}-{max(numbers)}"
        listed[f"{span}.{found[3]}" if found[3] else span] = None
    return f"known: {', '.join(listed)}"
