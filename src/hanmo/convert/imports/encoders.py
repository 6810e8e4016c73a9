"""BERT and MegatronBert in Hugging Face's names (Erlangshen), and the `.pth` of Fengshenbang's fine-tuning script.

Which of the two it is stands in the tensors: MegatronBert normalises before attention and MLP (`attention.ln`, `ln`,
`encoder.ln`), BERT behind them (`attention.output.LayerNorm`, `embeddings.LayerNorm`). So does the class:

| tensors beside the encoder's | class |
|---|---|
| `cls.predictions`, `cls.seq_relationship` and the pooler | ForPreTraining, which fills masks as well |
| `cls.predictions` | ForMaskedLM |
| `classifier` or `cls_layer` | ForSequenceClassification |
| none | Model |
"""

from __future__ import annotations

import re
from typing import Any

from hanmo.convert.imports.plan import DERIVED, UNUSED, Plan, Rule, Sorted, apply, configure, layers, tie
from hanmo.convert.imports.source import Source
from hanmo.errors import HanmoError

#: What stands before the encoder's names: the class's own prefix, none, or that of the fine-tuning script.
BEFORE = r"(?:bert\.|bert_encoder\.)?"
_BODY = r"embeddings|encoder|pooler"
_WORDS = "bert.embeddings.word_embeddings.weight"
_DECODER = "cls.predictions.decoder."


def plan(source: Source) -> Plan:
    """Map an encoder. `recognise` has seen that it has position embeddings."""
    import transformers

    names, keys = source.tensors, source.keys
    at = prefix(source, ("bert.", "bert_encoder.", ""))
    base = "MegatronBert" if f"{at}encoder.layer.0.attention.ln.weight" in names else "Bert"
    script = "cls_layer.weight" in names
    fills = any(name.startswith("cls.predictions.") for name in names)
    pools = f"{at}pooler.dense.weight" in names
    if script or "classifier.weight" in names:
        form = "ForSequenceClassification"
    elif fills:
        form = "ForPreTraining" if pools and "cls.seq_relationship.weight" in names else "ForMaskedLM"
    else:
        form = "Model"
    found = apply(_rules(form), source)
    tied = True
    if fills and form != "ForSequenceClassification":
        tied = _tie_head(found, source)
    rows, width = source.shape(f"{at}embeddings.word_embeddings.weight")
    heads = keys.heads("num_attention_heads")
    if width % heads:
        raise HanmoError(f"{keys.where}: num_attention_heads: {heads} heads do not divide the width {width}")
    keys.get("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "type_vocab_size")
    keys.get("max_position_embeddings", "tie_word_embeddings", "use_cache", "position_embedding_type", "is_decoder")
    if keys.values.get("position_embedding_type", "absolute") != "absolute":
        raise HanmoError(f"{keys.where}: position_embedding_type: only absolute ones are in the stock class")
    kept = ("hidden_act", "layer_norm_eps", "initializer_range", "hidden_dropout_prob", "attention_probs_dropout_prob")
    values: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": source.shape(f"{at}encoder.layer.0.intermediate.dense.weight")[0],
        "num_hidden_layers": layers(names, BEFORE + r"encoder\.layer\.(\d+)\."),
        "num_attention_heads": heads,
        "max_position_embeddings": source.shape(f"{at}embeddings.position_embeddings.weight")[0],
        "type_vocab_size": source.shape(f"{at}embeddings.token_type_embeddings.weight")[0],
        "pad_token_id": keys.get("pad_token_id", default=0),
        "tie_word_embeddings": tied,
        **{name: value for name in kept if (value := keys.get(name)) is not None},
    }
    config = configure(getattr(transformers, f"{base}Config"), source, values)
    kind = "fine-tuned " * script + ("Erlangshen / MegatronBert" if base == "MegatronBert" else "BERT")
    made = Plan(
        kind,
        getattr(transformers, f"{base}{form}"),
        config,
        found.tensors,
        found.derived,
        found.unused,
        found.unmapped,
    )
    if form == "ForSequenceClassification":
        say_labels(made, source.shape("cls_layer.weight" if script else "classifier.weight")[0])
    return made


def say_labels(made: Plan, labels: int) -> None:
    """Put the number of a classifier's labels into its configuration."""
    made.config.num_labels = labels
    if labels == 1:
        # The script's one output goes through a sigmoid; this type does so in transformers' pipelines and losses.
        made.config.problem_type = "multi_label_classification"
        made.notes.append("one label: the logit before the sigmoid that the script takes of it")


def _rules(form: str) -> tuple[Rule, ...]:
    """Renaming for a class: `bert.` before the body unless it is the bare model, and heads where the class has them."""
    stem = "" if form == "Model" else "bert."
    masks, classifies = form in ("ForMaskedLM", "ForPreTraining"), form == "ForSequenceClassification"
    return (
        (BEFORE + r"embeddings\.position_ids", DERIVED),
        *(((BEFORE + r"pooler\.dense\.(?:weight|bias)", UNUSED),) if form == "ForMaskedLM" else ()),
        # Checkpoints that came from TensorFlow call a norm's weight gamma and its bias beta.
        (BEFORE + rf"((?:{_BODY})\..*(?:LayerNorm|ln))\.gamma", rf"{stem}\1.weight"),
        (BEFORE + rf"((?:{_BODY})\..*(?:LayerNorm|ln))\.beta", rf"{stem}\1.bias"),
        (BEFORE + rf"((?:{_BODY})\..*)", rf"{stem}\1"),
        (r"(cls\.predictions\.transform\.LayerNorm)\.gamma", r"\1.weight" if masks else UNUSED),
        (r"(cls\.predictions\.transform\.LayerNorm)\.beta", r"\1.bias" if masks else UNUSED),
        (r"(cls\.predictions\..*)", r"\1" if masks else UNUSED),
        (r"(cls\.seq_relationship\.(?:weight|bias))", r"\1" if form == "ForPreTraining" else UNUSED),
        *(((r"(?:classifier|cls_layer)\.(weight|bias)", r"classifier.\1"),) if classifies else ()),
    )


def _tie_head(found: Sorted, source: Source) -> bool:
    """Tie the masked-LM head to the word embeddings where they are equal; its bias has two names for one tensor.

    Raises:
        HanmoError: the two biases differ.
    """
    tensors, bias, again = found.tensors, "cls.predictions.bias", f"{_DECODER}bias"
    if bias in tensors and again in tensors and not bool((tensors[bias] == tensors[again]).all()):
        raise HanmoError(f"{source.path}: {bias} and {again} differ, and the class has one of them")
    if again in tensors:
        tensors.setdefault(bias, tensors[again])
    tied = tie(found, _WORDS, f"{_DECODER}weight", source.keys.get("tie_word_embeddings"), source)
    if tied:
        if tensors.pop(again, None) is not None:
            found.derived.append(again)
    elif bias in tensors:
        # Untied, the class adds the decoder's bias alone.
        tensors[again] = tensors[bias].clone()
    return tied


def prefix(source: Source, known: tuple[str, ...]) -> str:
    """Which of `known` stands before the encoder's names.

    Raises:
        HanmoError: none of them.
    """
    place = "embeddings.word_embeddings.weight"
    at = next((before for before in known if f"{before}{place}" in source.tensors), None)
    if at is None:
        raise HanmoError(f"{source.path}: an encoder, but {place} is under none of BERT's names; is it whole?")
    return at


def is_encoder(names: Any) -> bool:
    """Whether the names are those of a BERT-like encoder, under whatever prefix."""
    return any(re.search(r"(?:^|\.)encoder\.layer\.0\.attention\.self\.query\.weight$", name) for name in names)
