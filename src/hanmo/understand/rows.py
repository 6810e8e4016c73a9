"""Rows of tokens for a model: one text or two, marked as the model knows it, cut to its length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hanmo.errors import HanmoError

#: Characters for each token that are looked at of a long text: no tokenizer here has longer ones on the average.
_SEEN = 16


@dataclass
class Row:
    """A row: ids, token types, and which characters of the second (else the first) text its tokens are.

    Attributes:
        offsets: (start, end) of each token, (0, 0) for marks and for the other text.
        label: what the head learns from it.
        item: the number of its example.
        marks: for `prompts`: (option, places, ids) of what the row tells of each option.
        blocks: for `prompts`: the option that each token belongs to, from 1; 0: to all.
    """

    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int]] = field(default_factory=list)
    label: Any = None
    item: int = 0
    marks: list[Any] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


class Rows:
    """Makes rows for one model.

    A tokenizer with [CLS] and [SEP] gets `[CLS] a [SEP] b [SEP]`, another one `a <end of text> b`.

    Args:
        tokenizer: of the model's folder.
        config: of the model.
        length: longest row in tokens.
    """

    def __init__(self, tokenizer: Any, config: Any, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length
        self.cls, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else self.sep
        pad = tokenizer.pad_token_id
        self.pad: int = pad if pad is not None else self.end if self.end is not None else 0
        self.marked = self.cls is not None and self.sep is not None
        self.typed = int(getattr(config, "type_vocab_size", 0) or 0) > 1
        self.cut = 0

    def encode(self, text: str, offsets: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text without marks, and the characters of each.

        Raises:
            HanmoError: `offsets` are wanted and the tokenizer cannot tell.
        """
        if not offsets:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"], []
        try:
            found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        except NotImplementedError:
            raise HanmoError(
                "this model's tokenizer cannot tell which characters its tokens are, which entities and reading need; "
                "give a model with a wordpiece or BPE tokenizer"
            ) from None
        return found["input_ids"], [tuple(span) for span in found["offset_mapping"]]

    def marks(self, parts: int) -> int:
        """How many marks a row of so many texts has."""
        return parts + 1 if self.marked else parts - 1 if self.end is not None else 0

    def join(self, parts: Sequence[list[int]], offsets: list[tuple[int, int]] | None = None) -> Row:
        """A row of texts that fit; `offsets` are those of the last one."""
        ids = [self.cls] if self.marked else []
        types = [0] if self.marked else []
        spans = [(0, 0)] if self.marked else []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            ids += part
            spans += offsets if last and offsets is not None else [(0, 0)] * len(part)
            types += [min(number, 1)] * len(part)
            if self.marked:
                ids.append(self.sep)
            elif not last and self.end is not None:
                ids.append(self.end)
            missing = len(ids) - len(spans)
            spans += [(0, 0)] * missing
            types += [min(number, 1)] * missing
        return Row(ids, types, spans if offsets is not None else [])

    def row(self, texts: Sequence[str]) -> Row:
        """A row of one text or two; the longer one is cut where they are too long."""
        parts = [self.encode(text[: _SEEN * self.length])[0] for text in texts]
        room = self.length - self.marks(len(parts))
        if sum(map(len, parts)) > room:
            self.cut += 1
            first, *rest = parts
            second = len(rest[0]) if rest else 0
            keep = min(len(first), max(room - second, (room + 1) // 2)) if rest else room
            parts = [first[:keep], *(part[: room - keep] for part in rest)]
        return self.join(parts)

    def filled(self, before: str, word: str, behind: str) -> Row:
        """A row of one text with a word in its gap; what is too far from the gap is cut."""
        left, middle, right = (self.encode(text)[0] for text in (before, word, behind))
        room = max(self.length - self.marks(1) - len(middle), 0)
        if len(left) + len(right) > room:
            self.cut += 1
            keep = min(len(left), max(room - len(right), room // 2))
            left, right = left[len(left) - keep :], right[: room - keep]
        return self.join([left + middle + right])

    def windows(self, texts: Sequence[str], overlap: int = 0) -> list[Row]:
        """Rows that show the last text whole, each a stretch of it behind the other text (if any), with offsets.

        Args:
            overlap: tokens that neighbouring stretches share.

        Raises:
            HanmoError: the length leaves no room for a stretch.
        """
        *others, text = texts
        ids, offsets = self.encode(text, offsets=True)
        first = [self.encode(other)[0][: self.length // 3] for other in others]
        room = self.length - self.marks(len(texts)) - sum(map(len, first))
        if room <= overlap:
            raise HanmoError(f"max_length is {self.length}: too short for stretches of a passage; raise it")
        found, at = [], 0
        while True:
            found.append(self.join([*first, ids[at : at + room]], offsets[at : at + room]))
            if at + room >= len(ids):
                return found
            at += room - overlap

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Rows as tensors [rows, longest], padded on the right."""
        longest = max(map(len, rows))
        inputs = torch.full((len(rows), longest), self.pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        types = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, row in enumerate(rows):
            inputs[number, : len(row)] = torch.tensor(row.ids)
            mask[number, : len(row)] = 1
            types[number, : len(row)] = torch.tensor(row.types)
        found = {"input_ids": inputs, "attention_mask": mask}
        return found | {"token_type_ids": types} if self.typed else found
