"""The held-out part: some of every source, within the caps, and nothing like it in training."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from test_near import corpus, edited, page  # type: ignore[import-not-found]

from hanmo.corpus import heldout as heldout_module
from hanmo.corpus import near, stage
from hanmo.corpus.gather import key_of
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.sketch import likeness, sketch
from hanmo.files import read_json


def pages(seed: int, count: int, name: str, length: int = 60) -> list[tuple[str, str]]:
    chooser = random.Random(seed)
    return [(f"{name}{number}", page(chooser, length)) for number in range(count)]


def by_source(found: dict, part: str) -> dict[str, int]:
    return {name: source[part]["documents"] for name, source in found["stats"]["sources"].items()}


def test_every_source_with_enough_documents_holds_some_out(tmp_path: Path) -> None:
    rows = {"web": pages(1, 2000, "w"), "law": pages(2, 12, "l"), "two": pages(3, 2, "t"), "one": pages(4, 1, "o")}
    found = corpus(tmp_path, rows, heldout_fraction=0.02, near_similarity=0)
    held = by_source(found, "heldout")
    assert 25 <= held["web"] <= 55 and held["law"] >= 1 and held["one"] == 0 and held["two"] <= 1
    assert all(by_source(found, "train").values())


@pytest.mark.parametrize("caps", [{"heldout_documents": 40}, {"heldout_mb": 40 * 180 / 1e6}])
def test_the_caps_are_shared_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caps: dict) -> None:
    monkeypatch.setattr("hanmo.corpus.stage.largest_heldout", lambda _: 180)
    monkeypatch.setattr("hanmo.corpus.gather.largest_heldout", lambda _: 180)
    rows = {"web": pages(1, 1000, "w"), "law": pages(2, 200, "l"), "tiny": pages(3, 20, "t")}
    found = corpus(tmp_path, rows, heldout_fraction=0.25, near_similarity=0, **caps)
    held = by_source(found, "heldout")
    assert sum(held.values()) == 40 and held["tiny"] >= 3
    assert abs(held["web"] - held["law"]) <= 1  # tiny's share is used up; the rest is halved


def test_of_a_single_source_the_smallest_choices_are_held_out(tmp_path: Path) -> None:
    rows = pages(1, 300, "w")
    for fraction, cap in ((0.1, 20_000), (0.1, 7), (1e-9, 20_000)):
        bound = int(fraction * 2**64)
        choices = sorted(int.from_bytes(key_of(text.encode())[8:], "big") for _, text in rows)
        wanted = max(1, min(cap, sum(choice < bound for choice in choices)))
        (folder := tmp_path / f"{fraction}-{cap}").mkdir()
        found = corpus(folder, {"web": rows}, heldout_fraction=fraction, heldout_documents=cap, near_similarity=0)
        held = [int.from_bytes(key_of(r["text"].encode())[8:], "big") for r in found["heldout"].values()]
        assert sorted(held) == choices[:wanted]


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("similarity", [0, 0.75])
def test_equal_texts_are_never_on_both_sides(tmp_path: Path, dedup: bool, similarity: float) -> None:
    """Also where sources hold out different shares, for a small one holds out at least one."""
    law = pages(2, 12, "l")
    rows = {
        "web": pages(1, 400, "w") + [(f"x{i}", text.replace("", " ", 3)) for i, (_, text) in enumerate(law)],
        "law": law,
        "again": [(f"a{i}", text) for i, (_, text) in enumerate(law)],
    }
    found = corpus(tmp_path, rows, heldout_fraction=0.01, dedup=dedup, near_similarity=similarity)
    keys = {part: {key_of(r["text"].encode()) for r in found[part].values()} for part in ("train", "heldout")}
    assert keys["heldout"] and not keys["train"] & keys["heldout"]
    if not dedup:
        assert found["stats"]["rejected"]["duplicate"] == 0


def leaks(found: dict, similarity: float) -> int:
    train = np.stack([sketch(record["text"]) for record in found["train"].values()])
    return sum(
        int((likeness(sketch(record["text"]), train) >= similarity).any()) for record in found["heldout"].values()
    )


def copies(count: int) -> dict[str, list[tuple[str, str]]]:
    """Triples that are about as much alike as asked, over three sources: some pairs of a triple are, others not."""
    chooser = random.Random(9)
    rows: dict[str, list[tuple[str, str]]] = {"web": [], "books": [], "law": []}
    for number in range(count):
        text = page(chooser, 300)
        rows["web"].append((f"w{number}", text))
        rows["books"].append((f"b{number}", edited(text, chooser.uniform(0.6, 0.95), chooser)))
        rows["law"].append((f"l{number}", edited(text, chooser.uniform(0.6, 0.95), chooser)))
    return rows


def test_nothing_like_a_held_out_document_is_trained_on(tmp_path: Path) -> None:
    found = corpus(tmp_path, copies(150), heldout_fraction=0.3)
    assert len(found["heldout"]) > 50 and len(found["train"]) > 100
    assert leaks(found, 0.75) == 0


def test_what_the_search_among_all_has_missed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With most edges taken away, the comparison with the held-out part still removes every pair."""
    whole = near.resolve
    lost = []

    def forgetful(tasks, priorities, path) -> int:
        for task in tasks:
            edges = np.load(task.stem.with_suffix(".npy"))
            lost.append(len(edges))
            np.save(task.stem.with_suffix(".npy"), edges[:0])
        return whole(tasks, priorities, path)

    monkeypatch.setattr(stage, "resolve", forgetful)
    monkeypatch.setattr(heldout_module, "_CHUNK", 70)
    monkeypatch.setattr(heldout_module, "_PAIRS", 13)
    found = corpus(tmp_path, copies(80), heldout_fraction=0.3)
    assert sum(lost) > 100 and len(found["heldout"]) > 40
    assert leaks(found, 0.75) == 0
    gone = [r for r in found["rejects"].values() if r["reason"] == "near_duplicate"]
    assert len(gone) > 20 and all(r["meta"]["detail"].split(" like ")[1] in found["heldout"] for r in gone)


def test_a_second_corpus_keeps_out_what_the_first_holds_out(tmp_path: Path) -> None:
    """Two corpora of the same source hold out the same documents; with other settings, the first's are its exams."""
    (tmp_path / "one").mkdir()
    one = corpus(tmp_path / "one", {"web": pages(1, 300, "w")}, heldout_fraction=0.05)
    source = Source(path=str(tmp_path / "one" / "web.jsonl"), name="other")
    exams = {"exams": sorted((tmp_path / "one" / "out" / "heldout").glob("*.zst"))}
    out = tmp_path / "two"
    stage.run(CorpusSettings(sources=[source], heldout_fraction=0, workers=1), exams, out)
    stats = read_json(out / "stats.json")
    assert stats["rejected"]["contaminated"] == len(one["heldout"]) > 5
    assert stats["train"]["documents"] == len(one["train"])
