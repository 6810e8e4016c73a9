"""What every character is, for judging a text: script, function, frequency; counted for a whole document at once.

A table over the basic plane gives each code point a small class number; characters that no judge tells apart share one.
Counting the classes of a document (one look-up and one `bincount`) gives every figure that is a sum over characters,
as a product with a small matrix. Sets of characters come from the standard character sets that Python knows:

* common Han: level 1 of GB 2312 (3,755 simplified) or of Big5 (5,401 traditional); all other Han count as rare. Text
  that was decoded wrongly (锟斤拷, 鐨勪竴) is full of rare ones;
* simplified alone: in GB 2312 and not in Big5; traditional alone: the reverse;
* Japanese alone: in JIS X 0208 and in neither of these (図, 気, 働).
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np

from hanmo.corpus.clean import HAN_RANGES

#: Columns of the matrix, in their order. A character may count in several.
NAMES = (
    "han", "kana", "hangul", "latin", "cyrillic", "letter", "digit", "space", "newline", "end", "ellipsis", "separator",
    "punctuation", "symbol", "traditional", "simplified", "japanese", "rare", "stop", "register", "bullet", "closing",
)  # fmt: skip
COLUMN = {name: index for index, name in enumerate(NAMES)}

#: Characters that end a sentence, and those that divide the items of a list.
ENDS = "。！？!?…．"
SEPARATORS = "、，,;；|｜/／·•・+＋_\t"
#: Characters that begin an item of a list, and those that close a line which is finished.
BULLETS = "•‣▶◀◦■□▪▫–*-·●○◆◇★☆→►"
CLOSINGS = ENDS + ";；:：”’」』）)》]】\"'"
#: The most frequent function characters of modern and of classical Chinese: any text of sentences has them.
STOP = (
    "的一是不了在有人我他她它这个们中上到说时要就出会可也你对而那得于着下自之过后里所然么经去如都同没还其些样但因只从想以"
    "与为者曰乃则无故皆亦若此何及矣焉哉乎夫使令由被把让给很太最又再吗吧呢啊和或且并等将已未每各向往至"
)
#: How much a share of 1 of a character adds to the evidence for classical Chinese (logistic regression on single
#: characters; see benchmarks/quality.py for what it reaches). Topical characters were kept out of the fit.
_REGISTER = (
    "风48 末46 儿38 宜30 则29 无27 似26 甚25 你24 皆23 谁23 欲22 归22 故21 两20 莫17 今17 须17 犹17 "
    "曰16 亦16 尽16 诸16 也15 乃15 其15 我13 者13 独13 之13 名13 未12 那11 谓11 及11 三10 若9 明9 内9 "
    "以9 至8 便8 还8 相7 几7 更7 每6 言6 里5 新5 自4 平3 不3 何2 数2 子-1 事-1 与-1 一-2 为-2 而-3 经-3 "
    "中-3 上-3 方-4 时-4 如-4 太-4 年-4 流-5 将-5 天-5 行-5 同-5 使-5 分-6 于-6 从-6 直-7 所-7 常-7 "
    "才-8 各-8 十-8 物-8 把-8 信-8 又-9 字-9 化-9 先-9 下-9 或-10 有-10 人-10 令-11 看-11 大-11 类-11 "
    "些-11 出-11 长-11 去-12 着-12 后-12 且-12 通-12 边-12 日-12 实-12 好-13 号-13 关-13 做-13 "
    "向-13 用-13 原-13 当-13 表-13 发-13 呢-13 再-14 体-14 并-14 集-14 点-15 意-15 可-15 作-15 "
    "公-15 力-15 该-16 种-16 交-16 然-16 器-16 是-16 请-16 式-16 它-16 往-16 让-17 开-17 系-17 "
    "但-17 等-17 应-17 因-17 想-17 程-18 决-18 认-18 都-18 需-18 来-18 能-18 法-19 告-19 此-19 "
    "放-19 建-19 统-19 特-19 部-20 求-20 规-20 包-20 据-20 单-20 第-20 地-20 代-21 加-21 次-21 "
    "什-21 查-21 区-22 备-22 给-22 件-22 机-22 位-22 道-22 级-22 个-22 会-22 过-23 计-23 起-23 "
    "员-23 样-23 这-23 叫-24 管-24 选-24 没-24 全-25 业-25 报-25 保-26 面-27 只-27 命-27 提-27 "
    "对-27 定-28 接-28 条-28 打-28 回-28 果-28 务-29 进-30 么-30 理-31 现-32 动-32 很-33 在-33 "
    "设-34 和-40 就-42 要-44 被-44 们-47 他-49 说-60 到-68 了-72 的-109 "
)
#: The constant of that regression.
REGISTER_BIAS = 3.8
#: All code points above the basic plane count as one of two: Han of the extensions, or a symbol (emoji).
_BEYOND_HAN, _BEYOND = 0x10000, 0x10001


class Table(NamedTuple):
    """Classes of characters."""

    classes: np.ndarray  # [0x10002] uint16: the class of every code point (see `classes_of`)
    matrix: np.ndarray  # [classes, len(NAMES)] float64: what a character of a class adds to every column
    newline: int  # the class of \n
    letters: np.ndarray  # [classes] bool: letters, digits and Han


def register_weights() -> dict[str, int]:
    """The weight of every character that tells classical from modern Chinese."""
    return {item[0]: int(item[1:]) for item in _REGISTER.split()}


@cache
def table() -> Table:
    """The table, made once a process (about 0.2 s)."""
    values = np.zeros((0x10002, len(NAMES)), np.float32)

    def mark(name: str, codes: object, value: float = 1.0) -> None:
        values[codes, COLUMN[name]] = value  # type: ignore[index]

    for code in range(0x10000):
        kind = unicodedata.category(chr(code))
        if kind[0] == "L" or kind[0] == "M":
            mark("letter", code)
        elif kind[0] == "N":
            mark("digit", code)
        elif kind[0] == "P":
            mark("punctuation", code)
        elif kind[0] == "S":
            mark("symbol", code)
        elif kind == "Zs" or code in (9, 10):
            mark("space", code)
    for first, last in HAN_RANGES:
        if first < 0x10000:
            values[first : last + 1] = 0
            mark("han", slice(first, last + 1))
    values[0x3041:0x3097] = values[0x30A1:0x30FB] = 0
    mark("kana", [*range(0x3041, 0x3097), *range(0x30A1, 0x30FB), 0x30FC, *range(0xFF66, 0xFF9E)])
    mark("hangul", [*range(0xAC00, 0xD7A4), *range(0x1100, 0x1200), *range(0x3131, 0x318F)])
    mark("latin", [*range(0x41, 0x5B), *range(0x61, 0x7B), *range(0xC0, 0xD7), *range(0xD8, 0xF7), *range(0xF8, 0x250)])
    mark("latin", range(0x1E00, 0x1F00))
    mark("cyrillic", range(0x400, 0x530))
    mark("newline", 10)
    mark("end", _codes(ENDS))
    mark("ellipsis", ord("…"))
    mark("separator", _codes(SEPARATORS))
    mark("bullet", _codes(BULLETS))
    mark("closing", _codes(CLOSINGS))
    mark("stop", _codes(STOP))

    level1, gb2312 = _charset("gb2312", range(0xB0, 0xD8)), _charset("gb2312", range(0xB0, 0xF8))
    frequent, big5 = _charset("big5", range(0xA4, 0xC7)), _charset("big5", [*range(0xA4, 0xC7), *range(0xC9, 0xFA)])
    jis = _charset("euc_jp", range(0xB0, 0xF5))
    mark("rare", (values[:, COLUMN["han"]] > 0).nonzero()[0])
    mark("rare", _codes(level1 | frequent | {"〇", "々"}), 0.0)
    mark("simplified", _codes(gb2312 - big5))
    mark("traditional", _codes(big5 - gb2312))
    mark("japanese", _codes(jis - gb2312 - big5))
    weights = register_weights()
    simple = _simplified(sorted(big5 - gb2312))
    for char, form in simple.items():
        values[ord(char), COLUMN["stop"]] = float(form in STOP)
        weights.setdefault(char, weights.get(form, 0))
    for char, weight in weights.items():
        mark("register", ord(char), weight)
    mark("han", _BEYOND_HAN)
    mark("rare", _BEYOND_HAN)
    mark("symbol", _BEYOND)
    kinds: dict[bytes, int] = {}
    classes = np.array([kinds.setdefault(row.tobytes(), len(kinds)) for row in values], np.uint16)
    matrix = np.frombuffer(b"".join(kinds), np.float32).reshape(-1, len(NAMES)).astype(np.float64)
    counted = [COLUMN[name] for name in ("han", "kana", "hangul", "latin", "letter", "digit")]
    letters = matrix[:, counted].sum(1) > 0
    return Table(classes, matrix, int(classes[10]), letters)


def _codes(chars: object) -> list[int]:
    return [ord(char) for char in chars]  # type: ignore[attr-defined]


def _charset(codec: str, rows: object) -> set[str]:
    """The Han characters in the rows (first bytes) of a double-byte character set."""
    found = set()
    for row in rows:  # type: ignore[attr-defined]
        for cell in range(0x40, 0xFF):
            char = bytes((row, cell)).decode(codec, "ignore")
            if len(char) == 1 and "\u3400" <= char <= "\u9fff":
                found.add(char)
    return found


def _simplified(chars: list[str]) -> dict[str, str]:
    import opencc

    converter = opencc.OpenCC("t2s")
    return dict(zip(chars, converter.convert("\n".join(chars)).split("\n"), strict=True))


def codes_of(text: str) -> np.ndarray:
    """The code points of a text, [chars] uint32."""
    return np.frombuffer(text.encode("utf-32-le", "replace"), "<u4")


def classes_of(codes: np.ndarray) -> np.ndarray:
    """The class of every character, [chars] uint16."""
    if len(codes) and codes.max() > 0xFFFF:
        han = (codes >= 0x20000) & (codes <= 0x3347F)
        codes = np.where(codes > 0xFFFF, np.where(han, _BEYOND_HAN, _BEYOND), codes)
    return table().classes.take(codes)


def sums(classes: np.ndarray) -> dict[str, float]:
    """What the characters add up to in every column, by its name."""
    matrix = table().matrix
    return dict(zip(NAMES, (np.bincount(classes, minlength=len(matrix)) @ matrix).tolist(), strict=True))
