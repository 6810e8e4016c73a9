"""The model that a run begins with: a preset with fresh weights, or a checkpoint that is continued.

A given folder is looked at before a step is made with it: whether its weights are those of its class, whether its ids
are those of the data, and whether the packed step computes what the model itself computes. Each refusal is one line
with the mend.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from filelock import FileLock
from safetensors import SafetensorError
from torch import nn

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.files import write_json
from hanmo.models.parts import layers_of
from hanmo.models.presets import preset
from hanmo.models.vocabulary import RECORD, resize
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.start import name_ids, new_model
from hanmo.pretrain.steps import step_of
from hanmo.pretrain.steps.encoder import check_encoder
from hanmo.pretrain.steps.probing import probing
from hanmo.pretrain.steps.seq2seq import check_seq2seq
from hanmo.pretrain.steps.unified import check_unified
from hanmo.tokenizer import is_tokenizer, load
from hanmo.tokenizer.forms.pinyin import VOCABULARY as PINYIN
from hanmo.tokenizer.forms.pinyin import has_pinyin, read_classes
from hanmo.tokenizer.imports import import_tokenizer
from hanmo.tokens.order import Rows

#: Below the stage's folder: what is made before the training and is needed only while the stage works.
WORK = "given"
#: Names that an error line shows; all of them are in loading.json.
_SHOWN = 3
#: How far the packed step's losses may be from the model's own, which are summed in another order (see check_step).
_TOLERANCE = 1e-4


def load_model(settings: PretrainSettings, given: Path | None, vocab_size: int, tokenizer: Path, out: Path) -> Any:
    """The model in fp32 on the CPU, ready to train, without dropout (see `without_dropout`).

    Args:
        given: a model folder to continue; None for a fresh preset.
        vocab_size, tokenizer: of the data.
        out: the stage's folder; gets loading.json where weights were missing or left out.

    Raises:
        HanmoError: the folder's model does not fit the data, the settings or the step.
    """
    if given is None:
        model = new_model(settings, vocab_size, **_pinyin_rows(settings, tokenizer))
        if settings.resolved(None).objective != "causal":
            name_ids(model, tokenizer)
        without_dropout(model)
        return model
    if settings.start != "random":
        raise HanmoError(f"start: {settings.start} is for new models, and {given} is given to go on from; leave it out")
    folder = given
    if not _same_vocabulary(folder, tokenizer, given, settings.vocabulary, out):
        folder = _swapped(folder, tokenizer, out)
    objective = settings.resolved(given).objective
    auto = getattr(transformers, settings.auto_class(given))
    # Weights that the folder lacks are drawn, and must be the same in every try.
    torch.manual_seed(settings.seed)
    model = open_model(auto, folder, settings.strict, out)
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < vocab_size:
        raise HanmoError(f"{given}: {rows} embedding rows for {vocab_size} tokens; is the folder whole?")
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and settings.context > longest:
        raise HanmoError(f"context: {settings.context} is longer than the model's {longest}; lower it")
    _check_pinyin(model, given, tokenizer)
    without_dropout(model)
    if objective == "masked":
        if settings.masks.sentence_order and not hasattr(getattr(model, "cls", None), "seq_relationship"):
            raise HanmoError(f"masks.sentence_order: {given}: {type(model).__name__} has no head for it; leave it out")
        check_encoder(model, given, step_of(model, objective))
    elif objective == "unified":
        check_unified(model, given)
    elif objective == "spans":
        check_seq2seq(model, given, step_of(model, objective))
    else:
        check_step(model, settings.context, given)
    return model.train()


def _pinyin_rows(settings: PretrainSettings, tokenizer: Path) -> dict[str, int]:
    """Of a new model with pinyin: as many rows as its tokenizer has classes."""
    if not preset(settings.preset).own.get("use_pinyin") or not has_pinyin(tokenizer):
        return {}  # without pinyin the data has been refused already
    return {"n_vocab_pinyin": len(read_classes(tokenizer / PINYIN))}


def _check_pinyin(model: Any, given: Path, tokenizer: Path) -> None:
    """See that the pinyin ids of the data are the model's own.

    Raises:
        HanmoError: they are others.
    """
    if not getattr(model.config, "use_pinyin", False):
        return
    classes = read_classes(tokenizer / PINYIN)
    if len(classes) > model.config.n_vocab_pinyin or (has_pinyin(given) and read_classes(given / PINYIN) != classes):
        raise HanmoError(
            f"{given}: its pinyin is not that of the data ({model.config.n_vocab_pinyin} rows, {len(classes)} classes "
            f"in {tokenizer / PINYIN}); encode the text with the model's own tokenizer"
        )


def open_model(auto: Any, folder: Path, strict: bool, out: Path) -> Any:
    """Load `folder` by an auto class, in fp32; says which weights are missing, left over or of another shape.

    Raises:
        HanmoError: it cannot be loaded, or `strict` and there are such weights.
    """
    transformers.utils.logging.disable_progress_bar()
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # what it would say of odd weights is said below, in full
    try:
        model, info = auto.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, ImportError, SafetensorError) as error:
        said = " ".join(str(error).split())[:200]
        raise HanmoError(f"{folder}: no model that transformers can load here ({said})") from None
    finally:
        transformers.utils.logging.set_verbosity(before)
    found = {
        "missing": sorted(map(str, info.get("missing_keys") or ())),
        "unexpected": sorted(map(str, info.get("unexpected_keys") or ())),
        "mismatched": sorted(
            f"{name} {list(there)} for {list(wanted)}" for name, there, wanted in info.get("mismatched_keys") or ()
        ),
    }
    counts = {kind: len(names) for kind, names in found.items() if names}
    if not counts:
        return model
    write_json(out / "loading.json", {"model": str(folder), "class": type(model).__name__, **found})
    listed = "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', …' * (len(names) > _SHOWN)})"
        for kind, names in found.items()
        if names
    )
    if strict:
        raise HanmoError(
            f"{folder}: not the weights of {type(model).__name__}: {listed}; all names are in {out / 'loading.json'}. "
            "Mend the folder, or set strict: false, which draws missing ones anew and leaves the others out"
        )
    console.print(f"[yellow]strict: false: {type(model).__name__}: {listed}; see loading.json[/]", soft_wrap=True)
    return model


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off, which a run that repeats to the bit and sees its text once or twice has no use for.

    The configuration keeps its figures, so that fine-tuning the result elsewhere has dropout as before.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
            continue
        for name in ("attention_dropout", "dropout"):  # the second one in T5's attention
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def check_step(model: Any, context: int, given: Path) -> None:
    """See that the packed step gives this model's own losses on two short documents in one row.

    The targets are the likeliest tokens and the unlikeliest: the distance between these two losses is what a model says
    at all, and a fresh one says so little that a loss on other targets would hide any difference.

    Raises:
        HanmoError: it cannot run the model, or computes something else.
    """
    name = type(model).__name__
    cannot = f"{given}: {name}: its decoder is not one that the packed step can run"
    known = "GPT-2, Llama, Mistral, Qwen2, Qwen3 and what is built like them can be trained"
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if "sliding_attention" in (_layer_types(config) or ()) else None
    if window is not None and window < context:
        raise HanmoError(f"{cannot} (a sliding window of {window} tokens); lower context to {window}. {known}")
    if (odd := unlike(layers_of(model))) is not None:
        raise HanmoError(f"{cannot} (its layers differ in {odd}); {known}")
    length = 8
    ids = np.random.default_rng(0).integers(0, model.get_input_embeddings().weight.shape[0], (1, 2 * length))
    position = np.tile(np.arange(length, dtype=np.int32), 2)[None]
    segment = np.repeat(np.arange(2, dtype=np.int32), length)[None]
    hint = "set objective: masked for an encoder. " if _is_encoder(model) else ""
    with probing(model, cannot, f"; {hint}{known}"):
        pinyin = position.astype(np.int64) % 2 if getattr(model.config, "use_pinyin", False) else None
        readings = {} if pinyin is None else {"pinyin_ids": torch.from_numpy(pinyin[:, :length])}
        parts = torch.from_numpy(ids).split(length, 1)
        logits = torch.cat([model(part, **readings).logits[0].float() for part in parts])
        answers = [logits.argmax(-1), logits.argmin(-1)]
        own = [float(F.cross_entropy(logits, answer, reduction="sum")) for answer in answers]
        step = step_of(model, "causal")(model, torch.float32, compiled=False, context=2 * length)
        ours = [float(step.loss(Rows(ids, a.numpy()[None], position, segment, pinyin=pinyin))) for a in answers]
    for mine, its in zip(ours, own, strict=True):
        if not abs(mine - its) <= _TOLERANCE * (own[1] - own[0]):
            raise HanmoError(f"{cannot} (loss {mine:.3f} instead of {its:.3f} on a probe); {known}")


def unlike(layers: nn.ModuleList) -> str | None:
    """What the first layer has otherwise than another one, as `self_attn.use_rope`; None where all are alike.

    The packed step runs all layers through the first one, with the weights of each. Attention's own notes of a sliding
    window do not count: the step gives it the mask.
    """
    first = {name: _plain(module) for name, module in layers[0].named_modules()}
    for layer in list(layers)[1:]:
        other = {name: _plain(module) for name, module in layer.named_modules()}
        if first != other:
            odd = next((name for name in first.keys() | other if first.get(name) != other.get(name)), "")
            pair = first.get(odd, {}), other.get(odd, {})
            inner = next((key for key in pair[0] if pair[0][key] != pair[1].get(key)), "its modules")
            return ".".join(filter(None, (odd, inner)))
    return None


def _plain(module: nn.Module) -> dict[str, Any]:
    """A module's class and plain attributes, without those that only number or name its place."""
    left_out = {"layer_idx", "training", "attention_type", "layer_type", "sliding_window", "is_sliding"}
    values = {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
    return {"class": type(module).__name__} | {name: v for name, v in values.items() if name not in left_out}


def _layer_types(config: Any) -> list[str] | None:
    types = getattr(config, "layer_types", None)
    if types is None and getattr(config, "sliding_window", None) is not None:
        return ["sliding_attention"]  # Mistral's older form: one window for all
    return types


def _is_encoder(model: Any) -> bool:
    return hasattr(model.base_model, "encoder")


def tokenizer_of(folder: Path, out: Path) -> Path | None:
    """The tokenizer folder that belongs to a model folder; None where there is none.

    Older models bring only vocab.txt or tokenizer.model: a folder that all else here reads is made of it below `out`.
    """
    if is_tokenizer(folder):
        return folder
    if not any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.model")):
        return None
    made = out / WORK / "tokenizer"
    with _alone(out):
        if not is_tokenizer(made):
            import_tokenizer(folder, made)
    return made


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One process of a run at a time makes what all of them want."""
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with FileLock(out / WORK / ".lock"):
        yield


def clear_work(out: Path) -> None:
    """Remove what was made of a given model folder."""
    shutil.rmtree(out / WORK, ignore_errors=True)


def _same_vocabulary(folder: Path, tokenizer: Path, given: Path, vocabulary: str, out: Path) -> bool:
    """Whether the ids of the data are the model's own.

    Raises:
        HanmoError: they are not, and no swap was asked for.
    """
    beside = tokenizer_of(folder, out)
    if beside is None:
        if vocabulary == "swap":
            raise HanmoError(f"{given}: vocabulary: swap needs the model's old tokenizer, and none is in its folder")
        console.print(
            f"[yellow]{given}: no tokenizer beside the model: whether its ids are the data's cannot be checked[/]"
        )
        return True
    own, wanted = (dict(load(place).get_vocab()) for place in (beside, tokenizer))
    odd = sorted((index, piece) for piece, index in wanted.items() if own.get(piece) != index)
    if not odd or vocabulary == "swap":
        return not odd
    index, piece = odd[0]
    at = next((other for other, place in own.items() if place == index), None)
    raise HanmoError(
        f"{given}: the data was made with another tokenizer ({len(odd)} of {len(wanted)} ids differ: {index} is "
        f"{piece!r} there and {at!r} in the model); encode the text with the model's own tokenizer, or set "
        f"vocabulary: swap, or run `hanmo model resize {given} --tokenizer {tokenizer} --out NEW` and continue NEW"
    )


def _swapped(folder: Path, tokenizer: Path, out: Path) -> Path:
    """The model with the data's vocabulary, made once and kept until the run is done."""
    made = out / WORK / "swapped"
    with _alone(out):
        if not (made / RECORD).is_file():
            said = resize(folder, tokenizer, made)
            console.print(
                f"vocabulary: swap: {said['kept']} of {said['tokens']} tokens keep their row, "
                f"{said['from_mean_of_parts']} start as the mean of their parts",
                soft_wrap=True,
            )
    return made
