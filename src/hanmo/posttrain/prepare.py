"""Record files as examples to train on and examples to watch: what all stages after pretraining do first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.posttrain.encode import Example, count_tokens, encode_pair
from hanmo.posttrain.forms import Dialogue
from hanmo.posttrain.preferences import Labelled, labelled_of
from hanmo.posttrain.records import hold_out, pair_kind, read_items, sft_kind
from hanmo.posttrain.settings import PairSettings, SftSettings
from hanmo.tokenizer.chat import ChatFormat

#: What the better and the worse answers are called in figures.
_SIDES = {True: "chosen", False: "rejected"}
#: Ids and labels of a dialogue's parts of at most so many tokens; none where it was dropped, which is counted.
Encode = Callable[[Dialogue, int, Counter[str]], list[Example]]


@dataclass(frozen=True)
class Prepared:
    """Examples, and what became of every record.

    Attributes:
        examples, held: to train on, and held out.
        records: what records.json says.
        counts: what the stage's counts say.
    """

    examples: list[Example]
    held: list[Example]
    records: dict[str, Any]
    counts: dict[str, Any]


def prepare(settings: SftSettings, files: list[Path], encode: Encode, limit: int) -> Prepared:
    """Read, hold out and encode; says what was left out.

    Raises:
        HanmoError: unusable records, or none that fits into `limit` tokens.
    """
    items, account = read_items(files, settings, sft_kind(settings))
    fitted: Counter[str] = Counter()
    examples, held = (
        [example for item in side for example in encode(item.value, limit, fitted)]
        for side in hold_out(items, settings.validation)
    )
    if not examples:
        raise HanmoError(
            f"none of the {len(items)} records fits into {limit} tokens ({dict(fitted)}); "
            "raise max_length or set too_long: truncate"
        )
    for line in account.lines(fitted):
        console.print(line, style="dim", soft_wrap=True, markup=False)
    records = account.as_json() | {
        "lengths": dict(fitted.most_common()),
        "max_length": limit,
        "train": count_tokens(examples),
        "validation": count_tokens(held),
    }
    counts = {
        "records": len(examples),
        "validation_records": len(held),
        "skipped": sum(account.skipped.values()),
        "duplicates": account.duplicates,
        "lengths": dict(fitted),
    }
    return Prepared(examples, held, records, counts)


@dataclass(frozen=True)
class PreparedPairs:
    """Pairs, or single answers with labels, as ids, and what became of every record.

    Attributes:
        pairs, held: to train on, and held out; all pairs, or all single answers.
        held_texts: the held-out ones in words, in the same order.
        records: what records.json says.
        counts: what the stage's counts say.
    """

    pairs: list[Any]
    held: list[Any]
    held_texts: list[Any]
    records: dict[str, Any]
    counts: dict[str, Any]

    @property
    def tokens(self) -> int:
        """Tokens that one pass reads: every prompt stands before each of its answers."""
        return self.records["train"]["tokens"]


def prepare_pairs(chat: ChatFormat, settings: PairSettings, files: list[Path], limit: int) -> PreparedPairs:
    """Read preferences, hold out and encode; says what was left out.

    Where a record is a single answer with its label, pairs are taken as two such answers.

    Raises:
        HanmoError: unusable records, none that fits into `limit` tokens, or labels that are all the same.
    """
    items, account = read_items(files, settings, pair_kind(settings))
    single = any(isinstance(item.value, Labelled) for item in items)
    fitted: Counter[str] = Counter()
    sides: list[list[tuple[Any, Any]]] = []
    for side in hold_out(items, settings.validation):
        texts = [text for item in side for text in (labelled_of(item.value) if single else [item.value])]
        encoded = ((encode_pair(chat, text, limit, fitted), text) for text in texts)
        sides.append([(pair, text) for pair, text in encoded if pair is not None])
    what = "answers" if single else "pairs"
    if not sides[0]:
        raise HanmoError(f"none of the {len(items)} {what} fits into {limit} tokens; raise max_length")
    for side, name in zip(sides, ("to train on", "held out"), strict=True):
        labels = {good for pair, _ in side for good, _ in pair.sides}
        if len(labels) == 1 and name == "held out":
            fitted["held-out answers of one label alone, not looked at"] = len(side)
            side.clear()
        elif len(labels) == 1:
            raise HanmoError(
                f"all {len(side)} answers {name} are labelled {str(*labels).lower()}: nothing tells good from bad; "
                "give answers of both labels"
            )
    pairs, held = ([pair for pair, _ in side] for side in sides)
    for line in account.lines(fitted):
        console.print(line, style="dim", soft_wrap=True, markup=False)
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for pair in pairs:
        for good, ids in pair.sides:
            lengths[good].append(len(ids))
    tokens = sum(len(pair.prompt_ids) * len(pair.sides) for pair in pairs) + sum(map(sum, lengths.values()))
    mean = {name: round(sum(lengths[good]) / len(lengths[good]), 1) for good, name in _SIDES.items()}
    told = {"chosen": len(lengths[True]), "rejected": len(lengths[False])} if single else {"pairs": len(pairs)}
    records = account.as_json() | {
        "lengths": dict(fitted.most_common()),
        "max_length": limit,
        "train": told | {"tokens": tokens},
        "validation": {what: len(held)},
        "mean_tokens": mean,
    }
    counts = {
        "records": len(pairs),
        "validation_records": len(held),
        "skipped": sum(account.skipped.values()),
        "duplicates": account.duplicates,
        "lengths": dict(fitted),
    }
    return PreparedPairs(pairs, held, [text for _, text in sides[1]], records, counts)
