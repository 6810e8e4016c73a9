"""Randeng, Megatron's T5, as our class.

It says that it is a T5, and a stock T5 would load a few of its weights and draw the rest: what tells it is the table of
positions beside the words. Weights keep their names; only the embeddings, which each half lists again, and a counting
buffer are left out.
"""

from __future__ import annotations

from typing import Any

from hanmo.convert.imports.plan import DERIVED, Plan, Rule, apply, configure, layers, tie
from hanmo.convert.imports.source import Source
from hanmo.errors import HanmoError

_WORDS, _PLACES = "shared.word_embeddings.weight", "shared.position_embeddings.weight"
_RULES: tuple[Rule, ...] = (
    (r"(?:shared|(?:encoder|decoder)\.embed_tokens)\.position_ids", DERIVED),
    (
        r"((?:shared|(?:encoder|decoder)\.embed_tokens)\.(?:word|position)_embeddings\.weight|lm_head_bias"
        r"|(?:encoder|decoder)\.final_layer_norm\.(?:weight|bias))",
        r"\1",
    ),
    # Later versions of its code name the parts of a layer after Megatron.
    (r"((?:encoder|decoder)\.block\.\d+\.)(?:Megatron)?(T5Layer.*)", r"\1\2"),
)
#: Behind BERT's 21,128 Chinese pieces; no published file lists them.
_ADDED = ("[BOS]", "[EOS]", *(f"<extra_id_{number}>" for number in range(118)))
_KEPT = ("dropout_rate", "layer_norm_epsilon", "feed_forward_proj")
_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def is_randeng(source: Source) -> bool:
    """Whether the names are a Megatron-T5's; no stock class has them."""
    return _WORDS in source.tensors or any("T5LayerSelfAttention." in name for name in source.tensors)


def plan(source: Source) -> Plan:
    """Map its tensors. `recognise` has seen `is_randeng`.

    With the published vocabulary the decoder begins with [BOS] and ends with [EOS], whatever the files say: these are
    the ids that the models were trained with, and what is said there is a stock T5's.
    """
    from hanmo.models.megatron_t5.config import VOCABULARY, MegatronT5Config
    from hanmo.models.megatron_t5.model import MegatronT5ForConditionalGeneration

    keys = source.keys
    (rows, width), places = source.shape(_WORDS), source.shape(_PLACES)[0]
    found = apply(_RULES, source)
    for half in ("encoder", "decoder"):
        for shared in (_WORDS, _PLACES):
            again = shared.replace("shared.", f"{half}.embed_tokens.")
            if not tie(found, shared, again, None, source):
                raise HanmoError(f"{source.path}: {again} differs from {shared}, and the class has one of them")
    made = found.tensors
    names = {half: rf"{half}\.block\.(\d+)\." for half in ("encoder", "decoder")}
    counts = {half: layers(made, pattern) for half, pattern in names.items()}
    keys.confirm(counts["encoder"], "num_layers")
    keys.confirm(counts["decoder"], "num_decoder_layers")
    first = "encoder.block.0.T5Layer"
    for name in (f"{first}SelfAttention.SelfAttention.q.weight", f"{first}FF.DenseReluDense.wi.weight"):
        if name not in made:
            raise HanmoError(f"{source.path}: the weights lack {name}; is the checkpoint whole?")
    queries = made[f"{first}SelfAttention.SelfAttention.q.weight"].shape[0]
    inner = made[f"{first}FF.DenseReluDense.wi.weight"].shape[0]
    heads = keys.heads("num_heads", "num_attention_heads")
    if queries % heads:
        raise HanmoError(f"{keys.where}: num_heads: {heads} heads do not divide the {queries} rows of the queries")
    for value, key in ((width, "d_model"), (inner, "d_ff"), (queries // heads, "d_kv")):
        keys.confirm(value, key)
    if (form := keys.get("feed_forward_proj", default="gelu")) not in ("gelu", "relu"):
        raise HanmoError(f"{keys.where}: feed_forward_proj: {form} is none of gelu, relu")
    keys.get("vocab_size", "is_encoder_decoder", "use_cache", "tie_word_embeddings")
    own = {role: getattr(MegatronT5Config, role) for role in _IDS}
    published = rows == VOCABULARY
    ids = dict(own) if published else {role: keys.get(role) for role in _IDS}
    values: dict[str, Any] = {
        "vocab_size": rows,
        "max_position_embeddings": places,
        "d_model": width,
        "d_kv": queries // heads,
        "d_ff": inner,
        "num_layers": counts["encoder"],
        "num_decoder_layers": counts["decoder"],
        "num_heads": heads,
        **{name: value for name in _KEPT if (value := keys.get(name)) is not None},
        **ids,
    }
    config = configure(MegatronT5Config, source, values)
    mapped = Plan("Randeng / Megatron-T5", MegatronT5ForConditionalGeneration, config, made, ids=ids)
    mapped.derived, mapped.unused, mapped.unmapped = found.derived, found.unused, found.unmapped
    if published:
        mapped.ids_from_files, mapped.added_tokens = False, _ADDED
        mapped.notes.append(f"[BOS] {own['bos_token_id']} begins and [EOS] {own['eos_token_id']} ends what it writes")
    return mapped
