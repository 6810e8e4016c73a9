"""The corpus stage as a whole: what comes out, that all of it is accounted for, and that it is always the same."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from hanmo.corpus import deal, inputs, spill, stage, stream
from hanmo.corpus.gather import choice_of, key_of
from hanmo.corpus.settings import CorpusSettings, QualitySettings, Source
from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter, read_json, read_jsonl

WORDS = ["春天", "花园", "小明", "老师", "学校", "下雨", "高兴", "苹果", "月亮", "故事", "山水", "朋友", "早上", "城市"]


def article(seed: int, words: int = 40) -> str:
    chooser = random.Random(seed)
    return "".join(chooser.choice(WORDS) + chooser.choice(["，", "。", "的", "和", ""]) for _ in range(words))


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def make(settings: CorpusSettings, out: Path, documents: list[Path] | None = None) -> dict[str, Any]:
    stage.run(settings, {"documents": documents or []}, out)
    return read_json(out / "stats.json")


def documents(folder: Path) -> list[dict[str, Any]]:
    return [record for path in sorted(folder.glob("*.jsonl.zst")) for _, record in read_jsonl(path)]


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a few kilobytes are many tasks, stripes, blocks and buckets."""
    monkeypatch.setattr(inputs, "TASK", 2000)
    monkeypatch.setattr(stream, "SPAN", 700)
    monkeypatch.setattr(spill, "BUFFER", 3000)
    monkeypatch.setattr(stage, "BUCKET", 9000)
    monkeypatch.setattr(stage, "HELDOUT_FILE", 500)
    monkeypatch.setattr(deal, "PART", 4000)


def raw(folder: Path) -> list[Source]:
    rows = [{"text": article(number)} for number in range(150)]
    write(folder / "many.jsonl", [*rows, *rows[:20], {"text": "short"}, {"text": "only latin letters here " * 3}])
    more = [{"正文": article(number), "url": "x"} for number in [*range(1000, 1040), 3]]
    write(folder / "more.jsonl", more)
    (folder / "books").mkdir()
    for number in range(5):
        (folder / "books" / f"{number}.txt").write_text("　　" + article(2000 + number), encoding="gb18030")
    return [
        Source(path=str(folder / "many.jsonl"), licence="CC0"),
        Source(path=str(folder / "more.jsonl")),
        Source(path=str(folder / "books"), name="shelf"),
    ]


def test_what_comes_out(tmp_path: Path, small: None) -> None:
    sources = raw(tmp_path / "raw")
    stats = make(CorpusSettings(sources=sources, heldout_fraction=0.1, workers=1), tmp_path / "out")
    train, heldout = documents(tmp_path / "out" / "train"), documents(tmp_path / "out" / "heldout")
    rejects = documents(tmp_path / "out" / "rejects")

    assert stats["read"]["documents"] == 172 + 41 + 5 == len(train) + len(heldout) + len(rejects)
    assert stats["rejected"] == {"duplicate": 21, "low_han": 1, "too_short": 1}
    assert 5 <= len(heldout) <= 40
    for name, found in (("train", train), ("heldout", heldout)):
        texts = [record["text"] for record in found]
        assert stats[name]["documents"] == len(texts)
        assert stats[name]["bytes"] == sum(len(text.encode()) for text in texts)
        assert stats[name]["chars"] == sum(map(len, texts))
        assert stats[name]["han"] == sum("\u4e00" <= char <= "\u9fff" for text in texts for char in text)
    assert len({record["text"] for record in train + heldout}) == len(train) + len(heldout)
    assert {record["text"] for record in train + heldout} == {
        article(number) for number in [*range(150), *range(1000, 1040), *range(2000, 2005)]
    }
    for record in train + heldout:
        assert set(record) == {"id", "text", "source", "meta"}
    assert {record["source"] for record in train + heldout} == {"many", "more", "shelf"}
    assert stats["sources"]["many"]["licence"] == "CC0"
    assert stats["sources"]["shelf"]["changed"] == {"spaces": 10}
    assert stats["sources"]["many"]["rejected"]["duplicate"] == 20
    assert stats["sources"]["many"]["examples"]["too_short"] == [
        {"where": "many.jsonl:171", "detail": "5 characters, fewer than min_chars 10", "text": "short"}
    ]
    duplicates = [record for record in rejects if record["reason"] == "duplicate"]
    assert all(record["meta"]["detail"].startswith("the same text as many:many.jsonl:") for record in duplicates)
    for source in stats["sources"].values():
        assert source["read"]["documents"] == source["train"]["documents"] + source["heldout"]["documents"] + sum(
            source["rejected"].values()
        )
    assert not (tmp_path / "out" / "work").exists()


