"""Conversions are OpenCC's own; `auto` chooses by the document."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import opencc
import pytest

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.cleaning.convert import convert, detect
from hanmo.corpus.settings import CleanSettings, Conversion

TRADITIONAL = (
    "乾隆皇帝與乾淨的頭髮，後來他們在網絡上討論臺灣的電腦與滑鼠，說這裡著實很漂亮。\n皇后與王后，茶几上的麵條。"
)
SIMPLIFIED = (
    "乾隆皇帝与干净的头发，后来他们在网络上讨论台湾的电脑与鼠标，说这里着实很漂亮。\n皇后与王后，茶几上的面条。"
)


@pytest.mark.parametrize("name", [name for name in get_args(Conversion) if name not in ("none", "auto")])
def test_as_opencc_does(name: Conversion) -> None:
    for text in (TRADITIONAL, SIMPLIFIED):
        assert Cleaner(CleanSettings(convert=name))(text, Counter())[0] == opencc.OpenCC(name).convert(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("簡體字不變，這是普通的繁體中文文章，沒有地方詞語。", "t2s"),
        ("這個軟體可以透過網路下載，請使用滑鼠點選檔案，並檢查硬碟與記憶體。", "tw2sp"),
        ("佢哋喺度食嘢，冇人知道點解，咁樣嘅事情真係少見。", "hk2s"),
        (SIMPLIFIED, "none"),
        ("简体文章里引用了一句：「學而時習之」，然后继续用简体字说明这句话的意思和来历。", "none"),
        ("これは日本語の文章です。漢字も仮名も使います。東京の電車は便利です。", "none"),
        ("English only", "none"),
        ("", "none"),
    ],
)
def test_detected(text: str, expected: str) -> None:
    assert detect(text) == expected


def test_auto_converts_what_it_detects() -> None:
    taiwan = "這個軟體可以透過網路下載，請使用滑鼠點選檔案，並檢查硬碟與記憶體。"
    assert convert(taiwan, "auto") == opencc.OpenCC("tw2sp").convert(taiwan)
    japanese = "これは日本語の文章です。漢字も仮名も使います。"
    assert Cleaner(CleanSettings(convert="auto"))(japanese, Counter())[0] == japanese
