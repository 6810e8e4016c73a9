"""The parts of a model that decide memory and time, counted on a model without storage (torch's meta device)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError
from hanmo.models.flops import model_flops
from hanmo.models.folder import resolve

if TYPE_CHECKING:
    from hanmo.pretrain.settings import PretrainSettings


@dataclass(frozen=True)
class Shape:
    """A model in numbers.

    Attributes:
        name: of the preset or the folder.
        vocab: rows of the embedding.
        hidden, ffn: channels of the stream and of the inner layer (of experts: of those that a token meets).
        query, key: channels of all query heads, and of all key (or value) heads, together.
        heads: query heads.
        layers: how many; of an encoder-decoder, pairs of them.
        embedding: parameters of the input embedding, and of other matrices outside of the layers.
        matrices: shapes of the matrices of one layer, or pair.
        gains: all other parameters.
        context: tokens in a row.
        flops: model FLOPs of training on one token (see `hanmo.models.flops`).
        stacks: of the matrices, those that are a layer's experts, one below the other.
    """

    name: str
    vocab: int
    hidden: int
    ffn: int
    query: int
    key: int
    heads: int
    layers: int
    embedding: int
    matrices: tuple[tuple[int, int], ...]
    gains: int
    context: int
    flops: int
    stacks: tuple[tuple[int, int], ...] = ()

    @property
    def layer(self) -> int:
        """Parameters of the matrices of one layer."""
        return sum(rows * columns for rows, columns in self.matrices)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding + self.layers * self.layer + self.gains


def of_new(settings: PretrainSettings, vocab: int) -> Shape:
    """The shape of a new model of these settings, with a vocabulary of `vocab` tokens."""
    return of_config(settings.preset, settings.config(vocab), settings.context)


def of_folder(folder: Path, context: int) -> Shape:
    """The shape of the model in a folder; only its config.json is read.

    Raises:
        HanmoError: no config.json there, or not one of a decoder.
    """
    from transformers import AutoConfig

    folder = resolve(folder)
    try:
        return of_config(str(folder), AutoConfig.from_pretrained(folder), context)
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise HanmoError(f"{folder}: its config.json is of no decoder that can be planned ({error})") from None


def of_model(model: Any, name: str, context: int) -> Shape:
    """The shape of a transformers model."""
    from torch import nn

    from hanmo.models.experts import Routing

    config = model.config.get_text_config()
    routing = Routing.of(config)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    if routing:  # what a token meets: those chosen for it, and the shared one
        inner = (routing.chosen + 1) * config.moe_intermediate_size
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    layers = config.num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers]
    # A layer may be made of as many parts as there are layers.
    parts = {id(part) for stack in lists for layer in stack for part in layer.modules()}
    lists = [stack for stack in lists if id(stack) not in parts]
    # The last layer, since a first one may hold what all of them use (T5's bias by distance).
    last = [p for stack in lists for p in stack[-1].parameters() if p.dim() > 1]
    every = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    return Shape(
        name=name,
        vocab=config.vocab_size,
        hidden=config.hidden_size,
        ffn=inner,
        query=heads * width,
        key=(getattr(config, "num_key_value_heads", None) or heads) * width,
        heads=heads,
        layers=layers,
        embedding=every - layers * sum(p.numel() for p in last),
        matrices=tuple((int(p.shape[:-1].numel()), int(p.shape[-1])) for p in last),
        gains=sum(p.numel() for p in model.parameters() if p.dim() < 2),
        context=context,
        flops=model_flops(model, context),
        stacks=tuple((int(p.shape[:-1].numel()), int(p.shape[-1])) for p in last if p.dim() > 2),
    )


def of_config(name: str, config: Any, context: int) -> Shape:
    """The shape of a model of a transformers configuration."""
    import torch
    import transformers

    from hanmo.models.families import AUTO, FAMILIES

    family = FAMILIES.get(config.model_type)
    auto = getattr(transformers, AUTO[family.learns[0] if family else "causal"])
    with torch.device("meta"):
        return of_model(auto.from_config(config), name, context)
