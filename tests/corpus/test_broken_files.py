"""A folder of a hundred kinds of broken files: nothing crashes, every loss is counted by file and reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import broken
import pytest

from hanmo.corpus import stage
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.files import read_json, read_jsonl


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict[str, Counter[str]], Counter[str], Path]:
    """(stats, reasons heard by file, documents kept by file, the folder of the files)."""
    folder = tmp_path_factory.mktemp("broken")
    raw, out = folder / "raw", folder / "out"
    raw.mkdir()
    broken.make(raw)
    settings = CorpusSettings(
        sources=[Source(path=str(raw))],
        on_bad_file="skip",
        max_bad_lines=1,
        max_document_mb=1,
        near_similarity=0,
        dedup=False,
        heldout_fraction=0,
        workers=2,
    )
    stage.run(settings, {}, out)
    heard: dict[str, Counter[str]] = defaultdict(Counter)
    kept: Counter[str] = Counter()
    for path in sorted((out / "rejects").iterdir()):
        for _, record in read_jsonl(path):
            heard[_file(record["id"].removeprefix("raw:"))][record["reason"]] += 1
    for path in sorted((out / "train").iterdir()):
        for _, record in read_jsonl(path):
            kept[_file(record["meta"]["at"])] += 1
    stats = read_json(out / "stats.json")
    for ending in stats["sources"]["raw"]["left_out"]:
        for path in raw.glob(f"*{ending}"):
            heard[path.name]["left_out"] += 1
    return stats, heard, kept, raw


def _file(place: str) -> str:
    return place.partition("!")[0].partition(":")[0]


@pytest.mark.parametrize("name", broken.KINDS)
def test_each_loss_stands_against_its_file_with_a_reason(made: tuple, name: str) -> None:
    _, heard, kept, raw = made
    expected = broken.KINDS[name][1]
    if expected == broken.FINE:
        assert not heard[name] and kept[name], "nothing is lost of a file that only looks broken"
    else:
        assert set(heard[name]) & expected, f"heard {dict(heard[name])}"
        assert set(heard[name]) <= expected, f"heard {dict(heard[name])}"
    if name.endswith(".jsonl") and "bad_encoding" not in expected:
        assert kept[name] == (raw / name).read_bytes().count("好文章".encode()) - ("torn-end" in name)


def test_the_account_is_whole(made: tuple) -> None:
    stats, heard, kept, raw = made
    assert set(heard) | set(kept) == {path.name for path in raw.iterdir()}, "of every file something is heard"
    records = sum(count for reasons in heard.values() for name, count in reasons.items() if name != "left_out")
    assert records == sum(stats["rejected"].values()) + stats["bad_files"]
    assert stats["train"]["documents"] == sum(kept.values())
    assert len(broken.KINDS) >= 60
