"""What counts as an exam item and as a right reply."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.errors import HanmoError
from hanmo.evaluate.items import (
    LETTERS,
    ExamItem,
    chance,
    extract_choice,
    extract_short,
    load_items,
    normalise,
    render_question,
    score,
    wilson,
)

CHOICE = ExamItem(
    id="c1",
    category="home",
    kind="choice",
    question="特产是什么？",
    choices=["桃子", "西瓜", "苹果", "雪梨"],
    answer="B",
    hops=2,
)
SHORT = ExamItem(id="s1", category="home", kind="short", question="特产是什么？", answer="西瓜", accept=["大西瓜"])


def test_render() -> None:
    assert render_question(CHOICE) == "特产是什么？\nA. 桃子\nB. 西瓜\nC. 苹果\nD. 雪梨"
    assert render_question(SHORT) == "特产是什么？"
    assert CHOICE.answer_text == SHORT.answer_text == "西瓜"


@pytest.mark.parametrize(
    "reply",
    [
        "B",
        "b",
        "B。",
        "（B）",
        "B. 西瓜",
        "B、西瓜",
        "西瓜",
        "西瓜。",
        "选B",
        "选B。",
        "选择B。",
        "应该选B。",
        "答案是B。",
        "答案：B",
        "小明住在青石镇，青石镇的特产是西瓜，所以答案是西瓜，选B。",
        "桃子不对，苹果也不对，所以选B。",
        "答案是西瓜。",
        "Ｂ",
        "选（B）。",
        "正确答案是B. 西瓜。",
        "我选B。",
    ],
)
def test_right_choices(reply: str) -> None:
    assert extract_choice(reply, CHOICE) == "B"
    assert score(reply, CHOICE)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "A",
        "E",
        "选E",
        "选A。",
        "选A或者选B。",
        "选A，也可以选B。",
        "答案是桃子，选B。",
        "答案是桃子或西瓜。",
        "答案可能是西瓜。选A。",
        "A桃子B西瓜C苹果D雪梨",
        "西瓜、桃子",
        "B. 桃子",
        "答案是A，答案是B。",
        "答案是西瓜，选A。",
        "不知道",
        "BCD",
        "Bad",
        "A B",
        "答案是西瓜和桃子，选B。",
    ],
)
def test_wrong_choices(reply: str) -> None:
    assert not score(reply, CHOICE)


@pytest.mark.parametrize(
    "reply",
    ["西瓜", "西瓜。", "是西瓜。", "答案是西瓜。", "他住在青石镇，所以答案是 西瓜！", "答案：大西瓜", "答案是“西瓜”。"],
)
def test_right_short(reply: str) -> None:
    assert score(reply, SHORT)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "桃子",
        "西瓜、桃子",
        "西瓜或桃子",
        "桃子，西瓜",
        "答案是西瓜、桃子。",
        "答案是西瓜，也可能是桃子。",
        "答案是桃子，答案是西瓜。",
        "青石镇的特产是西瓜，镇上还有桃子。",
        "答案是西瓜\n答案是桃子",
        "西瓜\n桃子",
        "答案可能是西瓜，也可能是桃子。",
        "答案不是西瓜。",
    ],
)
def test_wrong_short(reply: str) -> None:
    assert not score(reply, SHORT)


@given(
    st.lists(st.sampled_from(CHOICE.choices or []), min_size=2, max_size=4, unique=True),
    st.sampled_from("、，,；/ 或和"),
)
def test_lists_of_candidates_never_pass(names: list[str], between: str) -> None:
    listed = between.join(names)
    for reply in (listed, f"答案是{listed}。", f"可能是{listed}。", f"所以答案是{listed}"):
        assert not score(reply, SHORT)
        assert not score(reply, CHOICE)


@given(st.lists(st.sampled_from("ABCD"), min_size=2, max_size=4, unique=True))
def test_several_letters_never_pass(letters: list[str]) -> None:
    for reply in ("".join(letters), "选" + "，选".join(letters), "答案是" + "或".join(letters), "、".join(letters)):
        assert not score(reply, CHOICE)


@given(st.text(max_size=80))
def test_any_text_is_scored_without_error(reply: str) -> None:
    assert score(reply, CHOICE) in (True, False)
    assert extract_choice(reply, CHOICE) in (None, *LETTERS[:4])
    assert score(reply, SHORT) == (extract_short(reply) in {normalise("西瓜"), normalise("大西瓜")})


def test_chance_and_wilson() -> None:
    assert chance(CHOICE) == 0.25 and chance(SHORT) == 0.0
    low, high = wilson(40, 50)
    assert (round(low, 3), round(high, 3)) == (0.670, 0.888)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == 1.0


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def test_load(tmp_path: Path) -> None:
    path = write(tmp_path / "exam.jsonl", CHOICE.model_dump(), SHORT.model_dump())
    assert load_items(path) == [CHOICE, SHORT]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"answer": "E"}, "answer"),
        ({"kind": "essay"}, "kind"),
        ({"choices": ["桃子"]}, "choices"),
        ({"choices": None}, "choices"),
        ({"choices": ["桃子", " 桃子。"], "answer": "A"}, "choices"),
        ({"hops": 3}, "hops"),
        ({"question": ""}, "question"),
        ({"colour": 1}, "colour"),
        ({"id": "s1"}, "id"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, change: dict[str, object], named: str) -> None:
    path = write(tmp_path / "exam.jsonl", SHORT.model_dump(), {**CHOICE.model_dump(), **change})
    with pytest.raises(HanmoError, match=rf"exam\.jsonl, line 2: {named}"):
        load_items(path)


def test_empty_exam(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="no exam item"):
        load_items(write(tmp_path / "exam.jsonl"))
