"""The parts of a decoder that decide memory and time, counted on a model without storage (torch's meta device)."""

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
    """A decoder in numbers.

    Attributes:
        name: of the preset or the folder.
        vocab: rows of the embedding.
        hidden, ffn: channels of the stream and of the inner layer.
        query, key: channels of all query heads, and of all key (or value) heads, together.
        heads: query heads.
        layers: how many.
        embedding: parameters of the input embedding, and of the head where it is a matrix of its own.
        matrices: shapes of the matrices of one layer.
        gains: all other parameters.
        context: tokens in a row.
        flops: model FLOPs of training on one token (see `hanmo.models.flops`).
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
    return _counted(settings.preset, settings.config(vocab), settings.context)


def of_folder(folder: Path, context: int) -> Shape:
    """The shape of the model in a folder; only its config.json is read.

    Raises:
        HanmoError: no config.json there, or not one of a decoder.
    """
    from transformers import AutoConfig

    folder = resolve(folder)
    try:
        return _counted(str(folder), AutoConfig.from_pretrained(folder), context)
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise HanmoError(f"{folder}: its config.json is of no decoder that can be planned ({error})") from None


def of_model(model: Any, name: str, context: int) -> Shape:
    """The shape of a transformers decoder."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    embeddings = {id(module.weight): module.weight for module in _ends(model)}
    others = [p for p in model.parameters() if id(p) not in embeddings]
    matrices = [(int(p.shape[0]), int(p.shape[1])) for p in others if p.dim() == 2]
    layers = config.num_hidden_layers
    return Shape(
        name=name,
        vocab=config.vocab_size,
        hidden=config.hidden_size,
        ffn=config.intermediate_size,
        query=heads * width,
        key=(getattr(config, "num_key_value_heads", None) or heads) * width,
        heads=heads,
        layers=layers,
        embedding=sum(weight.numel() for weight in embeddings.values()),
        matrices=tuple(matrices[: len(matrices) // layers]),
        gains=sum(p.numel() for p in others if p.dim() != 2),
        context=context,
        flops=model_flops(model, context),
    )


def _ends(model: Any) -> list[Any]:
    return [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]


def _counted(name: str, config: Any, context: int) -> Shape:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return of_model(AutoModelForCausalLM.from_config(config), name, context)
