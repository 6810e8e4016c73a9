"""Words of two characters from jieba's dictionary (MIT), read from the installed package."""

from __future__ import annotations

from pathlib import Path

import jieba


def pairs() -> list[str]:
    """Words of exactly two Han characters of the basic plane."""
    found = []
    with (Path(jieba.__file__).parent / "dict.txt").open(encoding="utf-8") as file:
        for line in file:
            word = line.partition(" ")[0]
            if len(word) == 2 and all("\u4e00" <= char <= "\u9fff" for char in word):
                found.append(word)
    return found
