"""The published forms of generation tasks' files, their faults, and the dialogues that are made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faulty_written import SOUND, Faulty, faulty

from hanmo.errors import HanmoError
from hanmo.evaluate.generation.files import Item, read_items
from hanmo.evaluate.generation.settings import RecordsSettings, TaskSettings
from hanmo.evaluate.generation.stage import make_records
from hanmo.evaluate.generation.tasks import task


def read(path: Path, name: str, **settings) -> list[Item]:
    return read_items([path], task(name), TaskSettings(task=name, **settings))[0]


def pairs(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.source, item.references[0]) for item in items]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


LCSTS = """<doc id=0>
    <human_label>5</human_label>
    <summary>
        北京下雪
    </summary>
    <short_text>
        今天北京下了一场大雪。
    </short_text>
</doc>
<doc id=1>
    <summary>
        油价上涨
    </summary>
    <short_text>
        明天零时起油价上涨。
    </short_text>
</doc>
"""
MATH = """{
  "id":"1",
  "original_text":"镇海雅乐学校二年级的小朋友到一条小路的一边植树．",
  "segmented_text":"略",
  "equation":"x=(11-1)*2",
  "ans":"20"
}
{
  "id":"2",
  "original_text":"一半又一个是多少？",
  "equation":"x=1(1/2)",
  "ans":"1(1/2)"
}
"""
NLPCC = (
    "<question id=1>\t《机械设计基础》的作者是谁？\n<triple id=1>\t机械设计基础 ||| 作者 ||| 杨可桢\n"
    "<answer id=1>\t杨可桢，程光蕴\n==================================================\n"
    "<question id=2>\t谁演过他？\n<triple id=2>\t甲 ||| 演员 ||| 乙\n<answer id=2>\t乙 ||| 丙\n====\n"
)


def test_lcsts(tmp_path: Path) -> None:
    items = read(write(tmp_path / "PART_III.txt", LCSTS), "lcsts")
    assert pairs(items) == [("今天北京下了一场大雪。", "北京下雪"), ("明天零时起油价上涨。", "油价上涨")]
    assert [item.id for item in items] == ["0", "1"] and items[1].place.line == 10


def test_math23k(tmp_path: Path) -> None:
    first, second = read(write(tmp_path / "math23k_train.json", MATH), "math23k")
    assert first.references == ("20", "x=(11-1)*2") and first.learnt == "x=(11-1)*2"
    assert second.place.line == 8 and second.references[0] == "1(1/2)"


def test_facts_of_nlpcc_and_kgclue(tmp_path: Path) -> None:
    one, two = read(write(tmp_path / "nlpcc.txt", NLPCC), "kbqa")
    assert one.references == ("杨可桢，程光蕴",) and two.references == ("乙", "丙") and two.learnt == "乙"
    path = write(tmp_path / "dev.json", json.dumps(SOUND["kbqa"], ensure_ascii=False) + "\n")
    assert read(path, "kgclue")[0].references == ("北京",)


def test_columns(tmp_path: Path) -> None:
    csl = write(tmp_path / "ts.tsv", "to title\t一篇论文的摘要\t题目一\nto title\t另一篇\t题目二\n")
    assert pairs(read(csl, "csl")) == [("一篇论文的摘要", "题目一"), ("另一篇", "题目二")]
    named = write(tmp_path / "named.tsv", "summary\tcontent\n题目\t正文\n")
    assert pairs(read(named, "lcsts")) == [("正文", "题目")]
    comma = write(tmp_path / "train.csv", '\ufeffcontent,summary\n"有逗号,也有""引号""\n和换行",题目\n')
    assert pairs(read(comma, "lcsts")) == [('有逗号,也有"引号"\n和换行', "题目")]


def test_lines_side_by_side(tmp_path: Path) -> None:
    source = write(tmp_path / "test.src", "商品一 \u2028的说明\n商品二\n")
    write(tmp_path / "test.tgt", "简介一\n简介二\n")
    assert pairs(read(source, "cepsum")) == [("商品一 \u2028的说明", "简介一"), ("商品二", "简介二")]
    write(tmp_path / "test.tgt", "简介一\n")
    with pytest.raises(HanmoError, match=r"test\.tgt: 1 lines, but test\.src has 2"):
        read(source, "cepsum")


def test_segmented_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "pku_test_gold.utf8", "共同  创造  美好\r\n\r\n他  来  了\n")
    items = read(path, "cws")
    assert pairs(items) == [("共同创造美好", "共同 创造 美好"), ("他来了", "他 来 了")]
    assert items[1].place.line == 3


def test_sighan(tmp_path: Path) -> None:
    given = "(pid=A2-0003-1)\t他爱看树\n(pid=B1)\t没有错\n(pid=C1)\t没有真相\n(pid=D1)\t太短\n没有标记\n"
    path = write(tmp_path / "SIGHAN15_CSC_TestInput.txt", given)
    with pytest.raises(HanmoError, match="the answers are missing"):
        read(path, "spelling")
    write(tmp_path / "SIGHAN15_CSC_TestTruth.txt", "A2-0003-1, 4, 书\nB1, 0\nD1, 9, 长\n")
    assert pairs(read(path, "spelling", on_bad_record="skip")) == [("他爱看树", "他爱看书"), ("没有错", "没有错")]
    with pytest.raises(HanmoError, match=r"TestInput\.txt:3: has no truth in SIGHAN15_CSC_TestTruth.*; 2 more records"):
        read(path, "spelling")


def test_names_of_fields_that_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", '{"正文": "甲", "题": ["乙", "丙"]}\n')
    (item,) = read(path, "text", source="正文", target="题")
    assert item.references == ("乙", "丙") and item.learnt == "乙"
    with pytest.raises(HanmoError, match=r"own\.jsonl:1: field '标题': is missing"):
        read(path, "text", source="正文", target="标题")


@pytest.mark.parametrize("case", list(faulty()), ids=lambda case: f"{case.task}: {case.name}")
def test_a_faulty_line_is_named_or_counted(tmp_path: Path, case: Faulty) -> None:
    sound = json.dumps(SOUND[case.task], ensure_ascii=False)
    path = write(tmp_path / "data.jsonl", f"{sound}\n\n{case.line}\n{sound}\n")
    with pytest.raises(HanmoError) as error:
        read(path, case.task)
    assert str(error.value).startswith(f"{path}:3: ") and case.says in str(error.value)
    items, account = read_items([path], task(case.task), TaskSettings(task=case.task, on_bad_record="skip"))
    assert (len(items), account.read, account.skipped.total()) == (2, 3, 1)
    assert account.skipped_at[0].startswith(f"{path}:3: ")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("lcsts", LCSTS.replace("</doc>\n", "", 1), ":1: has no </doc>"),
        ("lcsts", LCSTS + "<summary>\n", ":18: stands outside a <doc>"),
        ("lcsts", LCSTS.replace("        北京下雪\n", ""), ":1: field 'summary': is missing"),
        ("lcsts", "to title\ta\tb\nno columns\n", ":2: has one column; a source and a target are needed"),
        ("lcsts", "content\tsummary\na\tb\tc\n", ":2: has another number of columns than the first line, 3"),
        ("lcsts", b"a\tb\n\xb1\xb1\tc\n", ":2: not UTF-8; save the file as UTF-8"),
        ("lcsts", "今天下雪。\n", ": no form of a file of lcsts that is known"),
        ("lcsts", " \n", ": the file is empty; records are needed"),
        ("math23k", MATH[:-3], ":8: not JSON"),
        ("math23k", MATH + "[1]", ":14: is a list instead of an object"),
        ("kbqa", "<question id=1>\t谁？\n<question id=2>\t谁？\n", ":1: field 'answer': is missing"),
        ("kbqa", "<question id=1>\t谁？\n什么\n<answer id=1>\t他\n", ":2: is no <question>, <triple> or <answer>"),
    ],
)
def test_faults_of_other_forms(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    path = write(tmp_path / "data.txt", content)
    with pytest.raises(HanmoError) as error:
        read(path, name)
    assert str(error.value).startswith(f"{path}{says}"), str(error.value)


def test_dialogues_for_sft(tmp_path: Path) -> None:
    path = write(tmp_path / "train.json", "".join(json.dumps(SOUND["adgen"]) + "\n" for _ in range(5)))
    (tmp_path / "out").mkdir()
    settings = RecordsSettings(task="adgen", prompt="写广告：{}", limit=3)
    assert make_records(settings, {"data": [path]}, tmp_path / "out") == {"records": 3, "skipped": 0}
    first = json.loads((tmp_path / "out" / "sft.jsonl").read_text().splitlines()[0])
    assert first["messages"] == [
        {"role": "user", "content": "写广告：类型#裤*版型#宽松"},
        {"role": "assistant", "content": "这条裤子很宽松。"},
    ]
    with pytest.raises(ValueError, match=r"\{\} must stand in it once"):
        RecordsSettings(task="adgen", prompt="写广告")


def test_public_files(shared_data: Path) -> None:
    titles = read(shared_data / "bench" / "csl_benchmark" / "ts" / "test.tsv", "csl")
    assert len(titles) == 1000 and titles[0].references == ("双官能团活性艳蓝的应用性能",)
    facts = read(shared_data / "bench" / "kgclue" / "dev.json", "kbqa")
    assert len(facts) == 2000 and facts[0].references == ("《固体物理》",)
