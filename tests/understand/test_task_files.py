"""Files of tasks: every form is read, every fault has its line, what is left out is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanmo.errors import HanmoError
from hanmo.understand.files import part_of, read_examples
from hanmo.understand.tasks import TASKS, task

from .faulty import SOUND, Faulty, kinds

KINDS = list(kinds())


def read(folder: Path, name: str, part: str = "train", on_bad: str = "fail") -> Any:
    return read_examples(part_of(folder, part), task(name), on_bad)


def test_there_are_forty_kinds() -> None:
    assert len(KINDS) >= 40 and len({(one.task, one.name) for one in KINDS}) == len(KINDS)


@pytest.mark.parametrize("faulty", KINDS, ids=lambda one: f"{one.task}-{one.name}")
def test_a_faulty_line_is_named_or_counted(faulty: Faulty, task_folder: Callable[..., Path]) -> None:
    sound = SOUND[faulty.task]
    folder = task_folder(train=[sound, faulty.line, sound, faulty.line])
    with pytest.raises(HanmoError) as caught:
        read(folder, faulty.task)
    line = str(caught.value)
    assert f"{folder / 'train.json'}:2: " in line and faulty.says in line and "1 more records" in line
    assert "\n" not in line
    examples, account = read(folder, faulty.task, on_bad="skip")
    assert len(examples) == 2 and account.read == 4
    assert sum(account.skipped.values()) == 2 and account.skipped_at[1].startswith(f"{folder / 'train.json'}:4: ")


def test_sound_records_of_every_form(task_folder: Callable[..., Path]) -> None:
    found = {name: read(task_folder(train=[record]), name)[0][0] for name, record in SOUND.items()}
    assert found["afqmc"].texts == ("我爱看书", "他爱看书") and found["afqmc"].label == "0"
    assert found["csl"].texts == ("关键、东西", "这是一个关键的东西")
    assert found["wsc"].texts == ("【张三】说〖他〗来了",) and found["wsc"].id == 4
    assert found["chid"].options == (("他", "一二三四", "来了"), ("他", "五六七八", "来了"))
    assert found["chid"].label == 1
    assert found["cluener"].label == ((0, 2, "name"),)


def test_marks_of_spans_that_touch(task_folder: Callable[..., Path]) -> None:
    target = {"span1_text": "张三", "span1_index": 0, "span2_text": "他", "span2_index": 2}
    record = {"text": "张三他来了", "target": target, "label": "false"}
    assert read(task_folder(train=[record]), "wsc")[0][0].texts == ("【张三】〖他〗来了",)


def test_labels_without_agreement_and_none_are_counted(task_folder: Callable[..., Path]) -> None:
    records = [SOUND["ocnli"] | {"label": label} for label in ("-", "neutral", None, "")]
    records.append({key: value for key, value in SOUND["ocnli"].items() if key != "label"})
    records.append({**records[-1], "gold_label": "entailment"})
    examples, account = read(task_folder(train=records), "cmnli")
    assert [one.label for one in examples] == [None, "neutral", None, None, None, "entailment"]
    assert account.notes == {"label '-' (annotators did not agree)": 1, "without a label": 3}


def test_clues_idioms_have_their_answers_in_another_file(task_folder: Callable[..., Path]) -> None:
    record = {"content": ["他#idiom000001#来了", "我#idiom000002#去了"], "candidates": ["一二三四", "五六七八"]}
    folder = task_folder(train=[record], train_answer=json.dumps({"#idiom000001#": 1, "#idiom000002#": 0}))
    examples, _ = read(folder, "chid")
    assert [(one.id, one.label) for one in examples] == [("#idiom000001#", 1), ("#idiom000002#", 0)]


def test_conll_files_in_several_schemes(task_folder: Callable[..., Path]) -> None:
    bio = "张\tB-PER\n三\tI-PER\n在\tO\n\n北 B-LOC\n京 I-LOC\n"
    bmes = "张 B-PER\n三 E-PER\n他 S-PER\n"
    weibo = "张0\tB-PER.NAM\n三1\tI-PER.NAM\n好0\tO\n"
    folder = task_folder(a__train=bio, b__dev=bmes, c__test=weibo)
    examples, account = read(folder, "ner")
    assert [(one.texts[0], one.label) for one in examples] == [("张三在", ((0, 2, "PER"),)), ("北京", ((0, 2, "LOC"),))]
    assert account.read == 2
    assert read(folder, "ner", "dev")[0][0].label == ((0, 2, "PER"), (2, 3, "PER"))
    assert read(folder, "ner", "test")[0][0].texts == ("张三好",)


def test_a_faulty_tag_is_named_and_its_sentence_left_out(task_folder: Callable[..., Path]) -> None:
    folder = task_folder(x__train="张 B-PER\n三 I_PER\n\n好 O\n坏\n\n我 O\n")
    with pytest.raises(HanmoError, match=r"x\.train:2: has a tag that is neither O nor B-"):
        read(folder, "ner")
    examples, account = read(folder, "ner", on_bad="skip")
    assert len(examples) == 1 and sum(account.skipped.values()) == 2
    assert "x.train:5: needs a character and a tag" in account.skipped_at[1]


def test_squad_files_and_their_faults(task_folder: Callable[..., Path]) -> None:
    good = {"id": "a", "question": "谁来了？", "answers": [{"text": "张三", "answer_start": 0}]}
    moved = {"id": "b", "question": "谁？", "answers": [{"text": "北京", "answer_start": 0}]}
    absent = {"id": "c", "question": "谁？", "answers": [{"text": "李四", "answer_start": 0}]}
    bad = {"id": "d", "question": "", "answers": [{"text": "张三", "answer_start": 0}]}

    def whole(*questions: Any) -> str:
        paragraph = {"context": "张三来了北京", "qas": list(questions)}
        return json.dumps({"data": [{"paragraphs": [paragraph]}]}, ensure_ascii=False, indent=1)

    examples, account = read(task_folder(train=whole(good, moved, absent)), "cmrc2018")
    assert [one.label for one in examples] == [(("张三", 0),), (("北京", 4),), (("李四", -1),)]
    assert account.notes == {"answer found at another place": 1, "answer is not in the passage": 1}
    folder = task_folder(train=whole(good, bad))
    wrong = 1 + (folder / "train.json").read_text(encoding="utf-8").splitlines().index('       "id": "d",')
    with pytest.raises(HanmoError, match=rf"train\.json:{wrong}: field 'question': is empty"):
        read(folder, "cmrc2018")


def test_c3_and_printed_entities(task_folder: Callable[..., Path]) -> None:
    question = {"question": "谁来了？", "choice": ["张三", "李四"], "answer": "李四"}
    folder = task_folder(train=json.dumps([[["一：李四来了", "二：好"], [question], "7-1"]], ensure_ascii=False))
    (one,), _ = read(folder, "c3")
    assert one.label == 1 and one.options[0] == ("谁来了？张三", "一：李四来了\n二：好")
    printed = "\n".join(json.dumps(SOUND["cluener"], ensure_ascii=False, indent=2) for _ in range(2))
    examples, _ = read(task_folder(train=printed), "cluener")
    assert [one.place.rsplit(":", 1)[1] for one in examples] == ["1", "14"]


def test_files_are_found_by_their_part(task_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = task_folder(train_0="", train_few_all="", dev_0="", test_public="", test="", train_answer="")
    names = {part: [path.name for path in part_of(folder, part)] for part in ("train", "dev", "test")}
    assert names == {"train": ["train_few_all.json"], "dev": [], "test": ["test_public.json"]}
    assert [path.name for path in part_of(folder, "train", 0)] == ["train_0.json"]
    with pytest.raises(HanmoError, match=r"train_3\.json: no such file"):
        part_of(folder, "train", 3)
    with pytest.raises(HanmoError, match="no such folder"):
        part_of(tmp_path / "none", "train")


def test_an_unknown_task_has_a_neighbour() -> None:
    with pytest.raises(HanmoError, match="did you mean 'tnews'"):
        task("tnewss")
    assert task("CLUEWSC") is TASKS["wsc"]


REAL = {
    "afqmc": ("afqmc", "dev", 4316),
    "ocnli": ("ocnli", "dev", 3000),
    "tnews": ("fewclue/tnews", "train", 1185),
    "iflytek": ("fewclue/iflytek", "dev", 1373),
    "wsc": ("fewclue/cluewsc", "dev", 159),
    "csl": ("fewclue/csl", "train", 160),
    "chid": ("fewclue/chid", "train", 202),
    "csldcp": ("fewclue/csldcp", "train", 2036),
    "cluener": ("cluener", "dev", 1343),
    "weibo-ner": ("weibo_ner", "train", 1350),
    "resume-ner": ("resume_ner", "dev", 463),
    "cmrc2018": ("cmrc2018", "dev", 3219),
    "drcd": ("drcd", "dev", 3524),
}


@pytest.mark.parametrize("name", REAL)
def test_the_public_parts_are_read_whole(name: str, shared_data: Path) -> None:
    folder, part, count = REAL[name]
    examples, account = read(shared_data / "bench" / folder, name, part)
    assert len(examples) == count and not account.skipped
