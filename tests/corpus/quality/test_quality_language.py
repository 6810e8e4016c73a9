"""Language, register and script, on literal text; and on real text where it is at hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from hanmo.corpus.quality.characters import NAMES, REGISTER_BIAS, classes_of, codes_of, register_weights, sums
from hanmo.corpus.quality.language import Language, identify
from hanmo.files import read_jsonl


def told(text: str) -> Language:
    return identify(sums(classes_of(codes_of(text))), text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("今天天气很好，我们去公园里散步了。", "zh"),
        ("我們昨天在圖書館裡讀了兩個小時的書。", "zh"),
        ("機能を追加する方法について説明します。", "ja"),
        ("図書館の気温と労働時間", "ja"),
        ("全国労働組合総連合会図書館発行", "ja"),  # no kana, but characters that only Japanese has
        ("日本动画《ドラえもん》在一九七〇年代开始播出，后来被译成许多种语言，也深受中国的孩子们喜爱。", "zh"),
        ("오늘은 날씨가 좋아서 공원에 갔습니다.", "ko"),
        ("The history of the city is told in the books of its library.", "en"),
        ("La ville est située dans le sud du pays et elle est connue pour son port.", "fr"),
        ("Die Stadt liegt im Süden des Landes und ist für ihren Hafen bekannt.", "de"),
        ("La ciudad está en el sur del país y es conocida por su puerto.", "es"),
        ("Город расположен на юге страны и известен своим портом.", "und-Cyrl"),
        ("مرحبا بكم في المكتبة العامة", "und"),
        ("lorem foo bar baz qux quux", "und-Latn"),
        ("12345 --- 67.8", "und"),
        ("使用 `pip install numpy` 安装，然后在 Python 中 import numpy 就可以开始了。", "zh"),
        ("She said 你好 to the teacher and then went back to her seat in the room.", "en"),
        ("𠀀𠀁𠀂的是了", "zh"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert told(text).name == language


@pytest.mark.parametrize(
    ("text", "register"),
    [
        ("学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？", "classical"),
        ("先帝創業未半，而中道崩殂。今天下三分，益州疲弊，此誠危急存亡之秋也。", "classical"),
        ("孔子说，学习了又时常温习和练习，不是很愉快的吗？有朋友从远方来，不是很高兴的吗？", "modern"),
        ("各级人民政府应当加强对环境保护工作的领导，并且将其纳入发展计划。", "modern"),
        ("我們到了那裡以後，才知道他已經走了。", "modern"),
    ],
)
def test_register(text: str, register: str) -> None:
    assert told(text).register == register


def test_script() -> None:
    assert told("汉语书籍").script == "Hans"
    assert told("漢語書籍").script == "Hant"
    assert told("山水日月").script == ""
    assert told("hello").meta == {"lang": "und-Latn"}
    assert told("汉语书籍里的字").meta == {"lang": "zh", "register": "modern", "script": "Hans"}


def test_traditional_characters_weigh_as_their_simplified_forms() -> None:
    weights = register_weights()
    for simplified, traditional in (("则", "則"), ("们", "們"), ("这", "這")):
        both = [sums(classes_of(codes_of(char)))["register"] for char in (simplified, traditional)]
        assert both[0] == both[1] == weights[simplified]
    assert REGISTER_BIAS > 0 and weights["的"] < -50 < 10 < weights["曰"]


def test_characters_are_counted_by_what_they_are() -> None:
    found = sums(classes_of(codes_of("图圖図、的1 a\n。…😀鐨")))
    assert set(found) == set(NAMES)
    assert {name: found[name] for name in ("han", "simplified", "traditional", "japanese", "digit", "space")} == {
        "han": 5,
        "simplified": 1,
        "traditional": 2,
        "japanese": 1,
        "digit": 1,
        "space": 2,
    }
    assert found["end"] == 2 and found["symbol"] == 1 and found["separator"] == 1
    assert found["rare"] == 2  # 図 and 鐨 are in neither list of common characters


@pytest.mark.parametrize(
    ("name", "register", "least"),
    [("tcm_classics_zh", "classical", 1.0), ("laws_zh", "modern", 1.0), ("lctt_technews_zh", "modern", 1.0)],
)
def test_real_text_is_told(shared_data: Path, name: str, register: str, least: float) -> None:
    records = itertools.islice(read_jsonl(shared_data / "pretrain" / f"{name}.jsonl.zst"), 100)
    found = [told(record["text"]) for _, record in records]
    assert {language.name for language in found} == {"zh"}
    assert sum(language.register == register for language in found) >= least * len(found)


def test_settings_know_every_name_there_is() -> None:
    from typing import get_args

    from hanmo.corpus.quality.language import _WORDS
    from hanmo.corpus.settings import LanguageName

    assert set(get_args(LanguageName)) == {"zh", "ja", "ko", *_WORDS, "und-Latn", "und-Cyrl", "und"}
