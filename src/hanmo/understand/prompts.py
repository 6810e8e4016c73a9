"""Tasks as cloze questions, for few records or none: no new weights, the model's own head answers.

`pet`: a pattern with a gap, and for each label a word (Schick and Schütze, arXiv:2001.07676). Who fills masks is given
as many masks as the word has tokens, and a word counts by the mean log-probability of its tokens; a decoder by that of
the word and what the pattern has behind it.

`options`: every option stands in front of the text behind a mask of its own, and counts by how likely that mask is 是
(after UniMC, Yang et al., arXiv:2210.08590): an option sees itself, the question and the text, which see all, and each
option begins at the same position, so that their order tells nothing. Only encoders whose class takes such a mask and
positions do so (`_APART`); in others the options see each other. A decoder reads the options, the text and the
question, and each option counts as its answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
import yaml
from safetensors import SafetensorError
from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask

from hanmo.errors import HanmoError
from hanmo.files import write_json
from hanmo.models.families import AUTO, objective_of
from hanmo.models.save import save_model
from hanmo.understand.forms import Example
from hanmo.understand.heads import Head
from hanmo.understand.rows import Row, Rows
from hanmo.understand.stage import RECORD, Tuner
from hanmo.understand.tasks import Task

_PLACES = re.compile(r"(\{\w+\})")
#: What an option's mask is if the option is right.
_YES = "是"
#: Model types that take a mask of [rows, 1, length, length] and positions for each token.
_APART = ("bert", "megatron-bert", "ernie")


@cache
def patterns() -> dict[str, dict[str, Any]]:
    """The file of patterns."""
    return yaml.safe_load((Path(__file__).parent / "patterns.yaml").read_text(encoding="utf-8"))


class PromptHead(Head):
    """Answers by the model's own head.

    Args:
        what: the task, one with labels or options.
        labels: in the order of the words.
        words: of the labels; none for a choice, whose options are in each example.
        method: "pet" or "options".
        writes: whether the model is a decoder.
    """

    def __init__(self, what: Task, labels: Sequence[str], words: Sequence[str], method: str, writes: bool) -> None:
        super().__init__(labels)
        self.words, self.method, self.writes = list(words), method, writes
        self.asked = patterns().get(what.name, {"pattern": "{a}{b}{mask}", "question": "哪一个合适？"})

    def units(self, examples: Sequence[Example], rows: Rows, train: bool) -> list[list[Row]]:
        """Rows that together hold all options; `marks` of a row are (option, places, ids) of what it tells of each."""
        found = []
        for item, example in enumerate(examples):
            if train and example.label is None:
                continue
            words = [option[-2] if len(option) == 3 else option[0] for option in example.options] or self.words
            ask = self._listed if self.method == "options" else self._filled
            unit = ask(example, words, rows)
            for row in unit:
                row.item = item
                row.label = self._gold(example)
            found.append(unit)
        return found

    def _gold(self, example: Example) -> int | None:
        """The number of the right option; None where none is known."""
        if example.options:
            return example.label
        return self.labels.index(example.label) if example.label in self.labels else None

    def _filled(self, example: Example, words: Sequence[str], rows: Rows) -> list[Row]:
        """The pattern with masks for the word, a row for each length of words; for a decoder, a row for each word."""
        ids = [rows.encode(word)[0] for word in words]
        parts = self._parts(example)
        if self.writes:
            return [self._row(parts, own, number, rows) for number, own in enumerate(ids)]
        found = []
        for length in sorted({len(own) for own in ids}):
            row, places = self._laid(parts, [rows.tokenizer.mask_token_id] * length, rows)
            row.marks = [(number, places, own) for number, own in enumerate(ids) if len(own) == length]
            found.append(row)
        return found

    def _row(self, parts: list[tuple[str, str]], own: list[int], number: int, rows: Rows) -> Row:
        """A decoder's row with a word in its place: what is scored is the word and what stands behind it."""
        row, places = self._laid(parts, own, rows)
        scored = list(range(max(places[0], 1), len(row)))
        row.marks = [(number, [place - 1 for place in scored], [row.ids[place] for place in scored])]
        return row

    def _listed(self, example: Example, words: Sequence[str], rows: Rows) -> list[Row]:
        """All options in front of the text, as many in a row as leave half of it to the text."""
        texts = list(example.texts) or ["____".join(example.options[0][::2])]
        question = self.asked["question"]
        if self.writes:
            before = "选项：" + "、".join(words[:20]) + "。"
            parts = [("", before), *(("cut", text) for text in texts), ("", question + "答案："), ("mask", "")]
            return [self._row(parts, rows.encode(word)[0], number, rows) for number, word in enumerate(words)]
        yes = rows.encode(_YES)[0]
        if len(yes) != 1:
            raise HanmoError(f"'{_YES}' is no token of this model, by which options are judged; set method: pet")
        found: list[Row] = []
        batch: list[tuple[int, list[int]]] = []
        every = [(number, rows.encode(word)[0]) for number, word in enumerate(words)]
        for position, (number, own) in enumerate(every):
            batch.append((number, own))
            behind = every[position + 1][1] if position + 1 < len(every) else None
            if behind is not None and sum(len(one) + 1 for _, one in batch) + len(behind) + 1 <= rows.length // 2:
                continue
            ids: list[int] = []
            blocks: list[int] = []
            places = []
            for block, (_, one) in enumerate(batch, 1):
                places.append(len(ids) + int(rows.marked))
                ids += [rows.tokenizer.mask_token_id, *one]
                blocks += [block] * (len(one) + 1)
            ids = ids[: rows.length - 8]
            text = rows.encode(question + "。".join(texts))[0]
            room = max(rows.length - rows.marks(2) - len(ids), 0)
            rows.cut += len(text) > room
            row = rows.join([ids, text[:room]])
            row.blocks = [0] * int(rows.marked) + blocks[: len(ids)]
            row.blocks += [0] * (len(row) - len(row.blocks))
            row.marks = [(n, [place], yes) for (n, _), place in zip(batch, places, strict=True) if place < len(row)]
            found.append(row)
            batch = []
        return found

    def _parts(self, example: Example) -> list[tuple[str, str]]:
        """The pattern's pieces: ("cut", a text that may be cut), ("mask", "") or ("", what stays)."""
        if example.options:
            first = example.options[0]
            if len(first) == 3:
                return [("left", first[0]), ("mask", ""), ("cut", first[2])]
            return [("cut", first[-1]), ("", self.asked["question"]), ("mask", "")]
        texts = [*example.texts, ""]
        values = {"{a}": texts[0], "{b}": texts[1]}
        if noun := re.search("【(.+?)】", texts[0]):
            pronoun = re.search("〖(.+?)〗", texts[0])
            values |= {"{noun}": noun[1], "{pronoun}": pronoun[1] if pronoun else ""}
            values["{a}"] = re.sub("[【】〖〗]", "", texts[0])
        return [
            ("mask", "") if part == "{mask}" else ("cut" if part in ("{a}", "{b}") else "", values.get(part, part))
            for part in _PLACES.split(self.asked["pattern"])
            if part
        ]

    def _laid(self, parts: list[tuple[str, str]], own: list[int], rows: Rows) -> tuple[Row, list[int]]:
        """The pieces as a row with `own` in the gap, texts cut to fit; and the places of `own`."""
        pieces = [(kind, own if kind == "mask" else rows.encode(text)[0] if text else []) for kind, text in parts]
        over = sum(len(ids) for _, ids in pieces) + rows.marks(1) - rows.length
        rows.cut += over > 0
        while over > 0:
            longest = max(
                (number for number, (kind, _) in enumerate(pieces) if kind in ("cut", "left")),
                key=lambda n: len(pieces[n][1]),
            )
            kind, ids = pieces[longest]
            if not ids:
                raise HanmoError(f"max_length is {rows.length}: the pattern alone is longer; raise it")
            drop = min(over, max(1, len(ids) // 4))
            pieces[longest] = (kind, ids[drop:] if kind == "left" else ids[:-drop])
            over -= drop
        at = int(rows.marked)
        for kind, ids in pieces:
            if kind == "mask":
                break
            at += len(ids)
        row = rows.join([[token for _, ids in pieces for token in ids]])
        return row, list(range(at, at + len(own)))

    def _scores(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> list[Tensor]:
        """For each unit the score of each option: the mean log-probability of what tells it."""
        if any(row.blocks for unit in units for row in unit) and model.config.model_type in _APART:
            batch = apart(model.config, [row for unit in units for row in unit], batch)
        logits = model(**batch).logits
        found, number = [], 0
        for unit in units:
            never = logits.new_tensor(-1e4).float()
            told: dict[int, Any] = {}
            for row in unit:
                places = sorted({place for _, own, _ in row.marks for place in own})
                index = {place: n for n, place in enumerate(places)}
                likely = F.log_softmax(logits[number, places].float(), -1)
                for option, own, ids in row.marks:
                    told[option] = likely[[index[place] for place in own], ids].mean()
                number += 1
            scores: list[Tensor] = [told.get(option, never) for option in range(max(told) + 1)]
            found.append(torch.stack(scores))
        return found

    def loss(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy among the options, in nats."""
        scores = self._scores(model, units, batch)
        losses = [
            F.cross_entropy(one, one.new_tensor(unit[0].label).long()) for one, unit in zip(scores, units, strict=True)
        ]
        return torch.stack(losses).mean()

    def answers(self, model: Any, units: Sequence[Sequence[Row]], batch: dict[str, Tensor]) -> list[Any]:
        """The best option: its label, or for a choice its number."""
        best = [int(one.argmax()) for one in self._scores(model, units, batch)]
        return [self.labels[index] for index in best] if self.labels else best


def apart(config: Any, rows: Sequence[Row], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch in which the blocks of a row do not see each other, and all begin at the same position.

    Args:
        config: of the model, for the form of the mask.
        batch: of the rows, [rows, length] each.
    """
    blocks, positions = (torch.zeros(batch["input_ids"].shape, dtype=torch.long) for _ in range(2))
    for number, row in enumerate(rows):
        blocks[number, : len(row)] = torch.tensor(row.blocks)
        positions[number, : len(row)] = torch.tensor(_restarting(row.blocks))
    device = batch["input_ids"].device
    blocks = blocks.to(device)

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        one, other = blocks[row, query], blocks[row, key]
        return (one == other) | (one == 0) | (other == 0)

    mask = create_bidirectional_mask(
        config=config,
        inputs_embeds=torch.empty(*blocks.shape, 0, device=device),
        attention_mask=batch["attention_mask"],
        and_mask_function=seen,
    )
    assert mask is not None  # as it is only where everything is seen
    return {**batch, "attention_mask": mask, "position_ids": positions.to(device)}


def _restarting(blocks: Sequence[int]) -> list[int]:
    """Positions of a row's tokens: every block begins where the first does; what is behind them, behind the longest."""
    sizes = Counter(block for block in blocks if block)
    first = next((place for place, block in enumerate(blocks) if block), len(blocks))
    met: Counter[int] = Counter()
    found = []
    for block in blocks:
        if block:
            found.append(first + met[block])
        else:
            found.append(met[0] + (max(sizes.values()) if sizes and met[0] >= first else 0))
        met[block] += 1
    return found


class PromptTuner(Tuner):
    """A model with its own head that is asked by patterns, and trained on them where there are records."""

    #: Of the rate that the model's size suggests: the head is no new one.
    rate = 0.1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.model.config.model_type == "hanmo_unified":
            # With the head that it learned with, its token types say which way it reads.
            self.rows.typed = False

    def open(self, folder: Path) -> None:
        """Load the model with the head that it learned with."""
        if self.task.head not in ("class", "choice"):
            raise HanmoError(f"task '{self.task.name}' has no labels to choose from; set method: head")
        objective = objective_of(folder)
        if objective == "spans":
            raise HanmoError(f"{folder}: an encoder-decoder; understanding tasks take encoders and decoders")
        writes = objective == "causal"
        if not writes and self.tokenizer.mask_token_id is None:
            raise HanmoError(f"{folder}: its tokenizer has no mask token, which the patterns need; set method: head")
        try:
            self.model = getattr(transformers, AUTO[objective]).from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise HanmoError(f"{folder}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None
        words = patterns().get(self.task.name, {}).get("words", {})
        named = [self.names.get(label) or words.get(label) or label for label in self.labels]
        self.head = PromptHead(self.task, self.labels, named, self.settings.method, writes)

    def save(self, folder: Path, what: Task) -> None:
        """Write the model, tokenizer and task.json."""
        end = self.rows.end
        save_model(self.model.cpu(), self.tokenizer, folder, [] if end is None else [end])
        self.model.to(self.device)
        write_json(folder / RECORD, self.record(what))
