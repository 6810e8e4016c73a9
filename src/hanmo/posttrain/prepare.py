"""Record files as examples to train on and examples to watch: what all stages after pretraining do first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.posttrain.encode import Example, PairExample, count_tokens, encode_pair
from hanmo.posttrain.forms import Dialogue
from hanmo.posttrain.preferences import Pair
from hanmo.posttrain.records import hold_out, pair_kind, read_items, sft_kind
from hanmo.posttrain.settings import PairSettings, SftSettings
from hanmo.tokenizer.chat import ChatFormat

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
    """Pairs as ids, and what became of every record.

    Attributes:
        pairs, held: to train on, and held out.
        held_texts: the held-out pairs in words, in the same order.
        records: what records.json says.
        counts: what the stage's counts say.
    """

    pairs: list[PairExample]
    held: list[PairExample]
    held_texts: list[Pair]
    records: dict[str, Any]
    counts: dict[str, Any]

    @property
    def tokens(self) -> int:
        """Tokens that one pass reads: every prompt stands before both answers."""
        return self.records["train"]["tokens"]


def prepare_pairs(chat: ChatFormat, settings: PairSettings, files: list[Path], limit: int) -> PreparedPairs:
    """Read preferences, hold out and encode; says what was left out.

    Raises:
        HanmoError: unusable records, or none that fits into `limit` tokens.
    """
    items, account = read_items(files, settings, pair_kind(settings))
    fitted: Counter[str] = Counter()
    sides: list[list[tuple[PairExample, Pair]]] = []
    for side in hold_out(items, settings.validation):
        encoded = ((encode_pair(chat, item.value, limit, fitted), item.value) for item in side)
        sides.append([(pair, text) for pair, text in encoded if pair is not None])
    pairs, held = ([pair for pair, _ in side] for side in sides)
    if not pairs:
        raise HanmoError(f"none of the {len(items)} pairs fits into {limit} tokens; raise max_length")
    for line in account.lines(fitted):
        console.print(line, style="dim", soft_wrap=True, markup=False)
    chosen, rejected = (sum(len(pair[side]) for pair in pairs) for side in (1, 2))
    records = account.as_json() | {
        "lengths": dict(fitted.most_common()),
        "max_length": limit,
        "train": {"pairs": len(pairs), "tokens": sum(2 * len(p.prompt_ids) for p in pairs) + chosen + rejected},
        "validation": {"pairs": len(held)},
        "mean_tokens": {"chosen": round(chosen / len(pairs), 1), "rejected": round(rejected / len(pairs), 1)},
    }
    counts = {
        "records": len(pairs),
        "validation_records": len(held),
        "skipped": sum(account.skipped.values()),
        "duplicates": account.duplicates,
        "lengths": dict(fitted),
    }
    return PreparedPairs(pairs, held, [text for _, text in sides[1]], records, counts)
