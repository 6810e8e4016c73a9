"""Published Zhouwenwang checkpoints as the unified model.

They come under three model types (megatron-bert, bert, roformer), and a stock class of any of these would load them
and silently draw what it misses. What tells them is in their weights: Megatron's pre-norm layers without position
embeddings. Their rotation turns neighbouring channels (0, 1), (2, 3), … of a head; ours turns channel i with i + d/2.
Channels of queries and keys may be put into any order, the same in both: so their rows are, and every score stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.models.published import read_published
from hanmo.models.unified.config import UnifiedConfig
from hanmo.models.unified.model import UnifiedForMaskedLM

#: The model types under which checkpoints were published.
TYPES = ("megatron-bert", "bert", "roformer")
_PREFIXES = ("bert.", "roformer.")
_WORDS, _TYPES = "embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"
_ANGLES = ".attention.self.rope_emb.div_term"
_KEPT = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our form: its configuration, its weights by our names, and the names that have no place."""

    config: UnifiedConfig
    weights: dict[str, Tensor]
    left_over: list[str]


def recognises(names: Iterable[str]) -> bool:
    """Whether weights of these names are a published unified model's, whatever its configuration says it is."""
    found = {_bare(name) for name in names}
    return (
        {_WORDS, "encoder.layer.0.attention.ln.weight", "encoder.ln.weight"} <= found
        and "embeddings.position_embeddings.weight" not in found
        and not any("embed_positions" in name for name in found)
    )


def half_split(rows: Tensor, heads: int) -> Tensor:
    """Rows of a query's or key's weight [d, …] or bias [d] from interleaved to half-split order, head by head."""
    parts = rows.unflatten(0, (heads, -1, 2))
    return parts.transpose(1, 2).reshape(rows.shape)


def convert(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Converted:
    """A published checkpoint in our form.

    Args:
        config: its config.json.
        weights: by the names that it has, with or without `bert.` before them.

    Raises:
        HanmoError: they are not such a model's, or not all there, or turn by other angles.
    """
    if not recognises(weights):
        raise HanmoError(
            "not a Zhouwenwang checkpoint: those have Megatron's pre-norm layers and no position embeddings; a "
            "MegatronBert with positions is loaded as it is"
        )
    there = {_bare(name): value for name, value in weights.items()}
    vocab_size = there[_WORDS].shape[0]
    if "num_attention_heads" not in config:
        raise HanmoError("config.json: num_attention_heads is missing, and the weights do not say it")
    kept = {name: config[name] for name in _KEPT if name in config}
    types = there[_TYPES].shape[0] if _TYPES in there else 2
    ours = UnifiedConfig(vocab_size=vocab_size, type_vocab_size=types, **kept)
    heads, width = ours.num_attention_heads, ours.hidden_size // ours.num_attention_heads
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in UnifiedForMaskedLM(ours).state_dict().items()}
    made: dict[str, Tensor] = {}
    left_over: list[str] = []
    for name, value in there.items():
        mine = f"bert.{name}"
        if name.endswith(_ANGLES):
            _check_angles(value, width, ours.rope_theta)
        elif mine in shapes:
            if value.shape != shapes[mine]:
                raise HanmoError(
                    f"{name}: shape {list(value.shape)} in the weights, {list(shapes[mine])} by config.json; "
                    "is that the configuration of this checkpoint?"
                )
            turned = ".attention.self.query." in name or ".attention.self.key." in name
            made[mine] = half_split(value, heads) if turned else value
        elif name != "embeddings.position_ids":
            left_over.append(name)
    missing = sorted(shapes.keys() - made.keys() - {"lm_head.weight"})
    if missing:
        raise HanmoError(f"{len(missing)} weights are missing ({', '.join(missing[:3])}); is the checkpoint whole?")
    return Converted(ours, made, sorted(left_over))


def from_published(folder: Path) -> tuple[UnifiedForMaskedLM, list[str]]:
    """The model of a published folder in fp32, and the names of weights in it that have no place (a pooler).

    Raises:
        HanmoError: the folder holds no such model, or not all of it.
    """
    try:
        found = convert(*read_published(folder))
    except HanmoError as error:
        raise HanmoError(f"{folder}: {error}" if str(folder) not in str(error) else str(error)) from None
    with torch.device("meta"):
        model = UnifiedForMaskedLM(found.config)
    model.load_state_dict({name: value.float() for name, value in found.weights.items()}, strict=False, assign=True)
    model.tie_weights()
    return model.eval(), found.left_over


def _bare(name: str) -> str:
    """A weight's name without the name of the model that it is part of."""
    return next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)


def _check_angles(stored: Tensor, width: int, base: float) -> None:
    expected = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    # Half precision rounds them when a model is stored in it.
    if stored.shape != expected.shape or not torch.allclose(stored.double(), expected, rtol=1e-2, atol=1e-6):
        raise HanmoError(f"its rotary angles are not those of base {base:g} and heads of {width} channels")
