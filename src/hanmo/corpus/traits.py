"""What a sample of text looks like: its scripts, simplified or traditional, and what seems to be wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import xxhash

from hanmo.corpus.clean import HAN_RANGES, Cleaner
from hanmo.corpus.settings import CleanSettings, QualitySettings

#: Scripts that are told apart, by ranges of code points; what is in none is "other".
_SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "han": HAN_RANGES,
    "latin": (
        *((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
        *((0xFF21, 0xFF3A), (0xFF41, 0xFF5A)),
    ),
    "kana": ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    "cyrillic": ((0x400, 0x52F),),
    "arabic": ((0x600, 0x6FF), (0x750, 0x77F)),
    "digits": ((0x30, 0x39), (0xFF10, 0xFF19)),
}
#: Characters of a text in which signs are looked for.
_LOOKED = 200_000
#: Text that was decoded by the wrong codec: the classics of replacement, UTF-8 read as GBK, UTF-8 read as Latin-1.
_MOJIBAKE = re.compile(
    r"锟斤拷|烫烫烫|屯屯屯|鐨勶|銆傦|锛屼|涓€|鈥[溿滄]|[åæçèéä][\x80-\xbf]{2}|â€[™œ\x9d“”]|Ã[\x80-\xbf©¨]"
)
_MARKUP = re.compile(
    r"</?(?:p|div|br|span|a|td|tr|table|li|img|script|font)\b[^>]{0,200}>|&(?:nbsp|lt|gt|amp|quot|#\d+);", re.I
)


@cache
def _one_way() -> tuple[np.ndarray, np.ndarray]:
    """(code points that are traditional only, those that are simplified only), by OpenCC's tables; bool [0x20000]."""
    import opencc

    codes = [*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000)]
    joined = "\n".join(map(chr, codes))  # apart, so that no phrase is seen
    marks = []
    for table in ("t2s", "s2t"):
        mark = np.zeros(0x20000, bool)
        for code, become in zip(codes, opencc.OpenCC(table).convert(joined).split("\n"), strict=True):
            mark[code] = become != chr(code)
        marks.append(mark)
    # A character that both tables change (干, 后) tells nothing.
    return marks[0] & ~marks[1], marks[1] & ~marks[0]


def scripts(texts: Sequence[str]) -> dict[str, float]:
    """Share of each script among the characters that are not white space, and `traditional`: the share of traditional
    characters among those that exist in one of the two forms alone (absent where there are fewer than 20).
    """
    joined = "".join(text[:_LOOKED] for text in texts)[: 20 * _LOOKED]
    codes = np.frombuffer(joined.encode("utf-32-le", "replace"), "<u4")
    codes = codes[(codes > 0x20) & (codes != 0xA0) & (codes != 0x3000)]
    if not len(codes):
        return {}
    shares = {}
    for script, ranges in _SCRIPTS.items():
        count = sum(int(np.count_nonzero((codes >= first) & (codes <= last))) for first, last in ranges)
        if count:
            shares[script] = round(count / len(codes), 4)
    shares["other"] = round(max(0.0, 1 - sum(shares.values())), 4)
    low = codes[codes < 0x20000]
    traditional, simplified = (int(np.count_nonzero(mark[low])) for mark in _one_way())
    if traditional + simplified >= 20:
        shares["traditional"] = round(traditional / (traditional + simplified), 4)
    return shares


def in_words(shares: dict[str, float]) -> str:
    """The languages as far as scripts tell them."""
    if not shares:
        return "no text"
    han, latin, kana = (shares.get(name, 0.0) for name in ("han", "latin", "kana"))
    said = []
    if kana > 0.05:
        said.append("Japanese")
    elif han > 0.05:
        form = ""
        if (share := shares.get("traditional")) is not None:
            form = " (simplified)" if share < 0.1 else " (traditional)" if share > 0.9 else " (both forms mixed)"
        said.append(f"Chinese{form}")
    if latin > 0.2:
        said.append("English or other Latin script")
    for script, language in (
        ("hangul", "Korean"),
        ("cyrillic", "Russian or other Cyrillic"),
        ("arabic", "Arabic script"),
    ):
        if shares.get(script, 0) > 0.05:
            said.append(language)
    return " and ".join(said) or "mostly digits and signs"


