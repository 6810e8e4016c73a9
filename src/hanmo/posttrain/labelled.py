"""Labelled records packed into rows for the trainer of `hanmo.pretrain`, whose steps know classes that TRL does not.

What a model reads of a record, and where it must answer, depends on the model:

    causal   one sequence; each word of the assistant is to be told by what is before it
    unified  all up to the last answer as a prefix that sees itself whole (token type 0), the answer behind it (type 1)
    spans    all up to the last answer for the encoder, the answer for the decoder

Where the tokenizer has ChatML's markers, a conversation is written as everywhere here (`hanmo.tokenizer.chat`). One for
encoders has none: there, its messages stand as `[CLS] … [SEP] … [SEP]`. A model that reads from right to left gets
what each message says from its last token to its first, and a model with pinyin the readings of its tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from hanmo.errors import HanmoError
from hanmo.models.linglong.generation import PinyinOf
from hanmo.models.loss import IGNORE
from hanmo.posttrain.encode import Example, encode_parts
from hanmo.posttrain.forms import Dialogue
from hanmo.posttrain.prepare import Encode
from hanmo.tokenizer import encode_text
from hanmo.tokenizer.chat import TURN_START, ChatFormat
from hanmo.tokenizer.forms.pinyin import SPECIAL
from hanmo.tokens.mix import Mix
from hanmo.tokens.order import Read, Rows

#: Parts the draws of records from the other draws of a seed.
_TAG = 0x4C414245
#: Rows that are open at a time: more pack better, and keep records of one row further apart.
_OPEN = 64


class Piece(NamedTuple):
    """A record as a row holds it; all lists but `read` are equally long.

    Attributes:
        inputs: ids.
        targets: what each place must answer, or `IGNORE`.
        types: token types, where the model has them; targets then stand at their own places.
        read: what the encoder of an encoder-decoder reads.
        pinyin: ids of the inputs' readings, where the model has them.
    """

    inputs: list[int]
    targets: list[int]
    types: list[int] | None = None
    read: list[int] | None = None
    pinyin: list[int] | None = None


def encoder_of(tokenizer: PreTrainedTokenizerFast, too_long: str, leftward: bool = False) -> Encode:
    """How dialogues become ids and labels with this tokenizer.

    Args:
        leftward: each message from its last token to its first.

    Raises:
        HanmoError: it has neither ChatML's markers nor [CLS] and [SEP].
    """
    if tokenizer.backend_tokenizer.token_to_id(TURN_START) is not None:
        chat = ChatFormat(tokenizer, leftward)
        return lambda dialogue, limit, notes: encode_parts(chat, dialogue, limit, too_long, notes)
    opening, closing = tokenizer.cls_token_id, tokenizer.sep_token_id
    if not isinstance(opening, int) or not isinstance(closing, int):
        raise HanmoError(
            f"{tokenizer.name_or_path}: neither ChatML's markers nor [CLS] and [SEP], so that nothing tells where an "
            "answer begins; give the model such a tokenizer by `hanmo model resize`"
        )

    def encode(dialogue: Dialogue, limit: int, notes: Counter[str]) -> list[Example]:
        ids, labels = [opening], [IGNORE]
        for message in dialogue:
            said = encode_text(tokenizer, message["content"])
            part = [*(reversed(said) if leftward else said), closing]
            ids += part
            labels += part if message["role"] == "assistant" else [IGNORE] * len(part)
        last = len(labels) - next(i for i, label in enumerate(reversed(labels)) if label != IGNORE)
        if last > limit:
            notes["longer than max_length, dropped" if too_long == "drop" else "longer than max_length, cut"] += 1
            if too_long == "drop" or all(label == IGNORE for label in labels[:limit]):
                return []
        return [Example(ids[: min(last, limit)], labels[: min(last, limit)])]

    return encode


def piece_of(
    objective: str, ids: list[int], labels: list[int], start: int = 0, pinyin_of: PinyinOf | None = None
) -> Piece:
    """A record for a model that learns `objective`.

    Args:
        ids, labels: equally long, the last label one that counts.
        start: the id that opens what a decoder writes.
        pinyin_of: the rule of models with pinyin.
    """
    if objective == "causal":
        return Piece(ids[:-1], labels[1:], pinyin=pinyin_of(ids[:-1]) if pinyin_of else None)
    begin = max((i for i, label in enumerate(labels) if label == IGNORE), default=-1) + 1
    if objective == "unified":
        return Piece(ids, [IGNORE] * begin + ids[begin:], [0] * begin + [1] * (len(ids) - begin))
    return Piece([start, *ids[begin:-1]], ids[begin:], read=ids[:begin])


class LabelledRows:
    """Pass after pass over records, in another order each time, several to a row; a `RowSource` that ends.

    Each pass is packed by itself, so that every record comes once in it. Rows behind the last are those of the first.

    Args:
        pieces: the records; none may be longer than a row.
        context: places of a row, on either side.
        passes: over the records.
        seed: of their order.
    """

    def __init__(self, pieces: Sequence[Piece], context: int, passes: int, seed: int) -> None:
        self.context, self._pieces = context, pieces
        self.mix: Mix | None = None
        self.form = 1
        self._rows: list[list[int]] = []
        for number in range(passes):
            generator = np.random.Generator(np.random.PCG64([seed, _TAG, number]))
            self._rows += _packed([_size(piece) for piece in pieces], generator.permutation(len(pieces)), context)
        self.total = len(self._rows) * context

    def __len__(self) -> int:
        return len(self._rows)

    def taken(self, rows: int) -> dict[str, int]:
        """Nothing: there are no sources to tell apart."""
        return {}

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` .. `first + count - 1`; see `hanmo.tokens.order.Rows`."""
        one = self._pieces[0]
        shape = (count, self.context)
        inputs, segment = np.zeros(shape, np.int64), np.full(shape, -1, np.int32)
        position = np.broadcast_to(np.arange(self.context, dtype=np.int32), shape).copy()
        rows = Rows(
            inputs,
            np.full(shape, IGNORE, np.int64),
            position,
            segment,
            types=None if one.types is None else np.zeros(shape, np.int64),
            read=None if one.read is None else Read(inputs.copy(), position.copy(), segment.copy()),
            pinyin=None if one.pinyin is None else np.full(shape, SPECIAL, np.int64),
        )
        for row in range(count):
            self._fill(self._rows[(first + row) % len(self._rows)], rows, row)
        # What is not filled is a document of its own, without targets.
        for segment in (rows.segment, *([rows.read.segment] if rows.read else [])):
            segment[segment < 0] = self.context
        return rows

    def _fill(self, members: Sequence[int], rows: Rows, row: int) -> None:
        at = before = 0
        for number, member in enumerate(members):
            piece = self._pieces[member]
            here = slice(at, at + len(piece.inputs))
            rows.inputs[row, here], rows.targets[row, here] = piece.inputs, piece.targets
            rows.position[row, here], rows.segment[row, here] = np.arange(len(piece.inputs)), number
            if rows.types is not None and piece.types is not None:
                rows.types[row, here] = piece.types
            if rows.pinyin is not None and piece.pinyin is not None:
                rows.pinyin[row, here] = piece.pinyin
            if rows.read is not None and piece.read is not None:
                there = slice(before, before + len(piece.read))
                rows.read.inputs[row, there], rows.read.segment[row, there] = piece.read, number
                rows.read.position[row, there] = np.arange(len(piece.read))
                before = there.stop
            at = here.stop
        rows.position[row, at:] = np.arange(self.context - at)
        if rows.read is not None:
            rows.read.position[row, before:] = np.arange(self.context - before)


def _size(piece: Piece) -> tuple[int, int]:
    return len(piece.inputs), len(piece.read or ())


def _packed(sizes: Sequence[tuple[int, int]], order: Any, context: int) -> list[list[int]]:
    """Records in rows: each into the first open row with room on both sides."""
    done: list[list[int]] = []
    open_: list[tuple[list[int], list[int]]] = []
    for index in map(int, order):
        written, read = sizes[index]
        fitting = next((r for r in open_ if r[1][0] + written <= context and r[1][1] + read <= context), None)
        if fitting is None:
            fitting = ([], [0, 0])
            open_.append(fitting)
            if len(open_) > _OPEN:
                done.append(open_.pop(0)[0])
        fitting[0].append(index)
        fitting[1][0] += written
        fitting[1][1] += read
    return done + [members for members, _ in open_]