def test_the_order_is_a_shuffle_by_hash(tmp_path: Path, small: None) -> None:
    make(CorpusSettings(sources=raw(tmp_path / "raw"), workers=1), tmp_path / "out")
    keys = [key_of(record["text"].encode()) for record in documents(tmp_path / "out" / "train")]
    assert keys == sorted(keys)
    assert len(list((tmp_path / "out" / "train").iterdir())) > 3


def test_the_number_of_workers_changes_nothing(tmp_path: Path, small: None) -> None:
    sources = raw(tmp_path / "raw")
    make(CorpusSettings(sources=sources, heldout_fraction=0.1, workers=1), tmp_path / "one")
    make(CorpusSettings(sources=sources, heldout_fraction=0.1, workers=3), tmp_path / "three")
    # Settings of the small fixture do not reach the workers, but those that decide what comes out are the parent's.
    assert content(tmp_path / "one" / "train") == content(tmp_path / "three" / "train")
    assert content(tmp_path / "one" / "heldout") == content(tmp_path / "three" / "heldout")


def test_the_cut_into_tasks_changes_nothing_but_which_of_equal_texts_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CorpusSettings(sources=raw(tmp_path / "raw"), heldout_fraction=0.1, workers=1)
    whole = make(settings, tmp_path / "whole")
    for name, value in (("TASK", 1500), ("_STRIPES", {"": 7})):
        monkeypatch.setattr(inputs, name, value)
    monkeypatch.setattr(stream, "SPAN", 900)
    parts = make(settings, tmp_path / "parts")
    assert whole["rejected"] == parts["rejected"]
    for split in ("train", "heldout"):
        texts = [[record["text"] for record in documents(tmp_path / out / split)] for out in ("whole", "parts")]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(("cap", "value"), [("heldout_documents", 3), ("heldout_mb", 0.0016)])
def test_the_held_out_part_has_a_cap_and_takes_the_smallest_choices(tmp_path: Path, cap: str, value: float) -> None:
    settings = CorpusSettings(sources=raw(tmp_path / "raw"), heldout_fraction=0.5, workers=1, **{cap: value})
    make(settings, tmp_path / "out")
    choices: dict[str, dict[str, list[int]]] = {"train": {}, "heldout": {}}
    for split, found in choices.items():
        for record in documents(tmp_path / "out" / split):
            found.setdefault(record["source"], []).append(choice_of(key_of(record["text"].encode())))
    for source, held in choices["heldout"].items():
        assert max(held) < min(choices["train"][source])
    if cap == "heldout_documents":
        assert sum(map(len, choices["heldout"].values())) == 3 == len(choices["heldout"])
    else:
        held = sum(len(record["text"].encode()) for record in documents(tmp_path / "out" / "heldout"))
        assert held <= 1600


