"""Record files as examples to train on and examples to watch: what all ways of SFT do first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.posttrain.encode import Example, count_tokens
from hanmo.posttrain.forms import Dialogue
from hanmo.posttrain.records import hold_out, read_items, sft_kind
from hanmo.posttrain.settings import SftSettings

#: Ids and labels of a dialogue of at most so many tokens; None where it was dropped, which is counted.
Encode = Callable[[Dialogue, int, Counter[str]], Example | None]


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
        [found for item in side if (found := encode(item.value, limit, fitted)) is not None]
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
