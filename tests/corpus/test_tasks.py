"""Labelled tasks as text: each form of CLUE by its record, and a corpus made of them, exams kept out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanmo.corpus import stage
from hanmo.corpus.formats import read
from hanmo.corpus.records import Bad, Opened, Record
from hanmo.corpus.settings import CorpusSettings
from hanmo.corpus.tasks import form_of, forms, texts_of
from hanmo.errors import HanmoError
from hanmo.files import read_json, read_jsonl
from hanmo.recipe import check_settings
from hanmo.stages import KINDS

#: A record of each form as it is published, and all the texts that its templates may make of it.
PUBLISHED = {
    "afqmc": (
        {"sentence1": "怎么还款", "sentence2": "如何还钱", "label": "1"},
        {
            "“怎么还款”和“如何还钱”，这两句话的意思相同。",
            "问：“怎么还款”和“如何还钱”说的是一回事吗？\n答：是。",
        },
    ),
    "bustm": (
        {"id": 0, "sentence1": "叫爸爸", "sentence2": "吃了吗", "label": "0"},
        {"“叫爸爸”和“吃了吗”，这两句话的意图不同。", "甲说：“叫爸爸”\n乙说：“吃了吗”\n他们说的不是一个意思。"},
    ),
    "ocnli": (
        {"level": "easy", "sentence1": "下雨了", "sentence2": "天晴了", "label": "contradiction", "label0": None},
        {"下雨了\n与此矛盾的是：天晴了", "已知：下雨了\n问：天晴了，对吗？\n答：不对。"},
    ),
    "cmnli": (
        {"sentence1": "下雨了", "sentence2": "地湿了", "label": "neutral"},
        {"下雨了\n由此不能断定：地湿了", "已知：下雨了\n问：地湿了，对吗？\n答：不一定。"},
    ),
    "tnews": (
        {"label": 108, "label_desc": "news_edu", "sentence": "高考放榜了", "keywords": "高考", "id": 3},
        {"教育新闻：高考放榜了", "高考放榜了\n这是一条教育新闻。"},
    ),
    "eprstmt": (
        {"id": 0, "sentence": "物流很快", "label": "Positive"},
        {"好评：物流很快", "物流很快\n看得出来，买家满意。"},
    ),
    "iflytek": (
        {"label": 8, "label_des": "公共交通", "sentence": "手机买地铁票"},
        {"手机买地铁票\n这是一款公共交通类的应用。", "应用类别：公共交通\n应用介绍：手机买地铁票"},
    ),
    "csldcp": (
        {"content": "点火提前角的控制", "label": "控制科学与工程", "id": 805},
        {"点火提前角的控制\n学科：控制科学与工程", "这是一篇控制科学与工程的论文摘要：点火提前角的控制"},
    ),
    "csl": (
        {"id": 0, "abst": "近似查询", "keyword": ["物联网", "聚集"], "label": "0"},
        {
            "摘要：近似查询\n问：“物联网、聚集”都是这篇论文的关键词吗？\n答：不是。",
            "近似查询\n“物联网、聚集”不全是这篇论文的关键词。",
        },
    ),
    "cluewsc": (
        {
            "target": {"span2_index": 5, "span1_index": 0, "span1_text": "小明", "span2_text": "他"},
            "idx": 0,
            "label": "true",
            "text": "小明说他饿了",
        },
        {"小明说他饿了\n这里的“他”指的是“小明”。", "小明说他饿了\n问：其中的“他”是指“小明”吗？\n答：是。"},
    ),
    "chid": (
        {"id": 1, "candidates": ["一鸣惊人", "画蛇添足"], "content": "他这样做是#idiom#。", "answer": 1},
        {"他这样做是画蛇添足。", "他这样做是____。\n从“一鸣惊人、画蛇添足”里选一个成语填空：画蛇添足"},
    ),
    "c3": (
        [
            ["男：走吗?", "女：走。"],
            [{"question": "她走吗?", "choice": ["走", "不走"], "answer": "走"}],
            "1-1",
        ],
        {"男：走吗?\n女：走。\n问：她走吗?\n选项：走、不走\n答：走"},
    ),
    "cmrc2018": (
        {
            "title": "铁路",
            "paragraphs": [
                {
                    "id": "D",
                    "context": "全长49公里。",
                    "qas": [{"question": "多长？", "id": "Q", "answers": [{"text": "49公里", "answer_start": 2}]}],
                }
            ],
        },
        {"全长49公里。\n问：多长？\n答：49公里", "阅读下面的文章，回答问题。\n全长49公里。\n问：多长？\n答：49公里"},
    ),
    "drcd": (
        {
            "title": "梵文",
            "paragraphs": [{"context": "梵語。", "qas": [{"question": "何語？", "answers": [{"text": "梵語"}]}]}],
        },
        {"梵語。\n問：何語？\n答：梵語"},
    ),
}


def opened(value: object, path: Path, form: str) -> list[Record | Bad]:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return list(read(Opened(path, "task", form=form)))


def test_every_form_is_tested() -> None:
    assert PUBLISHED.keys() == forms().keys()


@pytest.mark.parametrize("form", PUBLISHED)
def test_a_record_becomes_readable_text(form: str, tmp_path: Path) -> None:
    record, texts = PUBLISHED[form]
    (found,) = opened([record], tmp_path / "x.json", form)
    assert isinstance(found, Record) and found.fields["text"] in texts
    assert found.fields["meta"] == {"form": form}
    if isinstance(record, dict) and "paragraphs" not in record:  # one record a line
        assert opened(record, tmp_path / "x.json", form)[0].fields == found.fields  # type: ignore[union-attr]


def test_all_templates_are_used(tmp_path: Path) -> None:
    records = [{"sentence1": f"第{n}问", "sentence2": "如何还钱", "label": "1"} for n in range(40)]
    texts = [item.fields["text"] for item in opened(records, tmp_path / "x.json", "afqmc")]  # type: ignore[union-attr]
    assert 5 < sum(text.startswith("问：") for text in texts) < 35


def test_what_has_no_label_is_counted_and_nothing_else(tmp_path: Path) -> None:
    record = PUBLISHED["ocnli"][0]
    assert isinstance(record, dict)
    found = opened([record, record | {"label": "-"}, {"sentence1": "缺"}], tmp_path / "x.json", "ocnli")
    assert isinstance(found[0], Record)
    assert isinstance(found[1], Bad) and (found[1].reason, found[1].unwanted) == ("no_label", True)
    assert isinstance(found[2], Bad) and not found[2].unwanted
    assert found[2].detail == "not a record of form ocnli: 'sentence2' is missing (fields: sentence1)"


def test_texts_without_labels_for_masked_models() -> None:
    assert texts_of({"sentence1": "一", "sentence2": "二", "label": "1"}) == ["一", "二"]
    assert texts_of({"sentence": "一", "keywords": ""}) == ["一"]
    assert texts_of({"abst": "一", "keyword": ["二", "三"], "label": "1"}) == ["一", "二、三"]
    assert texts_of({"content": "是#idiom#。", "candidates": ["甲"]}) == ["是____。"]
    assert texts_of({"context": "一", "qas": []}) == ["一"]
    assert texts_of({"colour": "red"}) is None


def test_a_form_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "triage.yaml"
    path.write_text(
        "triage:\n  needs: [complaint]\n  texts: [complaint]\n  label: ward\n"
        '  templates: ["主诉：{complaint}\\n科室：{answer}"]\n',
        encoding="utf-8",
    )
    assert form_of(str(path)).render({"complaint": "胸痛", "ward": "心内科"}) == "主诉：胸痛\n科室：心内科"
    for text, line in (
        (path.read_text().replace("{answer}", "{ansewr}"), r"no '\{ansewr\}'; did you mean 'answer'\?"),
        ("triage: {needs: [a], texts: [a]}", "triage.templates: Field required"),
        ("a: {needs: [x], texts: [x], templates: [x], shape: round}", "'round' is unknown"),
        ("[1]", "a form is an entry NAME"),
    ):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        form_of.cache_clear()
        with pytest.raises(HanmoError, match=line):
            form_of(str(tmp_path / "bad.yaml"))


def test_an_unknown_form_is_one_line() -> None:
    with pytest.raises(HanmoError, match=r"x: form: 'afqcm' is unknown; did you mean 'afqmc'\?"):
        check_settings(KINDS["corpus"], {"sources": [{"path": "x.json", "form": "afqcm"}]}, "x")


def test_a_corpus_of_tasks_with_exams_kept_out(tmp_path: Path) -> None:
    folder = tmp_path / "afqmc"
    folder.mkdir()
    asked = "我的花呗账单为什么在本月还没有出来而上个月已经还清了"
    records = [
        {"sentence1": f"请问第{n}号门店怎么预约周末的维修服务", "sentence2": asked[: 8 + n % 9], "label": "0"}
        for n in range(30)
    ]
    records.append({"sentence1": asked, "sentence2": "账单在哪里", "label": "1"})
    records.append({"sentence1": "没有标签的句子", "sentence2": "也没有"})
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (folder / "train.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "README.md").write_text("AFQMC", encoding="utf-8")
    exam = tmp_path / "test.json"
    exam.write_text(
        json.dumps({"sentence1": asked, "sentence2": "x", "label": "1"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    source = {"path": str(folder), "form": "afqmc", "quality": {"rules": False}}
    settings = CorpusSettings.model_validate(
        {"sources": [source], "near_similarity": 0, "workers": 1, "heldout_fraction": 0}
    )
    stage.run(settings, {"documents": [], "exams": [exam]}, tmp_path / "out")
    stats = read_json(tmp_path / "out" / "stats.json")
    kept = [r for file in (tmp_path / "out" / "train").glob("*.zst") for _, r in read_jsonl(file)]
    assert len(kept) == 30 and all("门店" in r["text"] and r["meta"]["form"] == "afqmc" for r in kept)
    rejected = stats["sources"]["afqmc"]["rejected"]
    assert {reason: value["documents"] if isinstance(value, dict) else value for reason, value in rejected.items()} == {
        "contaminated": 1,
        "no_label": 1,
    }


def test_real_files_of_every_form(shared_data: Path) -> None:
    bench = shared_data / "bench"
    counts = {
        "afqmc": ("afqmc/dev.json", 4316),
        "ocnli": ("ocnli/dev.json", 2950),
        "tnews": ("fewclue/tnews/train_0.json", 240),
        "chid": ("fewclue/chid/train_0.json", 42),
        "c3": ("c3/c3-m-dev.json", 1046),
        "cmrc2018": ("cmrc2018/cmrc2018_trial.json", 256),
        "drcd": ("drcd/DRCD_dev.json", 1000),
    }
    for form, (name, count) in counts.items():
        found = list(read(Opened(bench / name, "task", form=form)))
        assert sum(isinstance(item, Record) for item in found) == count, form
        assert all(isinstance(item, Record) or item.unwanted for item in found)
