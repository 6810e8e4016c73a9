"""The default rules on real text: code, markup, verse and law keep what they say, and nothing is cleaned twice."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.settings import CleanSettings
from hanmo.files import read_jsonl

#: File, and the largest share of its visible characters that may go.
FILES = {
    "chinese_poetry": 0.0001,
    "classical_modern_text": 0.0002,
    "laws_zh": 0.0002,
    "python_docs_zh": 0.001,
    "opendocs_zh": 0.001,
    "lctt_technews_zh": 0.08,  # every article ends in credits
    "vernacular_novels_zh": 0.001,
}


@pytest.mark.parametrize("name", FILES)
def test_little_goes_and_nothing_is_emptied(name: str, shared_data: Path) -> None:
    path = shared_data / "pretrain" / f"{name}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"needs {path.name}")
    cleaner = Cleaner(CleanSettings())
    before = after = 0
    changed: Counter[str] = Counter()
    for number, record in islice(read_jsonl(path), 0, 1500, 12):
        text = record["text"]
        clean, was, now = cleaner(text, changed)
        before, after = before + was.chars - was.space, after + now.chars - now.space
        assert now.han >= 0.8 * was.han, f"{name}:{number}"
        again: Counter[str] = Counter()
        assert cleaner(clean, again)[0] == clean and not again, f"{name}:{number}"
        assert clean.count("```") == text.count("```"), f"{name}:{number}"
    assert before - after <= FILES[name] * before
    assert not changed["mojibake"]
