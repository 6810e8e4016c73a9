"""What a new model begins with: weights drawn by the seed, or a bigram model of the data around them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from hanmo.console import console, human_count
from hanmo.models import bigram
from hanmo.models.lookback import look_back
from hanmo.models.loss import IGNORE
from hanmo.pretrain.distributed import World
from hanmo.pretrain.objectives import RowSource
from hanmo.pretrain.settings import PretrainSettings
from hanmo.tokenizer import end_of_document, load

#: Tokens of the run's own rows whose pairs are counted, at most. Fewer make a worse start: 8M of a corpus of 39M tokens
#: began 0.09 bits per byte above all of it.
SAMPLE = 40_000_000
#: The same for a token of the run's budget, and the budget below which the fit is a rough one: a start is not worth
#: more time than the training behind it.
SAMPLE_SHARE, SHORT = 40, 1_000_000
_ROWS = 2048


def new_model(settings: PretrainSettings, vocab_size: int, **own: Any) -> Any:
    """A preset in fp32 on the CPU, its weights drawn by the seed, as its class in transformers draws them.

    `own` are keys of its configuration that the data decides. Under a bigram model layers must add nothing at first:
    their output matrices are zeros then, and all others uniform with a variance of 1 / inputs.
    """
    torch.manual_seed(settings.seed)
    config = settings.config(vocab_size)
    for key, value in own.items():
        setattr(config, key, value)
    model = getattr(transformers, settings.auto_class()).from_config(config).train()
    if settings.start == "bigram":
        with torch.no_grad():
            for name, parameter in model.model.layers.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.zero_()
                elif parameter.dim() == 2:
                    bound = (3 / parameter.shape[1]) ** 0.5
                    parameter.uniform_(-bound, bound)
    return model


def name_ids(model: Any, tokenizer: Path) -> None:
    """Write into a new model's configuration which ids of the data's tokenizer open, close and fill up its rows.

    BERT's kind, which writes no text, is told of the filling alone; ModernBERT has two names for each of the others.
    """
    loaded, closing, config = load(tokenizer), end_of_document(tokenizer), model.config
    padding = closing if loaded.pad_token_id is None else loaded.pad_token_id
    opening = next((i for i in (loaded.bos_token_id, loaded.cls_token_id) if i is not None), None)
    ids: dict[str, Any] = {"pad_token_id": padding, "bos_token_id": opening, "eos_token_id": closing}
    if config.is_encoder_decoder:
        ids["decoder_start_token_id"] = padding if opening is None else opening
    if hasattr(config, "cls_token_id"):
        ids |= {"cls_token_id": opening, "sep_token_id": closing}
    elif not model.can_generate():
        ids |= {"bos_token_id": None, "eos_token_id": None}
    for key, value in ids.items():
        setattr(config, key, value)
        if model.can_generate():
            setattr(model.generation_config, key, value)


def begin_with_bigrams(model: Any, order: RowSource, budget: int, world: World, kept: Path) -> float:
    """Make `model` the bigram model of the run's own first rows; returns the seconds it took.

    Its layers still add nothing, but the heads of the first look back already.

    Args:
        model: of `new_model`, whose head is a matrix of its own.
        order: the rows of the run.
        budget: tokens that it will see.
        kept: file with what was fitted, so that a run which is begun again begins with the same bits.
    """
    began = time.perf_counter()
    weights = world.agreed(lambda: load_file(kept) if kept.is_file() else _fitted(model, order, budget, kept))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(weights["embedding"])
        model.get_output_embeddings().weight.copy_(weights["head"])
    look_back(model, 0, bigram.same_channel(model.config.hidden_size))
    return time.perf_counter() - began


def _fitted(model: Any, order: RowSource, budget: int, kept: Path) -> dict[str, torch.Tensor]:
    began = time.perf_counter()
    vocabulary, width = model.get_input_embeddings().weight.shape
    count = max(1, min(order.total, SAMPLE, SAMPLE_SHARE * budget) // order.context)
    inputs, targets = [], []
    for first in range(0, count, _ROWS):
        rows = order.rows(first, min(_ROWS, count - first))
        real = rows.targets != IGNORE
        inputs.append(torch.from_numpy(rows.inputs[real].astype("int32")))
        targets.append(torch.from_numpy(rows.targets[real].astype("int32")))
    pairs = torch.cat(inputs), torch.cat(targets)
    rounds = 1 if budget < SHORT else bigram.ROUNDS
    found = bigram.fit(*pairs, vocabulary, width - bigram.RESERVED, rounds)
    embedding, head = bigram.vectors(found, width)
    weights = {"embedding": embedding, "head": head}
    kept.parent.mkdir(parents=True, exist_ok=True)
    torn = kept.with_suffix(".tmp")
    save_file(weights, torn)
    torn.replace(kept)
    console.print(
        f"start: a bigram model of {human_count(len(pairs[0]))} tokens, fitted in {time.perf_counter() - began:.1f} s"
    )
    return weights
