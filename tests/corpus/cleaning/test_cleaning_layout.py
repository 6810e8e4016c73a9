"""Entities, repeated punctuation, spaces between Han, half-width punctuation, hard line breaks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.settings import CleanSettings

CLEAN = Cleaner(CleanSettings())


def clean(text: str, **options: Any) -> str:
    return (Cleaner(CleanSettings(**options)) if options else CLEAN)(text, Counter())[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他说&ldquo;你好&rdquo;&mdash;&mdash;真的&#x4f60;&#22909;", "他说“你好”——真的你好"),
        ("甲&nbsp;乙&amp;丙&amp;lt;丁", "甲 乙&丙<丁"),
        ("&nbsp;\n正文", "正文"),
        ("写作 `&nbsp;` 的实体&hellip;", "写作 `&nbsp;` 的实体…"),
        ("```\n甲&lt;乙\n```", "```\n甲&lt;乙\n```"),
        ('s = s.replace("&amp;", "&")', 's = s.replace("&amp;", "&")'),
        ("网址 ?a=1&copy=2;b=3", "网址 ?a=1&copy=2;b=3"),
        ("没有 &nosuch; 也没有 &#0; 的", "没有 &nosuch; 也没有 &#0; 的"),
    ],
)
def test_entities(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("太好了！！！！", "太好了！"),
        ("真的吗？？", "真的吗？？"),
        ("后来。。。。就没有了。。", "后来……就没有了。"),
        ("好，，很好、、非常好；；", "好，很好、非常好；"),
        ("等等…………还有————", "等等……还有——"),
        ("等等……还有——", "等等……还有——"),
        ("——————\n正文\n………………", "——————\n正文\n………………"),
        ("| 甲！！！ | 乙 |", "| 甲！！！ | 乙 |"),
        ("用 `！！！` 强调", "用 `！！！` 强调"),
        ("```\n甲！！！！\n```", "```\n甲！！！！\n```"),
    ],
)
def test_repeated_punctuation(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他说： 你好 ，世界。  再见", "他说：你好，世界。再见"),
        ("你 好 世 界", "你好世界"),
        ("我们 的 国家 是 一个 伟大 的 国家 ，人民 在 这里 生活 。", "我们的国家是一个伟大的国家，人民在这里生活。"),
        ("第一条 为了保护环境，制定本法。", "第一条 为了保护环境，制定本法。"),
        ("北京 上海 广州 深圳", "北京 上海 广州 深圳"),
        ("第七条 《海上交通事故报告书》应当如实填写", "第七条 《海上交通事故报告书》应当如实填写"),
        ("正确的是（  ）", "正确的是（  ）"),
        ("春眠不觉晓 处处闻啼鸟", "春眠不觉晓 处处闻啼鸟"),
        ("使用 Python 和 C 语言。 API 很好", "使用 Python 和 C 语言。 API 很好"),
        ("```\n甲。 乙\n```", "```\n甲。 乙\n```"),
    ],
)
def test_spaces_between_han(text: str, expected: str) -> None:
    assert clean(text) == expected
    padding = "这是一段足够长的文字。" * 300 + "\n"  # long documents are searched otherwise
    assert clean(padding + text) == padding + expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好,世界!真的吗?", "你好，世界！真的吗？"),
        ("注意:他说;然后走了", "注意：他说；然后走了"),
        ("1,000 和 3:2，a,b", "1,000 和 3:2，a,b"),
        ("姓名,年龄,性别,籍贯,职业", "姓名,年龄,性别,籍贯,职业"),
        ("```\n甲,乙\n```", "```\n甲,乙\n```"),
        ("见 http://例子,网址", "见 http://例子，网址"),
    ],
)
def test_half_width_punctuation_if_asked_for(text: str, expected: str) -> None:
    assert clean(text, punctuation=True) == expected
    assert clean(text) == text


def wrapped(width: int = 40) -> str:
    text = "春天到了花园里的花都开了小明和小红一起去公园玩他们看见一只白色的小猫正在树下睡觉" * 9
    return "\n".join(text[at : at + width] for at in range(0, len(text), width))


def test_wrapped_lines_are_joined_if_asked_for() -> None:
    text = f"　　{wrapped()}。\n　　{wrapped()}。"
    assert clean(text, rejoin=True) == "\n".join([wrapped().replace("\n", "") + "。"] * 2)
    assert clean(text).count("\n") > 10


def test_verse_lists_and_code_are_not_joined() -> None:
    verse = "\n".join(["春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"] * 12)
    items = "\n".join(f"- 这是第{n}项，它写得很长很长，为的是和别的项一样宽，宽到几乎要换行了" for n in range(10, 40))
    for text in (verse, items):
        assert clean(text, rejoin=True) == text


@given(st.text(st.sampled_from("的好我， ,。！…—&;nbsp`|\n　a1:"), max_size=80))
@settings(max_examples=400, deadline=None)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    for cleaner in (CLEAN, EVERYTHING):
        once = cleaner(text, Counter())[0]
        changed: Counter[str] = Counter()
        assert cleaner(once, changed)[0] == once
        assert not changed


EVERYTHING = Cleaner(
    CleanSettings(punctuation=True, convert="t2s", mask=["phone", "id_card", "bank_card", "email", "ip", "address"])
)
