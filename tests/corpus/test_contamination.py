"""Documents that hold an exam's items are left out, whatever form the exam has; others are not."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import orjson
import pytest

from hanmo.corpus import stage
from hanmo.corpus.contamination import Exams, collect
from hanmo.corpus.settings import CorpusSettings
from hanmo.errors import HanmoError
from hanmo.files import read_json, read_jsonl
from hanmo.recipe import load_recipe

QUESTION = "根据我国宪法的规定，下列哪一个机关行使国家的立法权和监督权？"
CHOICES = ["全国人民代表大会及其常务委员会", "最高人民法院和最高人民检察院", "国务院"]


def exam(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    items: list[dict[str, Any]] = [
        {"id": "1", "category": "law", "kind": "choice", "question": QUESTION, "choices": CHOICES, "answer": "A"},
        {"id": "2", "category": "law", "kind": "short", "question": "天几时亮？", "answer": "早上"},
    ]
    (folder / "exam.jsonl").write_bytes(b"".join(orjson.dumps(item) + b"\n" for item in items))
    return folder


def kept(tmp_path: Path, texts: list[str], exams: list[Path], **settings: Any) -> tuple[list[str], dict[str, Any]]:
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))
    out = tmp_path / "out"
    options = {"workers": 1, "heldout_fraction": 0.0, "near_similarity": 0.0, **settings}
    stage.run(CorpusSettings(**options), {"documents": [raw], "exams": exams}, out)
    found = [record["text"] for file in (out / "train").glob("*.zst") for _, record in read_jsonl(file)]
    return found, read_json(out / "stats.json")


def test_a_document_with_an_item_goes_and_a_set_phrase_stays(tmp_path: Path) -> None:
    whole = "今天的习题。" + QUESTION.replace("，", " ") + "\n甲：" + "\n乙：".join(CHOICES) + "\n答案见后。"
    phrase = "根据我国宪法的规定，下列哪一个机关都应当依法办事，接受人民的监督。"
    other = "院子里的石榴花开了，奶奶坐在树下择菜，猫趴在墙头上打盹。"
    found, stats = kept(tmp_path, [whole, phrase, other], [exam(tmp_path / "world")])
    assert sorted(found) == sorted([phrase, other])
    assert stats["rejected"] == {"contaminated": 1}
    (record,) = [r for file in (tmp_path / "out" / "rejects").glob("*.zst") for _, r in read_jsonl(file)]
    assert record["meta"]["detail"] == "holds 100% of exam item world:1"


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    text = QUESTION + "".join(CHOICES)
    with pytest.raises(HanmoError, match="1 contaminated"):
        kept(tmp_path, [text], [exam(tmp_path / "world")])
    found, _ = kept(tmp_path, [text], [exam(tmp_path / "world")], contamination=0)
    assert found == [text]


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_exams_of_any_form(tmp_path: Path, form: str) -> None:
    record = {"id": 7, "question": QUESTION, "A": CHOICES[0], "B": CHOICES[1], "answer": "A"}
    path = tmp_path / f"law.{form}"
    if form == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, record.keys())
            writer.writeheader()
            writer.writerow(record)
    elif form == "json":
        path.write_bytes(orjson.dumps([record]))
    else:
        path.write_bytes(orjson.dumps({"id": 7, "turns": [{"question": QUESTION, "options": CHOICES[:2]}]}))
    assert collect([path], tmp_path / "exams.npz") == (1, 0)
    exams = Exams(tmp_path / "exams.npz")
    name, share = exams.worst(f"（一）{QUESTION}（甲）{CHOICES[0]}（乙）{CHOICES[1]}")
    assert name.startswith("law:") and share == 1
    assert exams.worst("毫不相干的一段话，说的是春天的花和秋天的月。") == ("", 0.0)
    assert exams.worst("") == ("", 0.0)


def test_shared_runs_count_for_every_item_that_has_them(tmp_path: Path) -> None:
    rows = [{"q": QUESTION}, {"q": QUESTION + "请说明理由并举出宪法中的条文作为你的依据，字数不限。"}, {"q": "短"}]
    (tmp_path / "a.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    assert collect([tmp_path / "a.jsonl"], tmp_path / "exams.npz") == (2, 1)
    name, share = Exams(tmp_path / "exams.npz").worst(QUESTION)
    assert (name, share) == ("a:1", 1.0)


def test_what_is_no_exam_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"x")
    (tmp_path / "bad.jsonl").write_bytes(b'{"q": \n')
    with pytest.raises(HanmoError, match=r"a\.pdf: no exam file"):
        collect([tmp_path / "a.pdf"], tmp_path / "exams.npz")
    with pytest.raises(HanmoError, match=r"bad\.jsonl:1: "):
        collect([tmp_path / "bad.jsonl"], tmp_path / "exams.npz")


RECIPE = """
stages:
  - {name: world, do: microworld}
  - {name: corpus, do: corpus, from: {documents: world%s}}
  - {name: tokenizer, do: tokenizer, from: corpus}
  - {name: tokens, do: tokens, from: {corpus: corpus, tokenizer: tokenizer}}
  - {name: base, do: pretrain, from: {data: tokens}}
  - {name: eval, do: eval, from: {model: base, exam: [world, ./law.jsonl]}}
"""


def test_a_recipe_keeps_out_what_it_evaluates_on(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE % "", encoding="utf-8")
    (corpus,) = [item for item in load_recipe(path).stages if item.name == "corpus"]
    assert corpus.sources["exams"] == ["world", tmp_path / "law.jsonl"]
    path.write_text(RECIPE % ", exams: []", encoding="utf-8")
    (corpus,) = [item for item in load_recipe(path).stages if item.name == "corpus"]
    assert corpus.sources["exams"] == []


def test_an_exam_made_from_the_corpus_itself_is_no_circle(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "stages:\n"
        "  - {name: corpus, do: corpus, from: {documents: ./a.txt}}\n"
        "  - {name: late, do: corpus, from: {documents: corpus}}\n"
        "  - {name: eval, do: eval, from: {model: ./m, exam: late}}\n",
        encoding="utf-8",
    )
    assert all("exams" not in item.sources for item in load_recipe(path).stages)


def test_a_folder_of_public_exams(tmp_path: Path) -> None:
    folder = tmp_path / "bench" / "ccpm"
    folder.mkdir(parents=True)
    item = {"translation": "昏暗的灯熄灭了又被重新点亮起来", "choices": ["渔灯灭复明", "残灯灭又然"], "answer": 1}
    (folder / "valid.jsonl").write_bytes(orjson.dumps(item) + b"\n")
    other = "院子里的石榴花开了，奶奶坐在树下择菜，猫趴在墙头上打盹。"
    found, stats = kept(tmp_path, [f"{item['translation']}。{other}", other], [tmp_path / "bench"])
    assert found == [other] and stats["rejected"] == {"contaminated": 1}
    with pytest.raises(HanmoError, match="the files of a known exam"):
        kept(tmp_path, [other], [tmp_path / "out"])
