"""Text read in a wrong encoding: repaired where it is provable, left alone where it is not."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.cleaning import mojibake
from hanmo.corpus.settings import CleanSettings

CLEAN = Cleaner(CleanSettings())
TEXT = "今天天气很好，我们一起去公园散步"


def clean(text: str) -> str:
    return CLEAN(text, Counter())[0]


def windows(data: bytes) -> str:
    """As Windows-1252 reads bytes, the five that it leaves out as Latin-1 does."""
    return "".join(bytes((byte,)).decode("cp1252", "ignore") or chr(byte) for byte in data)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("浣犲ソ", "你好"),
        ("前面是好的\n浣犲ソ锛屼笘鐣\n后面", "前面是好的\n你好，世�\n后面"),
        (windows("你好".encode()), "你好"),
        ("你好".encode().decode("latin-1"), "你好"),
        ("cafÃ© in SÃ£o TomÃ©", "café in São Tomé"),
        ("ÄãºÃ", "你好"),
        ("标题：ÄãºÃ£¬ÊÀ½ç¡£", "标题：你好，世界。"),
        (TEXT.encode().decode("gb18030"), TEXT),
        (windows(TEXT.encode()), TEXT),
        (windows(TEXT.encode("gbk")), TEXT),
        (TEXT.encode().decode("latin-1").encode().decode("latin-1"), TEXT),
        (windows(windows(TEXT.encode()).encode()), TEXT),
    ],
)
def test_repaired(wrong: str, right: str) -> None:
    changed: Counter[str] = Counter()
    assert CLEAN(wrong, changed)[0] == right
    assert changed["mojibake"] > 0


@pytest.mark.parametrize(
    "text",
    [
        "café, naïve, Ærøskøbing, ÀÉÈ, Ünlü, ÅÄÖ åäö",
        "字母表：ÀÁÂÃÄÅÆÇÈÉÊË",
        "价格 ××××，角度 ±5°，面积 3²×4²，¼ ½ ¾",
        "«Привет» 与 «мир»",
        "涓涓细流，横滨与京浜，浠水县，鐘鏡鐵",
        "乾隆鏡鑒，鐘鼎彝器，錦繡山河，鎖鑰門戶",
        "联通",
        "¿Qué? ¡Olé!",
        "“引号”‘引号’——……",
    ],
)
def test_left_alone(text: str) -> None:
    assert CLEAN(text, changed := Counter())[0] == text
    assert not changed


def test_what_cannot_be_repaired_is_damage_and_stays() -> None:
    text, before, _ = CLEAN("手持两把锟斤拷，口中疾呼烫烫烫烫。", Counter())
    assert text == "手持两把锟斤拷，口中疾呼烫烫烫烫。"
    assert before.damaged == 7
    assert CLEAN("烫烫的水，屯屯", Counter())[1].damaged == 0


def test_what_is_repaired_is_no_damage() -> None:
    wrong = TEXT.encode("gbk").decode("latin-1")
    assert CLEAN(wrong, Counter())[1].damaged == 0


def test_can_be_left_out() -> None:
    kept = Cleaner(CleanSettings(mojibake=False))
    assert kept("浣犲ソ", Counter())[0] == "浣犲ソ"


@given(
    st.text(
        st.sampled_from("的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家"),
        min_size=8,
    )
)
@settings(max_examples=200, deadline=None)
def test_every_strict_reading_of_common_text_comes_back(text: str) -> None:
    for wrong in (windows(text.encode()), text.encode().decode("latin-1")):
        assert mojibake.repair(wrong) == text


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_repairing_twice_changes_nothing_more(text: str) -> None:
    once = mojibake.repair(text)
    assert mojibake.repair(once) == once
