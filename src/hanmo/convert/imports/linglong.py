"""LingLong in both of its published forms, as our class.

| form | weights | configuration |
|---|---|---|
| legacy (before 0.10) | `transformer.blocks.3.attn.c_attn.w`; 12 tensors a layer, 4 more, no head | YAML |
| Hugging Face (0.10 on) | `transformer.h.3.attn.c_attn.weight`, `lm_head.weight` tied or absent | config.json |

Projections are stored `[in, out]` in both, as in our class. The code of the pinyin model was never published: its table
is looked for by its shape, `[1354, width]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanmo.convert.imports.plan import DERIVED, Plan, Rule, Sorted, apply, configure, layers, tie
from hanmo.convert.imports.source import Keys, Source
from hanmo.errors import HanmoError

_PART = r"(ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)"
_LAYER = r"(?:transformer\.)?(?:blocks|h)\.(\d+)\."
_RULES: tuple[Rule, ...] = (
    (_LAYER + _PART + r"\.w(?:eight)?", r"transformer.h.\1.\2.weight"),
    (_LAYER + _PART + r"\.b(?:ias)?", r"transformer.h.\1.\2.bias"),
    # The causal mask and its fill value, which classes with GPT-2's names saved as buffers once.
    (_LAYER + r"attn\.(?:masked_)?bias", DERIVED),
    (r"(?:transformer\.)?((?:wte|wpe|pinyin)\.weight|ln_f\.(?:weight|bias))", r"transformer.\1"),
    (r"lm_head\.weight", "lm_head.weight"),
)
_PINYIN = "transformer.pinyin.weight"
#: All published models have so many heads, whatever their width; legacy files do not say it.
_HEADS = 16
#: Rows of the published vocabulary of characters, and what its ids are for.
CHARACTERS = 13312
_IDS = {"bos_token_id": 10, "eos_token_id": 8, "pad_token_id": 0}
#: What no tensor tells: our keys, and what the legacy form calls them.
_KEPT = {
    "embd_pdrop": "embd_dropout",
    "attn_pdrop": "attn_dropout",
    "resid_pdrop": "resid_dropout",
    "attn_stride": "stride",
    "attn_c": "c",
    "backward": "backward",
    "initializer_range": "initializer_range",
}


def plan(source: Source) -> Plan:
    """Map LingLong's tensors, of either form. `recognise` has seen that they are LingLong's."""
    from hanmo.models.linglong.configuration import LingLongConfig
    from hanmo.models.linglong.modeling import LingLongForCausalLM

    legacy = any(".blocks." in f".{name}" for name in source.tensors)
    if legacy:
        source.keys = Keys(_flat(source.keys.values), source.keys.where)
    keys, notes = source.keys, list[str]()
    if not keys.values:
        raise HanmoError(
            f"{source.path}: LingLong, and nothing tells whether its layers are sparse; give its configuration "
            "(YAML or JSON) with --config"
        )
    at = "transformer." if any(name.startswith("transformer.") for name in source.tensors) else ""
    rows, width = source.shape(f"{at}wte.weight")
    positions = source.shape(f"{at}wpe.weight")[0]
    keys.confirm(rows, "vocab_size", "n_vocab")
    keys.confirm(positions, "n_position", "n_ctx", "n_positions")
    keys.confirm(width, "n_embd")
    inner = source.shape(f"{at}blocks.0.mlp.c_fc.w" if legacy else f"{at}h.0.mlp.c_fc.weight")[1]
    keys.confirm(inner, "n_inner")
    count = layers(source.tensors, _LAYER)
    keys.confirm(count, "n_layer")
    if keys.get("n_head", "num_attention_heads") is None:
        notes.append(f"no n_head: {_HEADS} heads, as all published models have them")
        heads = _HEADS
    else:
        heads = keys.heads("n_head", "num_attention_heads")
    mode = keys.get("attn_mode", "mode")
    if mode is None:
        mode = "sparse" if keys.get("attn_stride", "stride") is not None else "dense"
        notes.append(f"no attn_mode: taken to be {mode}")
    found = apply(_RULES, source)
    if not tie(found, "transformer.wte.weight", "lm_head.weight", keys.get("tie_word_embeddings"), source):
        raise HanmoError(f"{source.path}: lm_head.weight is not the token embedding, to which LingLong's head is tied")
    pinyin_rows = int(keys.number("n_vocab_pinyin", default=LingLongConfig.n_vocab_pinyin))
    _find_pinyin(found, source, pinyin_rows, width, notes)
    said = keys.get("activation_function", default="gelu")
    if said == "gelu_new":
        notes.append(
            "activation_function: gelu_new is what the configuration says; imported as exact gelu, with which the "
            "published weights were trained (logits differ by about 1e-3): for others, change it in config.json"
        )
    keys.get("use_cache")
    ids = {role: keys.get(role, default=own if rows == CHARACTERS else None) for role, own in _IDS.items()}
    values: dict[str, Any] = {
        "vocab_size": rows,
        "n_position": positions,
        "n_embd": width,
        "n_layer": count,
        "n_head": heads,
        "n_inner": inner,
        "activation_function": "gelu" if said == "gelu_new" else said,
        "layer_norm_epsilon": float(keys.number("layer_norm_epsilon", "epsilon", default=1e-8)),
        "attn_mode": mode,
        "use_pinyin": _PINYIN in found.tensors,
        "n_vocab_pinyin": pinyin_rows,
        **{ours: value for ours, theirs in _KEPT.items() if (value := keys.get(ours, theirs)) is not None},
        **ids,
    }
    config = configure(LingLongConfig, source, values)
    name = "LingLong, legacy form" if legacy else "LingLong"
    return Plan(
        name, LingLongForCausalLM, config, found.tensors, found.derived, found.unused, found.unmapped, notes, ids
    )


def _find_pinyin(found: Sorted, source: Source, rows: int, width: int, notes: list[str]) -> None:
    """Give the pinyin table, which is known by its shape, our name.

    Raises:
        HanmoError: the configuration says that there is one, and there is none; or there are several.
    """
    said = source.keys.get("use_pinyin")
    if _PINYIN in found.tensors:
        return
    tables = [name for name in found.unmapped if tuple(source.tensors[name].shape) == (rows, width)]
    if len(tables) > 1:
        raise HanmoError(
            f"{source.path}: {', '.join(tables)}: each may be the pinyin table ([{rows}, {width}]); keep one"
        )
    if tables:
        found.tensors[_PINYIN] = source.tensors[tables[0]]
        found.unmapped.remove(tables[0])
        notes.append(f"{tables[0]}: the pinyin table, by its shape")
    elif said:
        raise HanmoError(
            f"{source.keys.where}: use_pinyin: there is no pinyin table [{rows}, {width}] among the weights"
        )


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of all sections."""
    flat: dict[str, Any] = {}
    for key, value in given.items():
        flat.update(_flat(value) if isinstance(value, Mapping) else {key: value})
    return flat
