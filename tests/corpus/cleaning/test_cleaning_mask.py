"""Personal data by marks; other numbers stay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.cleaning.mask import valid_bank_card, valid_id_card
from hanmo.corpus.settings import CleanSettings

KINDS: list[Any] = ["phone", "id_card", "bank_card", "email", "ip", "address"]
MASK = Cleaner(CleanSettings(mask=KINDS))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("打13812345678找我", "打<电话>找我"),
        ("+86 138 1234 5678，（0755）26001234，010-67389898", "<电话>，<电话>，<电话>"),
        ("热线400-820-8820和95588", "热线<电话>和95588"),
        ("身份证号11010519491231002X", "身份证号<身份证号>"),
        ("卡号6222 0212 3456 7890 128，又4539148803436467", "卡号<银行卡号>，又<银行卡号>"),
        ("写信给 zhang.san@example.com.cn。", "写信给 <邮箱>。"),
        ("服务器 8.134.56.7 和 2607:f2c0:f00f:2700:216:3eff:fef2:aff4", "服务器 <IP地址> 和 <IP地址>"),
        ("我住在广东省深圳市南山区科技园路12号3栋502室，靠山", "我住在<地址>，靠山"),
        ("北京市海淀区中关村大街27号", "<地址>"),
    ],
)
def test_masked(text: str, expected: str) -> None:
    once = MASK(text, Counter())[0]
    assert once == expected
    assert MASK(once, changed := Counter())[0] == once
    assert not changed


@pytest.mark.parametrize(
    "text",
    [
        "编号110105194912310021和110105194913310028",  # a wrong check digit, a thirteenth month
        "时间戳434693927394607136和6222021234567890129",
        "订单12345678901，哈希a13812345678b，比特15597568000000",
        "127.0.0.1、192.168.1.1、255.255.255.0、版本1.2.3.4",
        "git@gitlab.com:a/b，图片 icon@2x.png，@张三",
        "上海地铁2号线，第12号公路，中山路的风景",
    ],
)
def test_not_masked(text: str) -> None:
    assert MASK(text, Counter())[0] == text


def test_styles_and_choice() -> None:
    text = "电话13812345678，a@b.cn"
    assert Cleaner(CleanSettings(mask=["phone"], mask_style="tag"))(text, Counter())[0] == "电话[PHONE]，a@b.cn"
    changed: Counter[str] = Counter()
    assert Cleaner(CleanSettings(mask=KINDS, mask_style="stars"))(text, changed)[0] == "电话***********，*@*.**"
    assert changed == {"mask_phone": 1, "mask_email": 1}
    assert Cleaner(CleanSettings())(text, Counter())[0] == text


def test_check_digits() -> None:
    assert valid_id_card("11010519491231002X") and valid_id_card("440524188001010014")
    assert not valid_id_card("110105194912310021")
    assert not valid_id_card("990105194912310025")
    assert valid_bank_card("4111 1111 1111 1111") is False  # too few different digits to be somebody's
    assert valid_bank_card("6222021234567890128")