def lengths(texts: Sequence[str]) -> dict[str, int]:
    """Characters of the shortest, the middle and the longest text, and of all."""
    sizes = [len(text) for text in texts]
    return {"min": min(sizes), "median": int(median(sizes)), "max": max(sizes), "sum": sum(sizes)}


def cleaned(texts: Sequence[str], quality: QualitySettings) -> dict[str, Any]:
    """What the default cleaning changes, and what the default filters would reject, in a sample.

    Returns:
        "changed": characters by rule; "rejected": documents by reason; "han": the share of Han of the middle text.
    """
    cleaner = Cleaner(CleanSettings())
    changed: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    shares = []
    for text in texts:
        _, before, after = cleaner(text[:_LOOKED], changed)
        dense = max(1, after.chars - after.space)
        shares.append(after.han / dense)
        if before.damaged > quality.max_damage * max(1, before.chars - before.space):
            rejected["damaged"] += 1
        elif after.chars < quality.min_chars:
            rejected["too_short"] += 1
        elif len(text) > quality.max_chars:
            rejected["too_long"] += 1
        elif after.han < quality.min_han * dense:
            rejected["low_han"] += 1
    return {
        "changed": dict(changed.most_common()),
        "rejected": dict(rejected.most_common()),
        "han": round(median(shares), 4) if shares else 0.0,
    }


def suspicions(texts: Sequence[str], *, whole: bool) -> list[str]:
    """What a person would want to look at before using the text, one sentence each.

    Args:
        whole: the texts are as they were written, not several fields joined by line ends.
    """
    if not texts:
        return []
    found = []
    looked = [text[:_LOOKED] for text in texts]

    def share(count: int) -> str:
        return f"{count} of {len(looked)} documents"

    if wrong := [match for text in looked if (match := _MOJIBAKE.search(text))]:
        found.append(f"mojibake: {share(len(wrong))} look as if decoded by the wrong codec (e.g. {wrong[0].group()!r})")
    if marks := sum("\ufffd" in text for text in looked):
        found.append(f"replacement marks (U+FFFD): in {share(marks)}, characters were lost before")
    if markup := sum(bool(_MARKUP.search(text)) for text in looked):
        found.append(f"HTML tags or entities: in {share(markup)}")
    hashes = Counter(xxhash.xxh3_64_intdigest("".join(text.split()).encode()) for text in looked)
    if repeated := sum(hashes.values()) - len(hashes):
        found.append(f"duplicates: {repeated} of {len(looked)} sampled documents repeat another one")
    heads = Counter(text.strip()[:40] for text in looked if len(text) > 200)
    head, times = heads.most_common(1)[0] if heads else ("", 0)
    if times > max(3, 0.1 * len(looked)) and times > repeated + 3:
        found.append(f"boilerplate: {times} of {len(looked)} documents begin with {head[:30]!r}")
    if whole and (wrapped := _wrapped(looked)):
        found.append(f"hard-wrapped or torn lines: {wrapped:.0%} of the lines end in the middle of a sentence")
    if short := sum(len(text.strip()) < 10 for text in looked):
        found.append(f"very short: {share(short)} have fewer than 10 characters")
    if long := sum(len(text) > 100_000 for text in texts):
        rows = max(text.count("\n") for text in texts)
        many = f", up to {rows:,} lines: if these are documents, set split: line or blank_line" if rows > 1000 else ""
        found.append(f"very long: {share(long)} have more than 100,000 characters{many}")
    return found


def _wrapped(texts: Sequence[str]) -> float:
    """Share of lines of prose that end without a mark and go on in the next line; 0 where it is no sign of anything."""
    torn = lines = 0
    for text in texts[:200]:
        rows = [row.strip() for row in text[:20_000].split("\n")]
        for row, following in pairwise(rows):
            if len(row) >= 20 and following and "\u4e00" <= row[-1] <= "\u9fff":
                torn += 1
            if len(row) >= 20 and following:
                lines += 1
    # A title above a text is no torn line, so that some are expected everywhere.
    return torn / lines if lines >= 50 and torn / lines > 0.4 else 0.0
