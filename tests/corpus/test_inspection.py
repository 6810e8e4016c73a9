"""`hanmo corpus inspect`: what it says is so, and the recipe it prints makes a corpus."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import opencc
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner
from hubserver import SHA, Hub, serving
from hypothesis import given
from hypothesis import strategies as st
from test_corpus_stage import article, write
from test_hubs import online, rows, several  # noqa: F401

from hanmo.cli import cli
from hanmo.corpus import inspection, inspection_view, peek, traits
from hanmo.corpus.inspection import inspect
from hanmo.corpus.stage import run
from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.recipe import load_recipe


def made(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the printed recipe makes of the files, run as it is."""
    path = folder / "corpus.yaml"
    path.write_text(found["recipe"], encoding="utf-8")
    stage = load_recipe(path, []).stages[0]
    run(stage.settings.model_copy(update={"workers": 1}), {}, folder / "out")
    return read_json(folder / "out" / "stats.json")


def only(path: Path | str, **more: Any) -> dict[str, Any]:
    found = inspect([str(path)], **more)
    assert len(found["groups"]) == 1
    return found["groups"][0]


def test_one_file(tmp_path: Path) -> None:
    records = [{"id": number, "text": "　　" + article(number), "url": f"http://x/{number}"} for number in range(50)]
    path = write(tmp_path / "a.jsonl", records)
    path.write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
    path = path.rename(tmp_path / "a.jsonl.zst")
    found = inspect([str(path)], samples=2)
    group = found["groups"][0]
    assert (found["files"], found["bytes"], group["format"], group["compression"]) == (
        1,
        path.stat().st_size,
        "jsonl",
        ".zst",
    )
    assert (group["documents"], group["exact"], group["encodings"]) == (50, True, {"utf-8": 1})
    assert group["chars"] == sum(len(record["text"]) for record in records)
    assert (group["text"], group["why"]) == (["text"], "known by its name")
    fields = {item["name"]: item for item in group["fields"]}
    assert fields["id"]["types"] == ["number"] and fields["text"]["filled"] == 1
    assert group["scripts"]["han"] > 0.8 and group["language"] == "Chinese (simplified)"
    assert group["cleaning"]["changed"] == {"spaces": 100} and not group["suspicious"] and not found["faults"]
    for sample in group["samples"]:
        assert sample["before"].startswith("　　") and sample["before"][2:] == sample["after"]
    assert len(group["samples"]) == 2 and sample["where"].startswith("a.jsonl.zst:")
    assert made(found, tmp_path)["train"]["documents"] >= 40


