"""The imported model's folder: weights in shards, configuration, generation settings, tokenizer, and the record."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hanmo.convert.imports import RECORD
from hanmo.convert.imports.plan import Plan
from hanmo.convert.imports.source import Source
from hanmo.errors import HanmoError
from hanmo.files import fingerprint_path, read_json, write_json
from hanmo.models.save import weights_written
from hanmo.tokenizer import pin

#: Most bytes of a file of weights; memory holds about that much at a time.
SHARD = 4 << 30
#: Settings of a source's generation_config.json that are kept where it samples.
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")


def write(plan: Plan, source: Source, missing: list[str], folder: Path, tokenizer: Path | None) -> dict[str, Any]:
    """Fill `folder`; returns the record that is also written there."""
    with weights_written(folder):
        dtype = _weights(plan, folder)
        plan.config.architectures = [plan.cls.__name__]
        plan.config.dtype = dtype
        kind = _tokenizer(plan, source, folder, tokenizer)
        if kind is not None:
            _ids_from_tokenizer(plan, folder)
        plan.config.save_pretrained(folder)
        pin(folder)
    _for_older_readers(folder / "config.json")
    if plan.cls.can_generate():
        _generation(plan, source, folder)
    record = {
        "kind": plan.kind,
        "class": plan.cls.__name__,
        "source": str(source.path),
        "fingerprint": fingerprint_path(source.files[0]) if len(source.files) == 1 else fingerprint_path(source.folder),
        "parameters": sum(tensor.numel() for tensor in plan.tensors.values()),
        "dtype": str(dtype).removeprefix("torch."),
        "tied": bool(plan.config.tie_word_embeddings),
        "tokenizer": kind,
        "unmapped": sorted(plan.unmapped),
        "missing": sorted(missing),
        "unused": sorted(plan.unused),
        "derived": sorted(plan.derived),
        "config_unused": source.keys.unused,
        "notes": plan.notes,
    }
    write_json(folder / RECORD, record)
    return record


def _weights(plan: Plan, folder: Path) -> torch.dtype:
    """Write the tensors in the one type that holds all of theirs exactly; returns it."""
    dtype = torch.float16 if not plan.tensors else next(iter(plan.tensors.values())).dtype
    for tensor in plan.tensors.values():
        dtype = torch.promote_types(dtype, tensor.dtype)
    if not dtype.is_floating_point:
        raise HanmoError(f"weights of type {dtype} are no floating-point numbers; give the model before quantisation")
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in plan.tensors.items():
        needed = tensor.numel() * dtype.itemsize
        if shards[-1] and size + needed > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += needed
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # Views of a mapped file are copied: one storage may stand behind many of them.
        tensors = {name: plan.tensors[name].to(dtype, copy=True).contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        total = sum(tensor.numel() for tensor in plan.tensors.values()) * dtype.itemsize
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    return dtype


def _for_older_readers(path: Path) -> None:
    """transformers 4, and engines built for it, read the rotary base beside `rope_parameters`, which they ignore."""
    config = read_json(path)
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        write_json(path, {**config, "rope_theta": rope["rope_theta"]})


def _generation(plan: Plan, source: Source, folder: Path) -> None:
    """generation_config.json: ids from the source's own, else from its configuration; sampling where it samples."""
    from transformers import GenerationConfig

    given: dict[str, Any] = {}
    beside = source.folder / "generation_config.json"
    if beside.is_file():
        read = read_json(beside)
        given = read if isinstance(read, dict) else {}
    values = {role: given.get(role, value) if plan.ids_from_files else value for role, value in plan.ids.items()}
    if given.get("do_sample") is True:
        values |= {"do_sample": True} | {name: given[name] for name in _SAMPLING if given.get(name) is not None}
    GenerationConfig(**{name: value for name, value in values.items() if value is not None}).save_pretrained(folder)


def _ids_from_tokenizer(plan: Plan, folder: Path) -> None:
    """Fill in the ids of special tokens that the configuration does not tell: without an end, nothing stops."""
    from hanmo.tokenizer import load

    tokenizer = load(folder)
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        index = getattr(tokenizer, role, None)
        if index is None or getattr(plan.config, role, None) is not None:
            continue
        setattr(plan.config, role, index)
        if role in plan.ids and plan.ids[role] is None:
            plan.ids[role] = index


def _tokenizer(plan: Plan, source: Source, folder: Path, given: Path | None) -> str | None:
    """Put the tokenizer into the folder: the given one, or what lies beside the weights and can be used.

    Returns:
        Its kind (see `hanmo.tokenizer.imports`), None where there is none; the reason becomes a note.

    Raises:
        HanmoError: a given tokenizer cannot be used.
    """
    from hanmo.tokenizer import load
    from hanmo.tokenizer.imports import import_tokenizer

    work = folder / ".tokenizer"
    try:
        facts = import_tokenizer(given or source.folder, work)
        rows = plan.config.vocab_size
        if plan.added_tokens and len(load(work)) + len(plan.added_tokens) == rows:
            _add_tokens(work, plan.added_tokens)
        if len(load(work)) > rows:
            raise HanmoError(f"{given or source.folder}: a tokenizer of {len(load(work))} tokens for {rows} embeddings")
    except HanmoError as error:
        shutil.rmtree(work, ignore_errors=True)
        if given is not None:
            raise
        plan.notes.append(f"no tokenizer taken ({error}); --tokenizer names one")
        return None
    for file in work.iterdir():
        if file.name != RECORD:
            file.replace(folder / file.name)
    work.rmdir()
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and "auto_map" in (values := read_json(settings)):
        write_json(settings, {name: value for name, value in values.items() if name != "auto_map"})
    return str(facts["kind"])


def _add_tokens(folder: Path, tokens: tuple[str, ...]) -> None:
    """Put special tokens behind a vocabulary, in their order; the first two begin and end a text."""
    from transformers import AddedToken

    from hanmo.tokenizer import load, save
    from hanmo.tokenizer.forms.wordpiece import write_vocabulary

    settings = folder / "tokenizer_config.json"
    before = read_json(settings)
    tokenizer = load(folder)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token = tokens[:2]
    save(tokenizer, folder)
    kept = {key: before[key] for key in ("tokenizer_class", "do_lower_case", "tokenize_chinese_chars") if key in before}
    write_json(settings, {**read_json(settings), **kept})
    if (folder / "vocab.txt").is_file():
        write_vocabulary(tokenizer.get_vocab(), folder)
