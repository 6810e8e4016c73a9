"""Cleaning, rule by rule, on a few characters each."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.settings import CleanSettings

CLEAN = Cleaner(CleanSettings())
PUNCTUATION = "，。！？；：、“”‘’（）《》〈〉【】『』「」—…·～＋－＝％＃＠＆＊／＼｜＄￥［］｛｝＜＞．＿"


def clean(text: str, cleaner: Cleaner = CLEAN) -> tuple[str, dict[str, int]]:
    changed: Counter[str] = Counter()
    return cleaner(text, changed)[0], dict(changed)


@pytest.mark.parametrize(
    ("text", "expected", "changed"),
    [
        ("春眠不觉晓，处处闻啼鸟。", "春眠不觉晓，处处闻啼鸟。", {}),
        (PUNCTUATION, PUNCTUATION, {}),
        ("ＡＢＣａｂｃ１２３０９ｚＺ", "ABCabc12309zZ", {"half_width": 13}),
        ("e\u0301te\u0301", "été", {"nfc": 4}),
        ("一\r\n二\r三\u2028四\u2029五\u0085六\x0b七\x0c八", "一\n二\n三\n四\n五\n六\n七\n八", {"newlines": 7}),
        ("　　第一段\n　　第二段", "第一段\n第二段", {"spaces": 4}),
        ("第一条　总则　　细则", "第一条 总则 细则", {"spaces": 3}),
        ("a\xa0b\u2003c\u202fd", "a b c d", {"spaces": 3}),
        ("    if x:\n\treturn", "    if x:\n\treturn", {}),
        ("零\u200b宽\ufeff记\u00ad号\u200e\u2066", "零宽记号", {"invisible": 5}),
        ("控\x00制\x07字\x1b\x7f\x80\ufffc", "控制字", {"controls": 6}),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧", {}),
        ("क\u094d\u200dष", "क\u094d\u200dष", {}),
        ("中\u200d国 a\u200cb", "中国 ab", {"invisible": 2}),
        ("\u200d中国\u200c", "中国", {"invisible": 2}),
        ("某\ue123字\U000f0000", "某□字□", {"private": 2}),
        ("\ue816\ue864\ue7c7", "\U00020087\u9fbb\u1e3f", {"private": 3}),
        ("甲\ue5e5乙", "甲 乙", {"private": 1, "spaces": 1}),
        ("行尾  \n下一行\t\n末", "行尾\n下一行\n末", {"unpadded": 3}),
        ("\n\n一\n\n\n\n二\n\n", "一\n\n二", {"unpadded": 6}),
        ("e\u200b\u0301", "é", {"invisible": 1, "nfc": 2}),
        ("⼀⽅⻓⻅，⺮", "一方长见，⺮", {"radicals": 4}),
        ("\uf900\U0002f800", "豈丽", {"nfc": 2}),
        ("题︵注︶﹐甲﹔乙︰｢丙｣｡", "题（注），甲；乙：「丙」。", {"forms": 8}),
        ("ﬁle eﬀect", "file effect", {"ligatures": 2}),
        ("ｶﾞﾝﾀﾞﾑ", "ガンダム", {"kana": 6}),
        ("葛\U000e0100飾\ufe00", "葛飾", {"selectors": 2}),
        ("❤\ufe0f 1\ufe0f\u20e3", "❤\ufe0f 1\ufe0f\u20e3", {}),
        ("\u200b　一", "一", {"invisible": 1, "spaces": 1}),
        ("😀\u200d\u200b中", "😀中", {"invisible": 2}),
        ("坏\ufffd字\ufdd0", "坏\ufffd字", {"controls": 1}),
    ],
)
def test_rules(text: str, expected: str, changed: dict[str, int]) -> None:
    assert clean(text) == (expected, changed)


def test_rules_that_can_be_left_out() -> None:
    assert clean("Ａ１e\u0301", Cleaner(CleanSettings(nfc=False, half_width=False))) == ("Ａ１e\u0301", {})
    assert clean("Ａ１") == ("A1", {"half_width": 2})


def test_traditional_to_simplified_by_phrase() -> None:
    simple = Cleaner(CleanSettings(convert="t2s"))
    assert clean("乾隆皇帝與乾淨的頭髮", simple) == ("乾隆皇帝与干净的头发", {"converted": 5})
    assert clean("简体字不变", simple) == ("简体字不变", {})


def test_counts_are_of_characters_before_and_after() -> None:
    changed: Counter[str] = Counter()
    text, before, after = CLEAN("　中\ue123\ufffd Ａ\n\n\n\n〇𠮷々", changed)
    assert text == "中□\ufffd A\n\n〇𠮷々"
    assert before == (13, 4, 6, 2)
    assert after == (len(text), 4, 3, 1)


messy = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(
            "\r\n\t \u3000\xa0\u200b\u200d\u200c\ufeff\ue5e5\ue123中Ａ１,，a1😀\u0301\u2028\x00\ufffd\ufdd0"
        ),
    ),
    max_size=60,
)


@given(messy)
@settings(max_examples=500, deadline=None)
def test_cleaning_twice_changes_nothing_more_and_leaves_nothing_unwanted(text: str) -> None:
    once, _ = clean(text)
    twice, changed = clean(once)
    assert twice == once
    assert not changed
    assert not any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in once)
    assert not any(unicodedata.category(char) == "Co" for char in once)
    assert "\n\n\n" not in once
    assert once == once.rstrip()


@given(st.text(st.sampled_from("中文字，。！？“”（）【】、；：\n 1a"), max_size=80))
@settings(max_examples=100, deadline=None)
def test_ordinary_chinese_keeps_every_visible_character_but_repeated_marks(text: str) -> None:
    def visible(part: str) -> str:
        return re.sub(r"([，。！？；、：])\1+", r"\1", re.sub(r"\s", "", part).replace("…", "。"))

    assert visible(clean(text)[0]) == visible(text)


def test_a_long_document_of_odd_characters_takes_linear_time() -> None:
    for part in ("　", " ", "\u200d中", "\t \n", "\ue5e5", "\r", "Ａ"):
        clean(part * 300_000)
