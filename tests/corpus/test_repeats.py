"""Repeated lines and stretches: what stands in an earlier document goes, whole sentences of it; nothing else does."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hanmo.corpus import repeats, stage
from hanmo.corpus.repeats import without
from hanmo.corpus.settings import CorpusSettings, QualitySettings, Source
from hanmo.corpus.windows import Letters
from hanmo.files import read_json, read_jsonl

TEXTS = st.text(st.sampled_from("春眠不觉晓，处处闻啼鸟。\n夜来Ab1 "), max_size=60)


def sentences(chooser: random.Random, count: int) -> list[str]:
    """Random sentences of 20 Han characters."""
    return ["".join(chr(chooser.randrange(0x4E00, 0x9FA5)) for _ in range(20)) + "。" for _ in range(count)]


def make(tmp_path: Path, sources: dict[str, list[str]], priority: dict[str, int] | None = None, **more: Any) -> Any:
    """Run the stage; returns (stats, texts to train on by source)."""
    named = []
    for name, texts in sources.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in texts))
        named.append(Source(path=str(path), priority=(priority or {}).get(name, 0)))
    out = tmp_path / "out"
    settings = {"heldout_fraction": 0, "near_similarity": 0, "quality": QualitySettings(min_han=0, rules=False), **more}
    stage.run(CorpusSettings(sources=named, **settings), {}, out)
    found: dict[str, list[str]] = {name: [] for name in sources}
    for path in sorted((out / "train").glob("*.jsonl.zst")):
        for _, record in read_jsonl(path):
            found[record["source"]].append(record["text"])
    return read_json(out / "stats.json"), found


@given(TEXTS, st.integers(1, 12))
def test_equal_windows_have_equal_hashes_and_others_have_not(text: str, length: int) -> None:
    letters = Letters(text)
    kept = "".join(text[place] for place in letters.place).lower()
    assert kept == "".join(char for char in text.lower() if char.isalnum())
    windows = [kept[start : start + length] for start in range(len(kept) - length + 1)]
    hashes = letters.windows(length).tolist()
    assert len(hashes) == len(windows)
    assert len(set(hashes)) == len(set(windows)) == len(set(zip(windows, hashes, strict=True)))


@given(TEXTS, TEXTS, TEXTS, TEXTS, st.text(st.sampled_from("春夏秋冬日月山川"), min_size=20, max_size=40))
def test_texts_that_share_a_stretch_share_a_fingerprint(a: str, b: str, c: str, d: str, shared: str) -> None:
    left, right = (Letters(one + shared + two).fingerprints(20) for one, two in ((a, b), (c, d)))
    assert np.intersect1d(left[0], right[0]).size
    windows = Letters(a + shared + b).windows(10)
    assert (windows[left[1]] == left[0]).all()


def test_lines_are_the_same_whatever_their_punctuation() -> None:
    one, two = (f"浏览次数：{count} 次，发布于某某网站首页" for count in (1024, 2048))
    letters = Letters("\n".join([one, "短行", one.replace("，", " ").replace("：", ":"), two]))
    hashes, starts, ends = letters.lines(10)
    assert len(hashes) == 3 and hashes[0] == hashes[1] != hashes[2]
    assert starts[0] == 0 and ends[0] == len(one)


def test_a_line_of_many_documents_stays_in_the_first_ones(tmp_path: Path) -> None:
    chooser = random.Random(1)
    bodies = ["\n".join(sentences(chooser, 3)) for _ in range(30)]
    footer = "版权所有：某某新闻网站，转载必须注明出处。"
    stats, found = make(tmp_path, {"a": [f"{body}\n{footer}" for body in bodies]}, repeated_lines=2)
    held = [text for text in found["a"] if footer in text]
    assert len(held) == 2 and {text.replace(f"\n{footer}", "") for text in found["a"]} == set(bodies)
    assert stats["changed"]["repeated_lines"] == 28 and stats["train"]["documents"] == 30
    assert stats["train"]["chars"] == sum(map(len, found["a"])) and stats["train"]["han"] == 30 * 60 + 2 * 18


def test_a_stretch_goes_from_later_documents_by_whole_sentences(tmp_path: Path) -> None:
    chooser = random.Random(2)
    shared = sentences(chooser, 8)
    quoted = "".join(shared)
    first = [*sentences(chooser, 3), quoted, *sentences(chooser, 2)]
    # The copy has other punctuation and begins in the middle of a sentence.
    before, after = sentences(chooser, 3), sentences(chooser, 2)
    torn = shared[0][8:] + "！\n".join(sentence[:-1] for sentence in shared[1:]) + "。"
    texts = {"a": ["".join(first)], "b": ["".join(before) + torn + "".join(after)]}
    stats, found = make(tmp_path, texts, {"a": 1}, repeated_stretch=60)
    assert found["a"] == ["".join(first)]
    assert found["b"] == ["".join(before) + "".join(after)]
    assert stats["sources"]["b"]["changed"]["repeated_text"] == len(torn)


def test_the_first_one_is_that_of_the_source_with_priority_and_short_copies_stay(tmp_path: Path) -> None:
    chooser = random.Random(3)
    shared, short = "".join(sentences(chooser, 6)), sentences(chooser, 1)[0]
    texts = {
        name: ["".join([*sentences(chooser, 4), short, *sentences(chooser, 2), shared])] for name in ("a", "b", "c")
    }
    _, found = make(tmp_path, texts, {"b": 5}, repeated_stretch=50)
    assert found["b"] == texts["b"]
    for name in ("a", "c"):
        assert found[name] == [texts[name][0].removesuffix(shared)] and short in found[name][0]


def test_a_document_of_which_nothing_is_left_is_rejected_and_accounted_for(tmp_path: Path) -> None:
    chooser = random.Random(4)
    whole = "".join(sentences(chooser, 10))
    stats, found = make(
        tmp_path, {"a": [whole + "".join(sentences(chooser, 4))], "b": [whole]}, {"a": 1}, repeated_stretch=40
    )
    assert found["b"] == [] and stats["rejected"] == {"repeated_text": 1}
    [(_, record)] = [item for path in (tmp_path / "out" / "rejects").glob("repeats-*") for item in read_jsonl(path)]
    assert (
        record["reason"] == "repeated_text"
        and record["meta"]["detail"] == "210 of 210 characters stand in other documents"
    )
    assert not (tmp_path / "out" / "work").exists()


def test_what_is_held_out_is_not_trained_on_and_not_cut(tmp_path: Path) -> None:
    chooser = random.Random(5)
    shared = "".join(sentences(chooser, 6))
    texts = {"a": ["".join([*sentences(chooser, 3), shared, *sentences(chooser, 3)]) for _ in range(20)]}
    _, found = make(tmp_path, texts, repeated_stretch=50, heldout_fraction=0.2)
    held = [record["text"] for path in (tmp_path / "out" / "heldout").glob("*") for _, record in read_jsonl(path)]
    assert held and all(shared in text for text in held)
    assert len(found["a"]) + len(held) == 20 and not any(shared in text for text in found["a"])


def test_the_number_of_workers_and_of_parts_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chooser = random.Random(6)
    pool = sentences(chooser, 60)
    texts = {"a": ["".join(chooser.choices(pool, k=12)) + sentences(chooser, 1)[0] for _ in range(120)]}
    made = []
    for number, held in enumerate((8_000_000, 300)):
        monkeypatch.setattr(repeats, "HELD", held)
        folder = tmp_path / str(number)
        folder.mkdir()
        _, found = make(folder, texts, repeated_stretch=40, repeated_lines=3, workers=1)
        made.append(found)
    assert made[0] == made[1]
    # Whatever is left of two texts shares no stretch of 40 letters and the sentences that surround it.
    seen: set[str] = set()
    for text in made[0]["a"]:
        windows = {text[start : start + 84] for start in range(len(text) - 83)}
        assert not windows & seen
        seen |= windows


@given(TEXTS, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=5))
def test_cutting_leaves_the_rest_in_order(text: str, spans: list[tuple[int, int]]) -> None:
    spans = [(min(a, b), max(a, b)) for a, b in spans]
    left = without(text, spans)
    kept = [char for index, char in enumerate(text) if not any(a <= index < b for a, b in spans)]
    assert [char for char in left if char not in "\n "] == [char for char in kept if char not in "\n "]


def test_too_short_a_stretch_is_refused() -> None:
    with pytest.raises(ValidationError, match="shorter stretches than 30"):
        CorpusSettings(repeated_stretch=20)
