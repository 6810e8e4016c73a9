"""Published Randeng checkpoints as Megatron's T5.

They say that they are a T5, and a stock T5 would load a few of their weights and draw the rest: what tells them is the
table of positions beside the words. Weights keep their names; only the embeddings, which each half lists again, and
a counting buffer are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.models.megatron_t5.config import VOCABULARY, MegatronT5Config
from hanmo.models.megatron_t5.model import MegatronT5ForConditionalGeneration
from hanmo.models.published import read_published

_WORDS, _PLACES = "shared.word_embeddings.weight", "shared.position_embeddings.weight"
_AGAIN = ("encoder.embed_tokens.", "decoder.embed_tokens.")
_KEPT = (
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "dropout_rate",
    "layer_norm_epsilon",
    "feed_forward_proj",
)
_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our form: its configuration, its weights by our names, and the names that have no place."""

    config: MegatronT5Config
    weights: dict[str, Tensor]
    left_over: list[str]


def recognises(names: Iterable[str]) -> bool:
    """Whether weights of these names are a published Megatron-T5's."""
    return {_WORDS, _PLACES, "lm_head_bias"} <= set(names)


def convert(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Converted:
    """A published checkpoint in our form.

    With the published vocabulary the decoder begins with [BOS] and ends with [EOS], whatever the file says: these are
    the ids that the models were trained with, and what is not said there is a stock T5's.

    Args:
        config: its config.json.
        weights: by the names that it has.

    Raises:
        HanmoError: they are not such a model's, or not all there, or not of the shapes that the configuration says.
    """
    if not recognises(weights):
        raise HanmoError("not a Randeng Megatron-T5 checkpoint: no positions beside the words, or no bias of the head")
    rows, places = weights[_WORDS].shape[0], weights[_PLACES].shape[0]
    kept = {name: config[name] for name in _KEPT if name in config}
    if rows != VOCABULARY:
        kept |= {name: config[name] for name in _IDS if name in config}
    if kept.get("feed_forward_proj", "gelu") not in ("gelu", "relu"):
        raise HanmoError(f"config.json: feed_forward_proj: {kept['feed_forward_proj']} is none of gelu, relu")
    ours = MegatronT5Config(vocab_size=rows, max_position_embeddings=places, **kept)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in MegatronT5ForConditionalGeneration(ours).state_dict().items()}
    wanted = {name for name in shapes if not name.startswith(_AGAIN)}
    made: dict[str, Tensor] = {}
    left_over: list[str] = []
    for name, value in weights.items():
        mine = name.replace(".MegatronT5Layer", ".T5Layer")  # as later versions of its code name them
        if mine in wanted:
            if value.shape != shapes[mine]:
                raise HanmoError(
                    f"{name}: shape {list(value.shape)} in the weights, {list(shapes[mine])} by config.json; "
                    "is that the configuration of this checkpoint?"
                )
            made[mine] = value
        elif not name.startswith(_AGAIN) and name != "shared.position_ids":
            left_over.append(name)
    missing = sorted(wanted - made.keys())
    if missing:
        raise HanmoError(f"{len(missing)} weights are missing ({', '.join(missing[:3])}); is the checkpoint whole?")
    return Converted(ours, made, sorted(left_over))


def from_published(folder: Path) -> tuple[MegatronT5ForConditionalGeneration, list[str]]:
    """The model of a published folder in fp32, and the names of weights in it that have no place.

    Raises:
        HanmoError: the folder holds no such model, or not all of it.
    """
    try:
        found = convert(*read_published(folder))
    except HanmoError as error:
        raise HanmoError(f"{folder}: {error}" if str(folder) not in str(error) else str(error)) from None
    model = MegatronT5ForConditionalGeneration(found.config)
    # The embeddings of the halves are the shared ones, and need not be given again.
    model.load_state_dict({name: value.float() for name, value in found.weights.items()}, strict=False)
    return model.eval(), found.left_over