def test_a_small_corpus_still_holds_one_document_out_and_none_if_told_so(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": article(number)} for number in range(5)])
    source = Source(path=str(tmp_path / "a.jsonl"))
    assert make(CorpusSettings(sources=[source]), tmp_path / "one")["heldout"]["documents"] == 1
    assert make(CorpusSettings(sources=[source], heldout_fraction=0), tmp_path / "none")["heldout"]["documents"] == 0
    write(tmp_path / "b.jsonl", [{"text": article(1)}])
    only = Source(path=str(tmp_path / "b.jsonl"))
    assert make(CorpusSettings(sources=[only]), tmp_path / "only")["train"]["documents"] == 1


def test_a_held_out_text_is_never_trained_on_even_without_dedup(tmp_path: Path) -> None:
    rows = [{"text": article(number % 20)} for number in range(200)]
    source = Source(path=str(write(tmp_path / "a.jsonl", rows)))
    stats = make(CorpusSettings(sources=[source], dedup=False, heldout_fraction=0.3), tmp_path / "out")
    held, train = ({r["text"] for r in documents(tmp_path / "out" / split)} for split in ("heldout", "train"))
    assert held
    assert not held & train
    assert stats["train"]["documents"] + stats["heldout"]["documents"] == 200


def test_texts_that_differ_in_white_space_alone_are_duplicates(tmp_path: Path) -> None:
    text = article(1)
    rows = [{"text": text}, {"text": text.replace("，", "， \n")}, {"text": article(2)}]
    stats = make(CorpusSettings(sources=[Source(path=str(write(tmp_path / "a.jsonl", rows)))]), tmp_path / "out")
    assert stats["rejected"] == {"duplicate": 1}


def test_filters_and_their_override_by_source(tmp_path: Path) -> None:
    rows = [
        {"text": "x" * 50},
        {"text": "中" + "x" * 50},
        {"text": article(1, 400)},
        {"text": " \n "},
        {"text": "\ufffd\ufffd" + article(2, 6)},
        {"text": "漢語書籍" * 5},
        {"text": article(3)},
    ]
    path = str(write(tmp_path / "a.jsonl", rows))
    settings = CorpusSettings(
        sources=[Source(path=path), Source(path=path, name="loose", quality={"min_han": 0}, clean={"convert": "t2s"})],
        quality=QualitySettings(max_chars=500),
        dedup=False,
        heldout_fraction=0,
    )
    stats = make(settings, tmp_path / "out")["sources"]
    assert stats["a"]["rejected"] == {"damaged": 1, "empty": 1, "low_han": 2, "too_long": 1}
    assert stats["loose"]["rejected"] == {"damaged": 1, "empty": 1, "too_long": 1}
    assert stats["a"]["changed"].get("converted") is None
    assert stats["loose"]["changed"]["converted"] > 0


def test_own_ids_and_meta_are_kept(tmp_path: Path) -> None:
    story = {"id": "w-1", "text": article(1), "source": "world", "meta": {"kind": "story"}}
    path = write(tmp_path / "a.jsonl", [story, {"id": 5, "text": article(2)}])
    make(CorpusSettings(sources=[Source(path=str(path))], heldout_fraction=0), tmp_path / "out")
    found = {record["id"]: record for record in documents(tmp_path / "out" / "train")}
    told = {"lang": "zh", "register": "modern", "script": "Hans"}
    assert found["w-1"]["meta"] == {"kind": "story", **told, "at": "a.jsonl:1"}
    assert found["5"]["source"] == "a"


def test_the_folders_of_other_stages_give_their_text_alone(tmp_path: Path) -> None:
    world, old = tmp_path / "world", tmp_path / "old"
    for path in (world / "documents.jsonl.zst", world / "sft.jsonl.zst", old / "train" / "00000.jsonl.zst"):
        with JsonlZstWriter(path) as file:
            for number in range(20):
                file.write({"text": article(len(str(path)) + number)})
    (old / "stats.json").write_text("{}", encoding="utf-8")
    with JsonlZstWriter(old / "heldout" / "00000.jsonl.zst") as file:
        file.write({"text": article(-1)})
    stats = make(CorpusSettings(), tmp_path / "out", [world, old])
    assert {name: source["files"] for name, source in stats["sources"].items()} == {"world": 1, "old": 1}
    assert stats["read"]["documents"] == 40


def test_a_finished_corpus_is_left_alone_and_another_plan_starts_anew(tmp_path: Path) -> None:
    source = Source(path=str(write(tmp_path / "a.jsonl", [{"text": article(number)} for number in range(9)])))
    make(CorpusSettings(sources=[source]), tmp_path / "out")
    stamp = next((tmp_path / "out" / "train").iterdir()).stat().st_mtime_ns
    make(CorpusSettings(sources=[source], workers=2), tmp_path / "out")
    assert next((tmp_path / "out" / "train").iterdir()).stat().st_mtime_ns == stamp
    (tmp_path / "out" / "train" / "00099.jsonl.zst").write_bytes(b"left from another plan")
    stats = make(CorpusSettings(sources=[source], quality=QualitySettings(min_han=0.2)), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "train").iterdir()] == ["00000.jsonl.zst"]
    assert stats["settings"]["quality"]["min_han"] == 0.2


def test_real_text_is_accounted_for(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "pretrain"
    names = ("luxun_zh", "cluecorpus_small_sample")
    sources = [Source(path=str(folder / f"{name}.jsonl.zst"), name=name) for name in names]
    sources.append(Source(path=str(folder / "raw_gb18030"), name="gb"))
    stats = make(CorpusSettings(sources=sources, workers=1), tmp_path / "out")
    assert stats["read"]["documents"] == 278 + 1488 + 3
    assert stats["sources"]["luxun_zh"]["read"]["bytes"] == 1_782_632
    total = stats["train"]["documents"] + stats["heldout"]["documents"] + sum(stats["rejected"].values())
    assert total == stats["read"]["documents"]


def test_datatrove_reads_the_corpus(tmp_path: Path) -> None:
    readers = pytest.importorskip("datatrove.pipeline.readers")
    make(CorpusSettings(sources=raw(tmp_path / "raw"), workers=1), tmp_path / "out")
    found = {document.id: document.text for document in readers.JsonlReader(str(tmp_path / "out" / "train"))()}
    assert found == {record["id"]: record["text"] for record in documents(tmp_path / "out" / "train")}


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="nothing to read"):
        make(CorpusSettings(), tmp_path / "out")
