"""What the records of a stage after pretraining are like: the longest, the mean, how much of them is learnt.

Only some are encoded: a batch of the longest ones decides memory, and a sample of all stands for the mean.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hanmo.posttrain.encode import IGNORE, encode_pair, encode_parts
from hanmo.posttrain.preferences import Labelled, labelled_of
from hanmo.posttrain.records import Item, pair_kind, read_items, sft_kind
from hanmo.posttrain.settings import DpoSettings, RewardSettings, RlSettings, SftSettings
from hanmo.tokenizer import load as load_tokenizer
from hanmo.tokenizer.chat import ChatFormat

Settings = SftSettings | DpoSettings | RewardSettings
#: Of so many records, the longest in characters, tokens are counted; and of as many others, for the mean.
LOOKED_AT = 64
#: Tokens that a Chinese character makes, about, where no tokenizer is at hand.
TOKENS_A_CHARACTER = 0.7


@dataclass(frozen=True)
class Records:
    """What is known of the records of a stage.

    Attributes:
        longest: tokens of the longest one (of a pair: of its longer side).
        learnt: share of tokens that are scored, among the longest.
        count, held: how many are trained on, and held out; 0: not known.
        tokens: of all of them together, a pair's prompt counted twice; 0: not known.
        answers: rows that one of them makes: a pair two.
    """

    longest: int
    learnt: float = 1.0
    count: int = 0
    held: int = 0
    tokens: float = 0.0
    answers: int = 1

    @property
    def mean(self) -> float:
        """Tokens of a record on the average; of the longest, where no more is known."""
        return self.tokens / self.count if self.count else float(self.longest)


def records_of(settings: Settings, files: list[Path], folder: Path | None, limit: int) -> Records:
    """Look at a stage's records, of which only some are encoded.

    Args:
        folder: of the model, whose tokenizer counts; None: not there yet, and tokens are estimated from characters.
        limit: the longest record that is taken.

    Raises:
        HanmoError: the records cannot be used, as the stage itself would say.
    """
    chat = ChatFormat(load_tokenizer(folder)) if folder else None
    if isinstance(settings, SftSettings):
        items, _ = read_items(files, settings, sft_kind(settings))
        sizes = [sum(len(message["content"]) for message in item.value) for item in items]
        answers = 1
    else:
        items, _ = read_items(files, settings, pair_kind(settings))
        if any(isinstance(item.value, Labelled) for item in items):
            items = [item._replace(value=one) for item in items for one in labelled_of(item.value)]
            answers = 1
        else:
            answers = 2
        sizes = [
            sum(len(message["content"]) for message in item.value.prompt)
            + max(len(one.answer) for one in labelled_of(item.value))
            for item in items
        ]
    order = sorted(range(len(items)), key=lambda index: -sizes[index])
    sides = [_encoded(chat, settings, items[index], limit) for index in order[:LOOKED_AT]]
    long = [row for side in sides for row in side]
    if not long:
        return Records(limit, answers=answers)
    longest = max(length for length, _ in long)
    top = [row for row in long if row[0] >= 0.8 * longest]
    # A sample evenly over all sizes stands for the rest.
    some = [_encoded(chat, settings, items[index], limit) for index in order[:: max(1, len(order) // LOOKED_AT)]]
    train = round(len(items) * (1 - settings.validation))
    mean = sum(length for side in some for length, _ in side) / max(1, len(some))
    learnt = sum(count for _, count in top) / sum(length for length, _ in top)
    return Records(longest, learnt, max(1, train), len(items) - train, mean * train, answers)


def _encoded(chat: ChatFormat | None, settings: Settings, item: Item, limit: int) -> list[tuple[int, int]]:
    """(tokens, learnt ones) of each row that a record makes."""
    if chat is None:
        return _estimated(settings, item, limit)
    if isinstance(settings, SftSettings):
        parts = encode_parts(chat, item.value, limit, settings.too_long, Counter())
        return [(len(part.input_ids), sum(label != IGNORE for label in part.labels)) for part in parts]
    pair = encode_pair(chat, item.value, limit, Counter())
    if pair is None:
        return []
    return [(len(pair.prompt_ids) + len(ids), len(ids)) for _, ids in pair.sides]


def _estimated(settings: Settings, item: Item, limit: int) -> list[tuple[int, int]]:
    if isinstance(settings, SftSettings):
        every = [
            (TOKENS_A_CHARACTER * len(message["content"]), message["role"] == "assistant") for message in item.value
        ]
        total = min(limit, round(sum(size for size, _ in every)) + 5 * len(every))
        return [(total, min(total, round(sum(size for size, learnt in every if learnt))))]
    prompt = TOKENS_A_CHARACTER * sum(len(message["content"]) for message in item.value.prompt)
    sides = [round(TOKENS_A_CHARACTER * len(one.answer)) for one in labelled_of(item.value)]
    return [(min(limit, round(prompt) + side + 10), min(limit, side)) for side in sides]


def prompts_of(settings: RlSettings, files: list[Path], folder: Path | None, limit: int) -> Records:
    """The same of prompts whose answers are to be written, each taken to be as long as it may be.

    Args:
        folder, limit: see `records_of`.

    Raises:
        HanmoError: the records cannot be used, as the stage itself would say.
    """
    chat = ChatFormat(load_tokenizer(folder)) if folder else None
    items, _ = read_items(files, settings, sft_kind(settings))

    def size(item: Item) -> int:
        if chat:
            return len(chat.encode(item.value[:-1], add_generation_prompt=True)[0])
        characters = sum(len(message["content"]) for message in item.value[:-1])
        return round(TOKENS_A_CHARACTER * characters) + 5 * len(item.value)

    order = sorted(items, key=lambda item: -sum(len(message["content"]) for message in item.value[:-1]))
    room = limit - settings.answer_tokens
    longest = max((found for item in order[:LOOKED_AT] if (found := size(item)) <= room), default=max(1, room))
    some = [min(size(item), room) for item in order[:: max(1, len(order) // LOOKED_AT)]]
    held = min(round(len(items) * settings.validation), settings.held_prompts)
    train = max(1, len(items) - round(len(items) * settings.validation))
    mean = sum(some) / max(1, len(some)) + settings.answer_tokens
    whole = longest + settings.answer_tokens
    return Records(whole, settings.answer_tokens / whole, train, held, mean * train)
