"""The rules, each on a text that breaks it and on texts that must pass."""

from __future__ import annotations

import pydoc_data.topics
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.quality import repetition, rules_en
from hanmo.corpus.quality.judge import Judge, Verdict
from hanmo.corpus.quality.page import Page
from hanmo.corpus.quality.settings import EnglishRules
from hanmo.corpus.settings import CleanSettings, CorpusSettings, QualitySettings, Source

PROSE = (
    "清晨的山路上还没有什么人，只有几个挑着菜的农民从雾里走出来。我们沿着小河往上走，听见水声越来越大。"
    "转过一道弯，瀑布就在眼前了，白花花的一片，好像谁把一匹布挂在了崖上。老人说，他小时候常来这里洗澡，"
    "如今腿脚不便，一年也上不来一回。他坐在石头上抽烟，看着我们拍照，脸上带着笑。"
)
VERSE = ("青白高", "远近孤", "春秋寒", "江湖晚", "东西北", "朝暮流")
POEM = "".join(f"{a}山{b}水{c}云间，{b}树{a}花{c}月圆。\n" for a, b, c in VERSE)
ARTICLES = (
    ("一", "县级以上人民政府", "安全生产工作"),
    ("二", "生产经营单位", "从业人员的培训"),
    ("三", "有关部门", "举报的事项"),
    ("四", "任何单位和个人", "违反规定的行为"),
    ("五", "监督检查人员", "执行公务的情况"),
    ("六", "行业协会", "会员的经营活动"),
)
LAW = "".join(f"第{n}条　{a}应当依照本法的规定，对{b}进行监督管理。\n" for n, a, b in ARTICLES)
SPEECH = "甲：好的。\n乙：行！\n" * 3
RARE = "鐨勪竴闃熶汉鍦ㄨ繖鎴戜滑"
CYCLE = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥"
ENGLISH = (
    "The river rises in the hills to the north of the town and runs for about forty miles before it meets the sea. "
    "Along its banks there are several villages with old mills, most of which have been turned into houses. In spring "
    "the water is high and people come to watch the salmon leap at the weir. There is a small museum that tells the "
    "story of the mills, and a path that walkers can follow all the way from the source to the mouth.\n"
)


def judge(text: str, **settings: Any) -> Verdict:
    text, before, after = Cleaner(CleanSettings())(text, Counter())
    return Judge(QualitySettings.model_validate(settings))(text, before, after)


def shuffled(text: str, seed: int = 1) -> str:
    chars = list(text)
    random.Random(seed).shuffle(chars)
    return "".join(chars)


KEYWORDS = (
    "手机 电脑 相机 耳机 键盘 鼠标 音箱 平板 显卡 硬盘 内存 主板 风扇 电源 机箱 路由器 投影仪 打印机 充电器 数据线"
)


@pytest.mark.parametrize("text", [PROSE, PROSE * 2, POEM, LAW, "短的句子，也是句子。", SPEECH, ENGLISH])
def test_good_text_passes(text: str) -> None:
    assert judge(text, min_han=0).reason == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (KEYWORDS * 3, "keyword_list"),
        (KEYWORDS.replace(" ", "、") * 3, "keyword_list"),
        (shuffled(KEYWORDS.replace(" ", "") * 3), "few_stop"),
        ("".join(a + b for a, b in zip(PROSE, RARE * 99, strict=False)), "rare_characters"),
        ("我们的" * 100, "top_ngram"),
        (PROSE * 12, "repeated_ngrams"),
        ("本页内容加载中请稍候再试一次\n" * 40 + PROSE.replace("。", "。\n"), "repeated_lines"),
        (PROSE[:60] + "1234567 " * 40, "digits"),
        (PROSE[:60] + "★☆→" * 40, "symbols"),
        ("\n".join(f"首页{n}\n登录{n}\n注册{n}\n更多" for n in range(20)), "short_lines"),
        ("".join(f"● 这是第{n}项而我们说的是{a}\n" for n, a in enumerate(CYCLE)), "bullets"),
        ("".join(f"他在{a}里看见了{b}，于是就…\n" for a in "山水田园村" for b in "花鸟鱼虫兽"), "ellipsis"),
        (PROSE.translate(str.maketrans("，。", "  ")) * 5, "no_sentences"),
    ],
)  # fmt: skip
def test_each_rule_rejects_what_it_is_for(text: str, reason: str) -> None:
    limits = {"zh": {"max_repeated": {5: 0.75}}} if reason == "repeated_ngrams" else {}
    if reason in ("no_sentences", "keyword_list", "few_stop"):
        limits = {"zh": {"max_repeated": {}}}
    if reason in ("short_lines", "repeated_lines"):
        limits = {"zh": {"min_prose": 0, "min_stop": 0, "max_repeated": {}}}
    found = judge(text, min_han=0, **limits)
    assert found.reason == reason, found
    assert any(char.isdigit() for char in found.detail), "the number and the limit"


def test_turning_rules_off() -> None:
    assert judge("我们的" * 100).reason == "top_ngram"
    assert judge("我们的" * 100, zh={"max_top": {}, "max_repeated": {}}).reason == ""
    assert judge("我们的" * 100, rules=False).reason == ""


def test_dictionary_words() -> None:
    pytest.importorskip("jieba")
    assert judge(PROSE, zh={"min_words": 0.4}).reason == ""
    assert judge(shuffled(PROSE), zh={"min_words": 0.4}).reason == "few_words"
    assert judge(shuffled(PROSE)).reason == ""


