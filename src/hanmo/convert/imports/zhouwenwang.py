"""Zhouwenwang, published under three model types (megatron-bert, bert, roformer), as our unified model.

A stock class of any of the three would load it and silently draw what it misses. What tells it is in the weights:
Megatron's norms before each part, and no position embeddings. Its rotation turns neighbouring channels (0, 1), (2, 3),
... of a head; ours turns channel i with i + d/2. So rows of queries and keys are re-ordered, and every score stays.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from hanmo.convert.imports.encoders import prefix, say_labels
from hanmo.convert.imports.plan import DERIVED, UNUSED, Plan, Rule, apply, configure, halves, layers
from hanmo.convert.imports.source import Source
from hanmo.errors import HanmoError

#: The model types under which checkpoints were published.
TYPES = {"megatron-bert", "bert", "roformer"}
_PREFIXES = ("bert.", "roformer.", "bert_encoder.", "")
_BEFORE = r"(?:bert\.|roformer\.|bert_encoder\.)?"
_LAYER = r"encoder\.layer\.(\d+)\."
_ANGLES = ".attention.self.rope_emb.div_term"
_RULES: tuple[Rule, ...] = (
    (_BEFORE + r"embeddings\.position_ids", DERIVED),
    (_BEFORE + _LAYER + r"attention\.self\.rope_emb\.div_term", DERIVED),
    (_BEFORE + r"((?:embeddings|encoder)\..*)", r"bert.\1"),
)
_POOLER = _BEFORE + r"(pooler\.dense\.(?:weight|bias))"
#: No training objective reached it; logits are the hidden states times the word embeddings.
_WRITES: tuple[Rule, ...] = (*_RULES, (_POOLER, UNUSED))
#: What fine-tuning made of it.
_JUDGES: tuple[Rule, ...] = (*_RULES, (_POOLER, r"\1"), (r"(?:classifier|cls_layer)\.(weight|bias)", r"classifier.\1"))
_KEPT = (
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "initializer_range",
    "layer_norm_eps",
)


def is_zhouwenwang(source: Source) -> bool:
    """Whether an encoder is Zhouwenwang, whatever its configuration says it is."""
    ends = ("encoder.layer.0.attention.ln.weight", "encoder.ln.weight")
    names = source.tensors
    return all(any(name.endswith(end) for name in names) for end in ends) and not any(
        "position_embeddings" in name or "embed_positions" in name for name in names
    )


def plan(source: Source) -> Plan:
    """Map its tensors. `recognise` has seen `is_zhouwenwang`."""
    from hanmo.models.unified.config import UnifiedConfig
    from hanmo.models.unified.heads import UnifiedForSequenceClassification
    from hanmo.models.unified.model import UnifiedForMaskedLM

    script = "cls_layer.weight" in source.tensors
    head = next((name for name in ("cls_layer.weight", "classifier.weight") if name in source.tensors), None)
    keys, at = source.keys, prefix(source, _PREFIXES)
    rows, width = source.shape(f"{at}embeddings.word_embeddings.weight")
    inner = source.shape(f"{at}encoder.layer.0.intermediate.dense.weight")[0]
    types = source.shape(f"{at}embeddings.token_type_embeddings.weight")[0]
    count = layers(source.tensors, _BEFORE + _LAYER)
    heads = keys.heads("num_attention_heads")
    if width % (2 * heads):
        raise HanmoError(f"{keys.where}: num_attention_heads: {heads} heads of {width} channels have no even width")
    keys.confirm(width, "hidden_size")
    keys.confirm(inner, "intermediate_size")
    keys.confirm(count, "num_hidden_layers")
    keys.get("vocab_size", "type_vocab_size", "use_cache", "tie_word_embeddings", "is_decoder")
    found = apply(_JUDGES if head else _WRITES, source)
    for name, tensor in source.tensors.items():
        if name.endswith(_ANGLES):
            _check_angles(name, tensor, width // heads, UnifiedConfig.rope_theta, source)
    for name, tensor in found.tensors.items():
        # Another number of rows than the stream's is told when shapes are held against the class.
        if re.search(r"\.attention\.self\.(?:query|key)\.", name) and tensor.shape[0] == width:
            found.tensors[name] = halves(tensor, heads)
    ids = {"pad_token_id": keys.get("pad_token_id", default=0)}
    ids |= {role: keys.get(role) for role in ("bos_token_id", "eos_token_id")}
    values: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": count,
        "num_attention_heads": heads,
        "type_vocab_size": types,
        **{name: value for name in _KEPT if (value := keys.get(name)) is not None},
        **ids,
    }
    made = Plan(
        "fine-tuned " * script + "Zhouwenwang",
        UnifiedForSequenceClassification if head else UnifiedForMaskedLM,
        configure(UnifiedConfig, source, values),
        found.tensors,
        found.derived,
        found.unused,
        found.unmapped,
        ["rows of queries and keys re-ordered from rotated neighbours to rotated halves"],
        {} if head else ids,
    )
    if head:
        say_labels(made, source.shape(head)[0])
    return made


def _check_angles(name: str, stored: torch.Tensor, width: int, base: float, source: Source) -> None:
    """The stored table of rates is the one that our class computes."""
    expected = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    # Half precision rounds them when a model is stored in it.
    if stored.shape != expected.shape or not torch.allclose(stored.double(), expected, rtol=1e-2, atol=1e-6):
        raise HanmoError(
            f"{source.path}: {name}: its rotary angles are not those of base {base:g} and heads of {width} channels; "
            "is num_attention_heads right?"
        )