def test_a_folder_of_all_kinds(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    write(folder / "texts.jsonl", [{"text": article(number)} for number in range(30)])
    with (folder / "texts.jsonl").open("ab") as file:
        file.write(b'{"text": "torn\n')
    (folder / "qa").mkdir()
    (folder / "qa" / "one.csv").write_text(
        "question,answer,kind\n" + "".join(f"{article(n, 5)}吗？,{article(n + 900)},a\n" for n in range(100, 130)),
        "utf-8",
    )
    (folder / "book.txt").write_text(article(300, 400), encoding="gb18030")
    (folder / "english.json").write_text(
        json.dumps([{"content": f"Page {n}: " + "some words here " * 9} for n in range(9)])
    )
    pq.write_table(pa.table({"body": [article(number) for number in range(400, 420)]}), folder / "t.parquet")
    write(folder / "talk.jsonl", [{"messages": [{"role": "user", "content": article(n)}]} for n in range(20)])
    (folder / "torn.jsonl.gz").write_bytes(gzip.compress(rows(500, 400))[:-3000])
    (folder / "none.bin").write_bytes(b"\0\1")
    found = inspect([str(folder)])
    assert found["left_out"] == {".bin": 1}
    assert [Path(fault["file"]).name for fault in found["faults"]] == ["torn.jsonl.gz"]
    assert "torn" in found["faults"][0]["fault"]
    groups = {group["names"][0]: group for group in found["groups"]}
    assert groups["qa/one.csv"]["text"] == ["question", "answer"]
    assert "these are proposed: check them" in groups["qa/one.csv"]["why"]
    assert groups["book.txt"]["encodings"] == {"gb18030": 1}
    assert groups["talk.jsonl"]["text"] == [] and "dialogues" in groups["talk.jsonl"]["why"]
    assert groups["texts.jsonl"]["bad"] == 1 and groups["texts.jsonl"]["bad_examples"][0]["where"] == "texts.jsonl:31"
    assert groups["english.json"]["language"] == "English or other Latin script"
    stats = made(found, tmp_path)
    assert stats["bad_files"] == 1
    read = {name: source["read"]["documents"] for name, source in stats["sources"].items()}
    assert {name: read[name] for name in ("texts", "one", "book", "english", "t")} == {
        "texts": 31,
        "one": 30,
        "book": 1,
        "english": 9,
        "t": 20,
    }
    assert "talk" not in read
    inspection_view.show(found)  # any of it can be shown


def test_a_large_file_is_estimated_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peek, "_BYTES", 60_000)
    monkeypatch.setattr(peek, "_THROUGH", 0)
    monkeypatch.setattr(peek, "_STEP", 1000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(rows(0, 5000)))
    group = only(path)
    assert not group["exact"] and group["records"] < 300
    assert 4500 < group["documents"] < 5500
    monkeypatch.setattr(peek, "_THROUGH", 1 << 30)
    counted = only(path)
    assert (counted["exact"], counted["documents"]) == (True, 5000)


def test_a_large_text_file_is_many_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peek, "_ONE_DOCUMENT", 2000)
    path = tmp_path / "a.txt"
    path.write_text("\n".join(article(number) for number in range(100)), encoding="utf-8")
    found = inspect([str(path)])
    assert found["groups"][0]["split"] == "line" and "split: line" in found["recipe"]
    assert made(found, tmp_path)["read"]["documents"] == 100
    path.write_text("\n\n".join(f"{article(n)}\n{article(n + 500)}" for n in range(100)), encoding="utf-8")
    assert only(path)["split"] == "blank_line"


def test_a_file_whose_ending_says_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "corpus.data", [{"text": article(number)} for number in range(20)])
    found = inspect([str(path)])
    assert "format: jsonl" in found["recipe"] and made(found, tmp_path)["read"]["documents"] == 20


def test_what_is_not_for_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "exam.csv").write_text("Question,A,B,C,D,Answer\n" + "何者？,甲,乙,丙,丁,A\n" * 3, encoding="utf-8")
    assert "exam questions" in only(tmp_path / "exam.csv")["why"]
    path = write(tmp_path / "pairs.jsonl", [{"prompt": "问", "chosen": article(1), "rejected": article(2)}] * 3)
    found = inspect([str(path)])
    assert "hanmo dpo" in found["groups"][0]["why"] and found["recipe"] == ""
    inspection_view.show(found)


def test_nothing_readable_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"no archive")
    (tmp_path / "b.bin").write_bytes(b"\0")
    with pytest.raises(HanmoError) as caught:
        inspect([str(tmp_path)])
    assert str(caught.value).startswith(
        f"{tmp_path}: nothing can be read: {tmp_path / 'a.jsonl.zst'}: the .zst file is torn"
    )
    assert "no reader is known for 1 .bin" in str(caught.value)
    with pytest.raises(HanmoError, match="no such file or folder"):
        inspect([str(tmp_path / "nothing")])
    (tmp_path / "list.json").write_text("[[1], [2]]")
    with pytest.raises(HanmoError, match=r"list.json:1: a JSON list, not a record of fields"):
        inspect([str(tmp_path / "list.json")])


