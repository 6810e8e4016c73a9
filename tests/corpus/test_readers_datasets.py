"""Data sets as others keep them: WuDao's folder of JSON arrays, and what `datasets` saves to the disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from test_corpus_stage import article, content, documents, make

from hanmo.corpus import inputs
from hanmo.corpus.formats import FORMATS, read
from hanmo.corpus.inputs import look
from hanmo.corpus.records import Bad, Opened, Record
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError


def wudao(number: int) -> dict:
    return {
        "id": number,
        "uniqueKey": f"{number:032x}",
        "titleUkey": f"{number:032x}",
        "dataType": "百科",
        "title": f"第{number}条",
        "content": article(number),
    }


def settings(path: Path, text: list[str] | None = None, **more) -> CorpusSettings:
    source = Source(path=str(path), name="wudao", text=text or [])
    return CorpusSettings(sources=[source], **{"workers": 1, "heldout_fraction": 0} | more)


def test_wudaos_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "WuDaoCorpus2.0_base_200G"
    folder.mkdir()
    rows = [wudao(number) for number in range(60)]
    (folder / "part-1.json").write_text(json.dumps(rows[:20], ensure_ascii=False, indent=2), encoding="utf-8")
    (folder / "part-2.json").write_text(json.dumps(rows[20:40], ensure_ascii=False), encoding="utf-8")
    (folder / "part-0003.json.zst").write_bytes(zstandard.compress(json.dumps(rows[40:]).encode()))
    found = look(settings(folder), [])
    assert found.notes == [
        "wudao: 3 json files, text from 'content' (not from: dataType, id, title, titleUkey, uniqueKey); "
        "`text: [title, content]` would take the title, too"
    ]
    make(settings(folder), tmp_path / "plain")
    assert {record["text"] for record in documents(tmp_path / "plain" / "train")} == {row["content"] for row in rows}
    make(settings(folder, ["title", "content"]), tmp_path / "titled")
    titled = {record["meta"]["at"]: record["text"] for record in documents(tmp_path / "titled" / "train")}
    assert titled["part-1.json:2"] == f"第0条\n{article(0)}"
    assert titled["part-1.json:10"] == f"第1条\n{article(1)}"
    assert titled["part-2.json:1"] == f"第20条\n{article(20)}"
    assert titled["part-2.json:1.7"] == f"第27条\n{article(27)}"  # the eighth on that line
    assert len(titled) == 60

    monkeypatch.setattr(inputs, "TASK", 1000)
    for workers in (1, 3):
        make(settings(folder, workers=workers), tmp_path / f"striped{workers}")
    assert content(tmp_path / "striped1") == content(tmp_path / "striped3")
    assert {record["id"] for record in documents(tmp_path / "striped1" / "train")} == set(map(str, range(60)))


def test_stripes_of_an_array_are_its_elements_dealt_out(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a"}, {"text": "b"},\n oops, {"text": "c"}, {"text": "d"}]', encoding="utf-8")
    whole = list(read(Opened(path, "json")))
    assert [(item.place, isinstance(item, Bad)) for item in whole] == [
        ("1", False),
        ("1.1", False),
        ("2", True),
        ("2.1", False),
        ("2.2", False),
    ]
    for stripes in (2, 3, 7):
        dealt = [
            item for stripe in range(stripes) for item in read(Opened(path, "json", stripe=stripe, stripes=stripes))
        ]
        assert sorted(dealt, key=lambda item: item.place) == whole


def test_an_array_of_many_megabytes_on_one_line_is_a_stream(tmp_path: Path) -> None:
    """Peak memory of a process that reads 120 MB of it, in steps of 8 MB of records."""
    path = tmp_path / "a.json"
    row = json.dumps({"title": "题", "content": article(1, 4000)}, ensure_ascii=False).encode()
    count = 120_000_000 // len(row)
    with path.open("wb") as file:
        file.write(b"[" + row)
        for _ in range(count - 1):
            file.write(b", " + row)
        file.write(b"]")
    program = (
        "import resource, sys; from pathlib import Path; from hanmo.corpus.records import Opened;"
        "from hanmo.corpus.formats import read; import hanmo.corpus.readers.jsons;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "count = sum(1 for _ in read(Opened(Path(sys.argv[1]), 'json')));"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    records, kilobytes = map(int, done.stdout.split())
    assert records == count
    assert kilobytes < 20_000


def save(folder: Path, numbers: range, shards: int = 1) -> Path:
    import datasets

    rows = {"content": [article(number) for number in numbers], "title": [f"第{number}条" for number in numbers]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder), num_shards=shards)
    return folder


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    import datasets

    folder = save(tmp_path / "saved", range(30), shards=3)
    stats = make(settings(folder), tmp_path / "out")
    assert (stats["sources"]["wudao"]["files"], stats["sources"]["wudao"]["left_out"]) == (3, {})
    train = documents(tmp_path / "out" / "train")
    assert {record["text"] for record in train} == {article(number) for number in range(30)}
    assert "data-00001-of-00003.arrow:3" in {record["meta"]["at"] for record in train}

    both = datasets.DatasetDict(
        train=datasets.load_from_disk(str(folder)),
        test=datasets.load_from_disk(str(save(tmp_path / "b", range(40, 45)))),
    )
    both.save_to_disk(str(tmp_path / "dict"))
    make(settings(tmp_path / "dict"), tmp_path / "out")
    train = documents(tmp_path / "out" / "train")
    assert len(train) == 35
    assert "test/data-00000-of-00001.arrow:1" in {record["meta"]["at"] for record in train}
    make(settings(tmp_path / "dict" / "test", ["title", "content"]), tmp_path / "out")
    assert len(documents(tmp_path / "out" / "train")) == 5

    (folder / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(HanmoError, match=r"data-00001-of-00003\.arrow: no such file, though state\.json"):
        make(settings(folder), tmp_path / "out")


def test_arrow_files_stream_batch_by_batch_and_tell_their_tears(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"text": [article(number) for number in range(100)], "n": list(range(100))})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    with pa.ipc.new_file(str(tmp_path / "b.feather"), table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    for name in ("a.arrow", "b.feather"):
        opened = Opened(tmp_path / name, "arrow", columns=("text",))
        items = [item for item in read(opened) if isinstance(item, Record)]
        assert [(item.line, dict(item.fields)) for item in items] == [
            (number + 1, {"text": article(number)}) for number in range(100)
        ]
        dealt = [
            item for stripe in range(4) for item in read(Opened(tmp_path / name, "arrow", stripe=stripe, stripes=4))
        ]
        assert sorted(item.line for item in dealt) == list(range(1, 101))
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(FileFault, match="not a whole Arrow file"):
            list(read(opened))


def test_the_formats_that_settings_know_are_those_that_there_are() -> None:
    schema = Source.model_json_schema()["properties"]["format"]["enum"]
    # A file of a task is told by its `form`, not by a format.
    assert schema == ["auto", *(name for name in FORMATS if name != "task")]
