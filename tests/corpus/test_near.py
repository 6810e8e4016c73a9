"""Near-duplicates: signatures estimate likeness, planted copies go, everything else stays and is accounted for."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hanmo.corpus import near, stage
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.sketch import SHINGLE, likeness, sketch
from hanmo.files import read_json, read_jsonl


def page(chooser: random.Random, length: int) -> str:
    """Random Han characters, so that two pages have nothing in common."""
    return "".join(chr(chooser.randrange(0x4E00, 0x9FA5)) for _ in range(length))


def edited(text: str, similarity: float, chooser: random.Random) -> str:
    """A copy in which scattered characters are others, so that about `similarity` (Jaccard) of the shingles is left."""
    kept = 2 * similarity / (1 + similarity)  # share of each text's shingles that both have
    changes = round(len(text) * (1 - kept) / SHINGLE)
    letters = list(text)
    step = len(text) / max(changes, 1)
    for number in range(changes):
        letters[int((number + chooser.random() * 0.9) * step)] = chr(chooser.randrange(0xAC00, 0xD000))
    return "".join(letters)


def jaccard(left: str, right: str) -> float:
    a, b = ({text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)} for text in (left, right))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("length", [12, 60, 400, 5000])
def test_likeness_is_estimated_without_bias(length: int) -> None:
    chooser = random.Random(length)
    errors = []
    for number in range(150):
        left = page(chooser, length)
        right = edited(left, (0.5, 0.7, 0.9)[number % 3], chooser)
        errors.append(float(likeness(sketch(left), sketch(right))) - jaccard(left, right))
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.055  # sqrt(0.25 / 128) = 0.044 at most


@given(st.text(max_size=200))
def test_any_text_has_a_signature_and_is_like_itself(text: str) -> None:
    assert sketch(text).shape == (128,)
    assert likeness(sketch(text), sketch(text)) == 1


def test_punctuation_case_and_space_do_not_count() -> None:
    assert np.array_equal(sketch("今天，天气很好。We went out!"), sketch("今天天气 很好\nwe went OUT"))
    assert likeness(sketch("今天天气很好我们出去"), sketch("明日有雨大家留在家里")) < 0.1


def corpus(tmp_path: Path, rows: dict[str, list[tuple[str, str]]], **settings: Any) -> dict[str, Any]:
    """Run the stage over {source: [(id, text)]}; returns what came out, by id, under train, heldout and rejects."""
    sources = []
    priorities = settings.pop("priorities", {})
    for name, texts in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(b"".join(orjson.dumps({"id": id_, "text": text}) + b"\n" for id_, text in texts))
        sources.append(Source(path=str(path), name=name, priority=priorities.get(name, 0)))
    out = tmp_path / "out"
    # These texts are random characters, which the rules of quality would reject.
    base = {"workers": 1, "heldout_fraction": 0.0, "quality": {"rules": False}}
    stage.run(CorpusSettings.model_validate({"sources": sources, **base, **settings}), {}, out)
    found: dict[str, Any] = {
        part: {record["id"]: record for file in (out / part).glob("*.zst") for _, record in read_jsonl(file)}
        for part in ("train", "heldout", "rejects")
    }
    stats = read_json(out / "stats.json")
    return {**found, "stats": stats | {"rejected": Counter(stats["rejected"])}}


def planted(similarity: float, count: int = 60) -> list[tuple[str, str]]:
    chooser = random.Random(round(similarity * 100))
    rows = []
    for number in range(count):
        text = page(chooser, chooser.choice([80, 300, 1500]))
        rows += [(f"a{number}", text), (f"b{number}", edited(text, similarity, chooser))]
    rows += [(f"c{number}", page(chooser, 300)) for number in range(count)]
    return rows


@pytest.mark.parametrize(("similarity", "least"), [(0.9, 0.98), (0.95, 1.0)])
def test_planted_copies_go_and_nothing_else(tmp_path: Path, similarity: float, least: float) -> None:
    found = corpus(tmp_path, {"web": planted(similarity)})
    # A short copy may have no changed character at all.
    assert found["stats"]["rejected"]["near_duplicate"] >= 30
    assert found["stats"]["rejected"].total() >= least * 60
    assert all(f"c{number}" in found["train"] for number in range(60))
    for number in range(60):
        assert f"a{number}" in found["train"] or f"b{number}" in found["train"]
    assert len(found["train"]) + len(found["rejects"]) == 180
    record = next(record for record in found["rejects"].values() if record["reason"] == "near_duplicate")
    assert " like " in record["meta"]["detail"]


def test_what_is_less_alike_stays(tmp_path: Path) -> None:
    found = corpus(tmp_path, {"web": planted(0.6)})
    assert len(found["train"]) == 180 and not found["stats"]["rejected"]


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    found = corpus(tmp_path, {"web": planted(0.95)}, near_similarity=0)
    assert len(found["train"]) > 150 and not found["stats"]["rejected"]["near_duplicate"]


def test_the_longest_stays_or_the_source_of_priority(tmp_path: Path) -> None:
    text = page(random.Random(1), 500)
    rows = {"web": [("long", text + "完了")], "books": [("short", text), ("twin", text)], "news": [("third", text[5:])]}
    found = corpus(tmp_path, rows)
    assert list(found["train"]) == ["long"]
    assert found["stats"]["rejected"] == {"duplicate": 1, "near_duplicate": 2}
    assert found["rejects"]["third"]["meta"]["detail"].endswith("like long")
    (tmp_path / "again").mkdir()
    found = corpus(tmp_path / "again", rows, priorities={"books": 2, "news": 1})
    assert list(found["train"]) == ["short"]
    (tmp_path / "equal").mkdir()
    found = corpus(tmp_path / "equal", {"a": [("one", text)], "b": [("two", text)]}, priorities={"b": 1})
    assert list(found["train"]) == ["two"]


def test_a_chain_of_copies_leaves_one(tmp_path: Path) -> None:
    """Each is like its neighbours only; they hang together."""
    chooser = random.Random(2)
    text = page(chooser, 1000)
    chain = [("0", text)]
    for number in range(1, 12):
        chain.append((str(number), edited(chain[-1][1], 0.93, chooser)))
    assert jaccard(chain[0][1], chain[-1][1]) < 0.6
    found = corpus(tmp_path, {"web": chain})
    assert len(found["train"]) == 1


def test_no_near_duplicate_of_held_out_text_is_trained_on(tmp_path: Path) -> None:
    found = corpus(tmp_path, {"web": planted(0.92, 150)}, heldout_fraction=0.3)
    assert len(found["heldout"]) > 50
    train = [sketch(record["text"]) for record in found["train"].values()]
    for record in found["heldout"].values():
        assert likeness(sketch(record["text"]), np.stack(train)).max() < 0.8


def test_ranges_of_hashes_and_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"web": planted(0.85)}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = corpus(tmp_path / "one", rows)
    monkeypatch.setattr(near, "HELD", 30)
    monkeypatch.setattr(near, "_PAIRS", 7)
    monkeypatch.setattr(near, "_HELD_ENTRIES", 11)
    two = corpus(tmp_path / "two", rows, workers=2)
    assert one["rejects"].keys() == two["rejects"].keys() and one["train"].keys() == two["train"].keys()


def test_a_likeness_that_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"0\.5 to 1, or 0"):
        CorpusSettings(near_similarity=0.3)
