"""What a checkpoint is, by its content: names and shapes of tensors, and configuration keys; never by a file's name.

What has no class here is named and refused, so that it is not taken for its look-alike; and look-alikes are told apart:
Zhouwenwang without its rotary positions is an Erlangshen with invented ones, LingLong 0.10 has GPT-2's names.
"""

from __future__ import annotations

import re

from hanmo.convert.imports import decoders, encoders, gpt2, linglong, llama2, randeng, zhouwenwang
from hanmo.convert.imports.plan import Plan, listed
from hanmo.convert.imports.source import Source
from hanmo.errors import HanmoError

#: Keys that only LingLong's configuration has; its vocabularies; and the rows of its pinyin table.
_LINGLONG_KEYS = {"attn_mode", "attn_stride", "attn_c", "use_pinyin", "n_vocab_pinyin", "backward", "n_position"}
_LINGLONG_ROWS = {13312, 26240}
_PINYIN_ROWS = 1354


def recognise(source: Source) -> Plan:
    """Map the checkpoint onto the class that computes the same.

    Raises:
        HanmoError: of a family that has no class here, of another stock class, or of no known kind.
    """
    names = source.tensors.keys()
    kind = source.keys.values.get("model_type")
    if isinstance(kind, str) and kind.startswith("hanmo_"):
        raise HanmoError(f"{source.keys.where}: model_type {kind} is a class of Hanmo's own; load it as it is")
    if randeng.is_randeng(source):
        return randeng.plan(source)
    if any(re.search(r"(?:^|\.)blocks\.0\.attn\.c_attn\.w$", name) for name in names):
        return linglong.plan(source)
    if any(re.search(r"(?:^|\.)experts\.", name) for name in names):
        _refuse_stock(source)
        raise HanmoError(
            f"{source.path}: a mixture of experts by code of its own, which no class here computes; those of stock "
            "classes (Mixtral, Qwen2-MoE, ...) load as they are"
        )
    if any(re.search(r"(?:^|\.)h\.0\.attn\.c_attn\.weight$", name) for name in names):
        if _is_linglong(source):
            return linglong.plan(source)
        _require_type(source, {None, "gpt2"})
        return gpt2.plan(source)
    if "layers.0.attention.wq.weight" in names:
        _require_type(source, {None, "llama", "llama2"})
        return llama2.plan(source)
    if encoders.is_encoder(names):
        return _encoder(source)
    if any(re.fullmatch(r"(?:model\.)?layers\.0\.self_attn\.q_proj\.weight", name) for name in names):
        _require_type(source, decoders.TYPES | decoders.STOCK)
        return decoders.plan(source)
    _refuse_stock(source)
    raise HanmoError(
        f"{source.path}: of no kind that is known here ({len(names)} tensors: {listed(sorted(names))}); "
        "docs/importing.md lists what is"
    )


def _encoder(source: Source) -> Plan:
    names = source.tensors.keys()
    if any(name.endswith("embed_positions.weight") for name in names):
        raise HanmoError(
            f"{source.path}: RoFormer (a table of sinusoidal positions, with which it rotates), which is no BERT; "
            "transformers has a class for it: load it as it is"
        )
    if zhouwenwang.is_zhouwenwang(source):
        _require_type(source, {None, *zhouwenwang.TYPES})
        return zhouwenwang.plan(source)
    if not any(name.endswith("embeddings.position_embeddings.weight") for name in names):
        raise HanmoError(
            f"{source.path}: an encoder with BERT's names but without its position embeddings, which a stock class "
            "would invent; is the checkpoint whole?"
        )
    _require_type(source, {None, "bert", "megatron-bert"})
    return encoders.plan(source)


def _is_linglong(source: Source) -> bool:
    keys = source.keys.values
    rows = {tensor.shape[0] for name, tensor in source.tensors.items() if name.endswith("wte.weight")}
    pinyin = any(t.dim() == 2 and t.shape[0] == _PINYIN_ROWS for t in source.tensors.values())
    # Without a configuration, one of its two vocabularies is what there is to go by.
    said = keys.get("model_type") == "linglong" or bool(_LINGLONG_KEYS & keys.keys())
    return said or pinyin or (not keys and bool(rows & _LINGLONG_ROWS))


def _require_type(source: Source, known: set[str | None]) -> None:
    """Names alone do not tell Gemma from Llama, so that a type which says otherwise is believed."""
    kind = source.keys.values.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise HanmoError(f"{source.keys.where}: model_type: {kind!r} is no name")
    if kind is None or kind in known:
        return
    _refuse_stock(source)
    raise HanmoError(
        f"{source.keys.where}: model_type {kind} computes by code that comes with it, which is not run here; if it "
        "computes what its names say, give a configuration without model_type by --config"
    )


def _refuse_stock(source: Source) -> None:
    """Leave to transformers what it has a class for.

    Raises:
        HanmoError: the configuration names a stock class.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = source.keys.values.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING_NAMES:
        raise HanmoError(f"{source.keys.where}: model_type {kind} is a stock class of transformers; load it as it is")
