"""What is put on a model for each kind of task: how examples become rows, what is learnt, how rows are answered.

All heads are stock classes of transformers (sequence classification, token classification, question answering), so
that a tuned folder loads elsewhere; a CRF's weights lie in the same file and are left out by who does not know them.
One is not: on request an encoder is read as the mean of its tokens, for which BERT has no class.
Its layer has a name of its own, so that a stock class says that its own layer is missing and answers nothing by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutput

from hanmo.errors import HanmoError
from hanmo.understand.entities import CRF, ends_of, entities_of, spans_between, tag_names, tags_of
from hanmo.understand.forms import Example
from hanmo.understand.rows import Row, Rows

#: Tokens that neighbouring stretches of a passage share.
OVERLAP = 64
#: Longest answer that is looked for, in tokens, and how many beginnings and ends are tried of a stretch.
_LONGEST_ANSWER, _TRIED = 64, 20


class Head:
    """A kind of head. A unit is what is learnt or answered at once: the rows of one example, or one stretch of it.

    Args:
        labels: in the order of the model's outputs.
    """

    #: The auto class of transformers.
    auto = "AutoModelForSequenceClassification"

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        #: What could not be told to the model, by reason.
        self.lost: dict[str, int] = {}

    @property
    def outputs(self) -> list[str]:
        """Names of the model's outputs."""
        return self.labels

    def units(self, examples: Sequence[Example], rows: Rows, train: bool) -> list[list[Row]]:
        """The units of examples; those without a label are left out of training."""
        raise NotImplementedError

    def loss(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> Tensor:
        """Mean loss of a batch of units."""
        raise NotImplementedError

    def answers(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> list[Any]:
        """What the model says of each unit; `together` makes an example's prediction of it."""
        raise NotImplementedError

    def together(self, example: Example, found: Sequence[Any]) -> Any:
        """An example's prediction, from the answers to its units."""
        return found[0]

    def _lose(self, reason: str, count: int = 1) -> None:
        if count:
            self.lost[reason] = self.lost.get(reason, 0) + count


class ClassHead(Head):
    """One of the labels for a text or a pair."""

    def units(self, examples: Sequence[Example], rows: Rows, train: bool) -> list[list[Row]]:
        """One row each."""
        number = {label: index for index, label in enumerate(self.labels)}
        found = []
        for item, example in enumerate(examples):
            if train and example.label is None:
                continue
            row = rows.row(example.texts)
            row.item, row.label = item, number.get(example.label)
            found.append([row])
        return found

    def loss(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy in nats."""
        logits = model(**batch).logits
        labels = torch.tensor([unit[0].label for unit in units], device=logits.device)
        return F.cross_entropy(logits.float(), labels)

    def answers(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> list[Any]:
        """The likeliest label."""
        return [self.labels[index] for index in model(**batch).logits.float().argmax(-1).tolist()]


class ChoiceHead(Head):
    """One of an example's options: each is a row with one logit, and they compete."""

    @property
    def outputs(self) -> list[str]:
        """One logit."""
        return ["fits"]

    def units(self, examples: Sequence[Example], rows: Rows, train: bool) -> list[list[Row]]:
        """A row for each option."""
        found = []
        for item, example in enumerate(examples):
            if train and example.label is None:
                continue
            unit = [rows.filled(*option) if len(option) == 3 else rows.row(option) for option in example.options]
            for row in unit:
                row.item, row.label = item, example.label
            found.append(unit)
        return found

    def loss(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy among the options of each example, in nats."""
        scores = model(**batch).logits[:, 0].float().split([len(unit) for unit in units])
        losses = [
            F.cross_entropy(one, one.new_tensor(unit[0].label).long()) for one, unit in zip(scores, units, strict=True)
        ]
        return torch.stack(losses).mean()

    def answers(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> list[Any]:
        """The number of the option that fits best."""
        scores = model(**batch).logits[:, 0].float().split([len(unit) for unit in units])
        return [int(one.argmax()) for one in scores]


class TagHead(Head):
    """Entities by a tag for each token under a CRF."""

    auto = "AutoModelForTokenClassification"

    @property
    def outputs(self) -> list[str]:
        """O, and B- and I- of each type."""
        return tag_names(self.labels)

    def units(self, examples: Sequence[Example], rows: Rows, train: bool) -> list[list[Row]]:
        """The stretches of each text, side by side."""
        found = []
        for item, example in enumerate(examples):
            if train and example.label is None:
                continue
            stretches = rows.windows(example.texts)
            self._lose("text in several rows", len(stretches) > 1)
            told = 0
            for row in stretches:
                row.item = item
                within = _within(row, example.label or ())
                row.label, lost = self._learnt(within, row)
                told += len(within) - lost
                found.append([row])
            if train:
                self._lose("entity that the tokens cannot tell", len(example.label) - told)
        return found

    def _learnt(self, entities: list[Any], row: Row) -> tuple[Any, int]:
        return tags_of(entities, row.offsets, self.outputs)

    def loss(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> Tensor:
        """Negative log-likelihood of the tags, a token, in nats."""
        logits = model(**batch).logits
        tags = torch.zeros(logits.shape[:2], dtype=torch.long)
        for number, (row,) in enumerate(units):
            tags[number, : len(row)] = torch.tensor(row.label)
        return model.crf.loss(logits, tags.to(logits.device), batch["attention_mask"].bool())

    def answers(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> list[Any]:
        """The entities of each stretch."""
        tags = model.crf.decode(model(**batch).logits, batch["attention_mask"].bool())
        return [entities_of(one, unit[0].offsets, self.outputs) for one, unit in zip(tags, units, strict=True)]

    def together(self, example: Example, found: Sequence[Any]) -> Any:
        """Those of all stretches."""
        return sorted(entity for stretch in found for entity in stretch)


class SpanHead(TagHead):
    """Entities by their beginnings and ends, which may lie in each other."""

    @property
    def outputs(self) -> list[str]:
        """A beginning and an end of each type."""
        return [f"{end}-{kind}" for end in ("begin", "end") for kind in self.labels]

    def _learnt(self, entities: list[Any], row: Row) -> tuple[Any, int]:
        return ends_of(entities, row.offsets, self.labels)

    def loss(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> Tensor:
        """Binary cross-entropy of all beginnings and ends, a token, in nats."""
        logits = model(**batch).logits.float()
        targets = torch.zeros_like(logits)
        for number, (row,) in enumerate(units):
            for token, column in row.label:
                targets[number, token, column] = 1
        real = batch["attention_mask"].bool()
        return F.binary_cross_entropy_with_logits(logits[real], targets[real], reduction="sum") / real.sum()

    def answers(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> list[Any]:
        """The entities of each stretch."""
        begins, ends = model(**batch).logits.float().split(len(self.labels), -1)
        return [
            spans_between(begins[number, : len(row)], ends[number, : len(row)], row.offsets, self.labels)
            for number, (row,) in enumerate(units)
        ]


class ReadHead(Head):
    """The answer to a question as a stretch of the passage; a stretch without it points to its first token."""

    auto = "AutoModelForQuestionAnswering"

    @property
    def outputs(self) -> list[str]:
        """Its first and its last token."""
        return ["begin", "end"]

    def units(self, examples: Sequence[Example], rows: Rows, train: bool) -> list[list[Row]]:
        """Stretches of the passage behind the question, overlapping."""
        overlap = min(OVERLAP, rows.length // 4)
        found = []
        for item, example in enumerate(examples):
            answer = next(((start, start + len(text)) for text, start in example.label or () if start >= 0), None)
            if train and answer is None:
                self._lose("question without an answer in its passage")
                continue
            seen = False
            for row in rows.windows(example.texts, overlap):
                row.item, row.label = item, (0, 0)
                if answer is not None and (place := _tokens(row, *answer)):
                    row.label, seen = place, True
                found.append([row])
            self._lose("answer that no stretch holds", train and not seen)
        return found

    def loss(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy of first and last token, in nats."""
        output, real = model(**batch), batch["attention_mask"].bool()
        places = torch.tensor([unit[0].label for unit in units], device=real.device)
        logits = (output.start_logits, output.end_logits)
        sides = [
            F.cross_entropy(one.float().masked_fill(~real, -1e9), places[:, side]) for side, one in enumerate(logits)
        ]
        return (sides[0] + sides[1]) / 2

    def answers(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> list[Any]:
        """(score, first character, behind the last) of each stretch's best answer."""
        output = model(**batch)
        found = []
        for number, (row,) in enumerate(units):
            begin = output.start_logits[number, : len(row)].float()
            end = output.end_logits[number, : len(row)].float()
            told = torch.tensor([last > first for first, last in row.offsets], device=begin.device)
            # Beside an answer stands that there is none here.
            none = float(begin[0] + end[0])
            begin, end = begin.masked_fill(~told, -1e9), end.masked_fill(~told, -1e9)
            starts, stops = (side.topk(min(_TRIED, len(row))) for side in (begin, end))
            best = (-1e9, 0, 0)
            for left, start in zip(starts.values.tolist(), starts.indices.tolist(), strict=True):
                for right, stop in zip(stops.values.tolist(), stops.indices.tolist(), strict=True):
                    if start <= stop < start + _LONGEST_ANSWER and left + right - none > best[0]:
                        best = (left + right - none, row.offsets[start][0], row.offsets[stop][1])
            found.append(best)
        return found

    def together(self, example: Example, found: Sequence[Any]) -> Any:
        """The text of the best answer of all stretches."""
        _, start, end = max(found)
        return example.texts[-1][start:end]


def _within(row: Row, entities: Sequence[Any]) -> list[Any]:
    """The entities that lie in a stretch as a whole."""
    real = [span for span in row.offsets if span[1] > span[0]]
    if not real:
        return []
    first, last = real[0][0], real[-1][1]
    return [entity for entity in entities if first <= entity[0] and entity[1] <= last]


def _tokens(row: Row, start: int, end: int) -> tuple[int, int] | None:
    """First and last token that touch characters start to end; None where the stretch does not hold all of them."""
    held = [index for index, (left, right) in enumerate(row.offsets) if right > left and left < end and right > start]
    if not held or row.offsets[held[0]][0] > start or row.offsets[held[-1]][1] < end:
        return None
    return held[0], held[-1]


def head_for(kind: str, labels: Sequence[str], entities: str = "crf") -> Head:
    """The head of a kind of task; `entities` chooses between the two for entities."""
    if kind == "entities":
        return SpanHead(labels) if entities == "span" else TagHead(labels)
    return {"class": ClassHead, "choice": ChoiceHead, "reading": ReadHead}[kind](labels)


class _MeanPooled:
    """Sequence classification by the mean of the last states of all tokens, marks included, and one linear layer."""

    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> SequenceClassifierOutput:
        """Logits [rows, labels] for ids and mask [rows, length]."""
        states = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        real = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * real).sum(1) / real.sum(1)
        return SequenceClassifierOutput(logits=self.mean_classifier(self.dropout(mean)))


def _mean_pooled(model: Any, folder: Path, outputs: int) -> None:
    """Put a layer on the mean of the tokens in the place of the pooler and the classifier."""
    model.base_model.pooler = None
    del model.classifier
    model.mean_classifier = torch.nn.Linear(model.config.hidden_size, outputs)
    saved = dict(_saved(folder, "mean_classifier."))
    if saved and saved["weight"].shape == model.mean_classifier.weight.shape:
        model.mean_classifier.load_state_dict(saved)
    else:
        torch.nn.init.normal_(model.mean_classifier.weight, std=getattr(model.config, "initializer_range", 0.02))
        torch.nn.init.zeros_(model.mean_classifier.bias)
    kind = type(model)
    model.__class__ = type(kind.__name__, (_MeanPooled, kind), {"__module__": kind.__module__})


def open_model(folder: Path, head: Head, tokenizer: Any, pooling: str = "cls") -> Any:
    """A model folder's model with the head, fp32 on the CPU; what the folder lacks of the head is new.

    Args:
        pooling: of classes and choices: cls (as the stock class does it) or mean.

    Raises:
        HanmoError: there is no such head for this model, or weights of the model itself are missing.
    """
    names = head.outputs
    cls = getattr(transformers, head.auto)
    config = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {n: i for i, n in enumerate(names)},
    }
    try:
        model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **config)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise HanmoError(
            f"{folder}: cannot be tuned on this task ({' '.join(str(error).split())[:200]}); "
            f"transformers needs a class {head.auto[4:].replace('ModelFor', '…For')} for it"
        ) from None
    base = f"{model.base_model_prefix}."
    missing = sorted(name for name in info["missing_keys"] if name.startswith(base) and "pooler" not in name)
    if missing:
        raise HanmoError(f"{folder}: {len(missing)} weights of the model are missing ({missing[0]}, …)")
    if head.auto == Head.auto and pooling == "mean":
        if getattr(model.base_model, "pooler", None) is None or not hasattr(model, "dropout"):
            raise HanmoError(
                f"{folder}: no model with [CLS] and a pooler, in whose place the mean could be; leave pooling out"
            )
        _mean_pooled(model, folder, len(names))
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    if isinstance(head, TagHead) and not isinstance(head, SpanHead):
        model.crf = CRF(len(names))
        if saved := dict(_saved(folder, "crf.")):
            model.crf.load_state_dict(saved)
    return model


def _saved(folder: Path, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The weights in a folder whose names begin so, without that beginning."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.startswith(prefix):
                    yield name.removeprefix(prefix), file.get_tensor(name)
