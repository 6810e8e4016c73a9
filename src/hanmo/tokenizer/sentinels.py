"""Sentinels: the tokens <extra_id_0>, <extra_id_1>, … that stand for gaps in what an encoder-decoder reads (T5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import regex

from hanmo.files import read_json, write_json

#: A sentinel in a text.
SENTINEL = regex.compile(r"<extra_id_(\d+)>")


def sentinel(number: int) -> str:
    """The text of one."""
    return f"<extra_id_{number}>"


def sentinels_of(tokenizer: Any) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1>, … of a tokenizer, as many as it has without a gap."""
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    while (index := vocabulary.get(sentinel(len(found)))) is not None:
        found.append(index)
    return found


def add_sentinels(folder: Path, count: int) -> None:
    """Give a trained tokenizer's folder so many sentinels, behind its other tokens."""
    from hanmo.tokenizer import load, save
    from hanmo.tokenizer.forms.wordpiece import write_vocabulary

    path = folder / "tokenizer_config.json"
    before = read_json(path)
    tokenizer = load(folder)
    names = [sentinel(number) for number in range(count)]
    tokenizer.add_special_tokens({"additional_special_tokens": names}, replace_extra_special_tokens=False)
    save(tokenizer, folder)
    kept = {key: before[key] for key in ("tokenizer_class", "do_lower_case", "tokenize_chinese_chars") if key in before}
    write_json(path, {**read_json(path), **kept})
    if (folder / "vocab.txt").is_file():
        write_vocabulary(tokenizer.get_vocab(), folder)
