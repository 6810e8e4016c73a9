"""Traditional, simplified and regional Chinese by OpenCC, and which of its conversions a document asks for."""

from __future__ import annotations

import re
from functools import cache

import numpy as np

from hanmo.corpus.cleaning.characters import SIZE, codes_of
from hanmo.corpus.settings import Conversion

#: What a text must show to be taken for traditional: this share of the characters that only one script has.
_SHARE = 0.8
#: Kana above this share of Han and kana together: Japanese.
_KANA = 0.02
#: Words of Taiwan that OpenCC's phrases turn into what is said on the mainland.
_TAIWAN = re.compile(
    "軟體|硬體|網路|網際|資訊|程式|滑鼠|列印|伺服器|硬碟|記憶體|預設|解析度|螢幕|印表機|資料庫|位元|部落格|簡訊|計程車|捷運|影印|雷射|行動電話|"
    "品質|專案|網站管理員|使用者|登入|登出|檔案|資料夾|智慧型|隨身碟|光碟|晶片|數位|類比|公車|腳踏車|泡麵|鳳梨|優酪乳"
)
_HONG_KONG = re.compile("[嘅喺咗嗰冇唔佢哋咁啲嚟乜]|的士|巴士|樓宇|屋邨|衞|説|綫|裏|着")

#: Simplified characters that traditional text has too, for another of their meanings.
_BOTH = (
    "后里干台面谷丑斗范发松余云征制致钟只准冲并布采出当党淀冬范丰刚合划回伙汇几家姜借卷克困夸累帘了蒙弥蔑"
    "朴仆签秋曲洒舍沈术苏它团万系咸向须叶郁御愿岳赞扎占志种周朱筑症"
)


@cache
def _opencc(name: str):
    import opencc

    return opencc.OpenCC(name)


@cache
def _scripts() -> np.ndarray:
    """Which script only has a character [code points] uint8: 1 traditional, 2 simplified, 3 kana, 4 other Han."""
    table = np.zeros(SIZE, np.uint8)
    han = "".join(map(chr, (*range(0x4E00, 0xA000), *range(0x3400, 0x4DC0))))
    # Line by line, so that no phrase is made of neighbours.
    simple = _opencc("t2s").convert("\n".join(han)).split("\n")
    many = _opencc("s2t").convert("\n".join(han)).split("\n")
    for char, to_simple, to_traditional in zip(han, simple, many, strict=True):
        table[ord(char)] = 1 if to_simple != char else 2 if to_traditional != char else 4
    for char in _BOTH:
        if table[ord(char)] == 2:
            table[ord(char)] = 4
    table[0x3041:0x3100] = 3
    table[0x30FB] = 0  # the middle dot of Chinese names
    return table


def detect(text: str) -> Conversion:
    """Which conversion makes a document simplified Chinese of the mainland.

    "none" where it is that already, is Japanese or mixes the scripts; "tw2sp" where words of Taiwan are found, "hk2s"
    where characters of Hong Kong are, and "t2s" for other traditional text. One word proves nothing: several kinds must
    be found.
    """
    tally = np.bincount(_scripts().take(codes_of(text)), minlength=5)
    traditional, simplified, kana = int(tally[1]), int(tally[2]), int(tally[3])
    if traditional < _SHARE * (traditional + simplified) or not traditional:
        return "none"
    han = traditional + simplified + int(tally[4])
    if traditional < 0.03 * han or kana > _KANA * (han + kana):
        return "none"
    taiwan, hong_kong = len(set(_TAIWAN.findall(text))), len(set(_HONG_KONG.findall(text)))
    if taiwan >= 2 and taiwan >= hong_kong:
        return "tw2sp"
    return "hk2s" if hong_kong >= 2 else "t2s"


def convert(text: str, conversion: Conversion) -> str:
    """What OpenCC makes of `text`; "auto" as `detect` says."""
    if conversion == "auto":
        conversion = detect(text)
    return text if conversion == "none" else _opencc(conversion).convert(text)