def test_languages_and_registers() -> None:
    classical = "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？"
    assert judge(classical, registers=["modern"]).reason == "register"
    assert judge(PROSE, registers=["modern"]).reason == ""
    assert judge(ENGLISH * 2).reason == "low_han"
    assert judge(ENGLISH, languages=["zh"]).reason == "language"
    assert judge(ENGLISH, languages=["en"]).reason == ""
    assert judge(PROSE, languages=["en"]) == Verdict(
        "language",
        "looks like zh (1.00 of it), not among languages en",
        {"lang": "zh", "register": "modern", "script": "Hans"},
    )
    assert judge(ENGLISH, languages=["zh", "en"]).meta == {"lang": "en"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The cat and the dog have been to the park.", "few_words"),
        (ENGLISH.replace(" ", " # "), "symbols"),
        ("a b c d e of to " * 20, "word_length"),
        ("and 1234 3456 5678 7890 the 91011 " * 20, "few_letters"),
        ("lorem ipsum dolor sit amet the of and to be with " * 8, "placeholder"),
        ("".join(f"- {line}\n" for line in ENGLISH.split(". ")) * 3, "bullets"),
        (ENGLISH.replace(".", ""), "line_ends"),
        ("".join(f"And the end of chapter {n}.\n" for n in range(60)), "short_lines"),
        (ENGLISH * 4, "repeated_lines"),
        ("We sell the best shoes of all. " * 30, "top_ngram"),
    ],
)
def test_english_rules(text: str, reason: str) -> None:
    assert rules_en.fault(Page(text.strip()), EnglishRules())[0] == reason


def test_english_rules_are_gopher_s(monkeypatch: pytest.MonkeyPatch) -> None:
    quality = pytest.importorskip("datatrove.pipeline.filters.gopher_quality_filter")
    from datatrove.data import Document
    from datatrove.pipeline.filters import gopher_repetition_filter as theirs

    monkeypatch.setattr(quality, "split_into_words", lambda text, language: text.split())
    rules = EnglishRules(placeholder=False, min_line_ends=0, max_short_lines=1, max_line_ratio=9, max_repeated_lines=1)
    gopher = quality.GopherQualityFilter()
    compared = 0
    for text in pydoc_data.topics.topics.values():
        text = "\n".join(line.strip() for line in text.split("\n") if line.strip())
        words = text.split()
        if len(words) < 50:
            continue
        compared += 1
        verdict = gopher.filter(Document(text=text, id="x"))
        alone = rules.model_copy(update={"max_top": {}, "max_repeated": {}})
        assert (rules_en.fault(Page(text), alone)[0] == "") == (verdict is True), verdict
        for size in (2, 3, 4):
            share = theirs.find_top_duplicate(theirs.get_n_grams(words, size)) / len(text)
            for limit, broken in ((share * 1.01, False), (share * 0.99, True)):
                mine = alone.model_copy(update={"max_top": {size: limit}})
                found = rules_en.fault(Page(text), mine)[0]
                assert (found == "top_ngram") == broken or verdict is not True
        for size in (5, 10):
            share = theirs.find_all_duplicate(words, size) / len(text)
            for limit, broken in ((share * 1.01 + 1e-9, False), (share * 0.99, share > 0)):
                mine = alone.model_copy(update={"max_repeated": {size: limit}})
                found = rules_en.fault(Page(text), mine)[0]
                assert (found == "repeated_ngrams") == broken or verdict is not True
    assert compared > 50


def brute(text: str, size: int) -> tuple[float, float]:
    grams = [text[i : i + size] for i in range(len(text) - size + 1)]
    return Counter(grams).most_common(1)[0][1] * size / len(text), 1 - len(set(grams)) / len(grams)


@given(st.text(alphabet="甲乙丙丁", min_size=12, max_size=300), st.sampled_from([1, 2, 3, 5, 10]))
def test_repetition_is_what_counting_gives(text: str, size: int) -> None:
    parts = [np.array([ord(char) for char in text], np.uint32)]
    top, repeated = brute(text, size)
    found = repetition.fault(parts, {size: 0.0}, {})
    assert found is not None and found[:2] == ("top", size) and found[2] == pytest.approx(min(1.0, top))
    found = repetition.fault(parts, {}, {size: 0.0})
    assert (found[2] if found else 0.0) == pytest.approx(repeated)
    for limit in (0.1, 0.4, 0.8):
        assert (repetition.fault(parts, {size: limit}, {}) is not None) == (top > limit)
        assert (repetition.fault(parts, {}, {size: limit}) is not None) == (repeated > limit)


def test_long_documents_are_judged_by_blocks() -> None:
    symbols = np.arange(repetition.BLOCK * 50 + 7, dtype=np.uint32)
    found = repetition.blocks(symbols)
    assert len(found) == repetition.BLOCKS and all(len(part) == repetition.BLOCK for part in found)
    assert sum(map(len, repetition.blocks(symbols[: repetition.BLOCK * 3 + 5]))) == repetition.BLOCK * 3 + 5
    # What comes again only in another block is no repetition.
    twice = np.concatenate([symbols[: repetition.BLOCK]] * 2)
    assert repetition.fault(repetition.blocks(twice), {}, {5: 0.01}) is None


def test_sources_override_single_rules() -> None:
    settings = CorpusSettings(
        quality=QualitySettings.model_validate({"zh": {"min_stop": 0.01, "max_rare": 0.5}}),
        sources=[Source(path="a", quality={"zh": {"max_rare": 0.9}, "languages": ["en"]})],
    )
    found = settings.quality_of(settings.sources[0])
    assert (found.zh.min_stop, found.zh.max_rare, found.languages) == (0.01, 0.9, ["en"])
    with pytest.raises(ValueError, match="give n from 1 to 20"):
        QualitySettings.model_validate({"zh": {"max_top": {0: 0.5}}})