def test_a_name_on_a_hub(tmp_path: Path, online: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    with serving(Hub(several())) as hub:
        found = inspect(["hf:owner/name"], hub=hub.url)
        assert found["files"] == 3 and f"hf:owner/name@{SHA}" in found["recipe"]
        assert {group["format"] + group["compression"] for group in found["groups"]} == {
            "jsonl.zst",
            "jsonl.gz",
            "parquet",
        }
        assert made(found, tmp_path)["train"]["documents"] >= 100


def test_the_command(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": article(number)} for number in range(20)])
    shown = CliRunner().invoke(cli, ["corpus", "inspect", str(path), "--sample", "1"])
    assert shown.exit_code == 0 and "jsonl: 1 file" in shown.output and "- path: " in shown.output
    value = json.loads(CliRunner().invoke(cli, ["corpus", "inspect", str(path), "--json"]).output)
    assert value["groups"][0]["documents"] == 20


def test_scripts_and_forms() -> None:
    simplified = article(1) + "这个国家发展迅速，经济繁荣，人们对学习汉语很有兴趣。" * 3
    traditional = opencc.OpenCC("s2t").convert(simplified)
    assert traits.scripts([simplified])["traditional"] < 0.05
    assert traits.scripts([traditional])["traditional"] > 0.95
    assert traits.in_words(traits.scripts([traditional])) == "Chinese (traditional)"
    assert traits.in_words(traits.scripts(["これは日本語の文章です。" * 5])) == "Japanese"
    assert traits.scripts(["абв abc 12"]) == {"latin": 0.375, "cyrillic": 0.375, "digits": 0.25, "other": 0.0}
    assert traits.scripts([" \n"]) == {}


def test_suspicions() -> None:
    good = [article(number, 60) for number in range(40)]
    assert traits.suspicions(good, whole=True) == []
    wrong = article(5, 60).encode().decode("gb18030", "replace")
    latin = article(6, 60).encode().decode("latin-1")
    said = " | ".join(
        traits.suspicions([*good, wrong, latin, "<p>" + good[0], good[1], good[1], "短", "\ufffd" * 9], whole=True)
    )
    for word in ("mojibake: ", "replacement marks", "HTML tags", "duplicates: 2 of", "very short: 2 of"):
        assert word in said
    wrapped = "\n".join(article(number, 12)[:30] for number in range(200))
    assert any(
        "hard-wrapped" in line
        for line in traits.suspicions([wrapped.replace("，", "的").replace("。", "的")], whole=True)
    )


@given(st.lists(st.text(max_size=60), min_size=1, max_size=20))
def test_no_text_is_too_odd(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    traits.suspicions(texts, whole=True)
    shares = traits.scripts(texts)
    seen = [char for char in "".join(texts) if char > " " and char not in "\xa0\u3000"]
    assert bool(shares) == bool(seen)
    if seen:
        assert sum(share for name, share in shares.items() if name != "traditional") == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    "name", ["pretrain/luxun_zh.jsonl.zst", "pretrain/raw_gb18030", "sft", "bench/fewclue", "pref"]
)
def test_real_files(shared_data: Path, tmp_path: Path, name: str) -> None:
    found = inspect([str(shared_data / name)])
    assert orjson.dumps(found) and found["groups"]
    inspection_view.show(found)
    if name.startswith("pretrain"):
        assert made(found, tmp_path)["train"]["documents"] >= 2
    assert inspection.inspect([str(shared_data / name)]) == found


def test_members_of_an_archive_are_looked_into(tmp_path: Path) -> None:
    lines = [
        json.dumps({"正文": f"这是第{number}篇文章，春天到了，花都开了。"}, ensure_ascii=False) for number in range(40)
    ]
    with zipfile.ZipFile(tmp_path / "law.zip", "w") as archive:
        archive.writestr("a/one.jsonl", "\n".join(lines))
        archive.writestr("b.bin", b"\0\1")
    found = inspect([str(tmp_path / "law.zip")])
    [group] = found["groups"]
    assert group["text"] == ["正文"] and group["records"] == 40 and not found["faults"]
    assert "law.zip: 1 members looked into, 1 not" in found["notes"]
    assert str(tmp_path / "law.zip") in found["recipe"] and "!/" not in found["recipe"]
