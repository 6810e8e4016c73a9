"""Figures of written answers against definitions worked out here, other implementations and cases known by hand."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from hanmo.evaluate import variety
from hanmo.evaluate.generation import checks, overlap
from hanmo.evaluate.generation.measures import Measure, differences, figures, mean, precision_recall_f1, share


def values(measures: dict[str, Measure]) -> dict[str, float]:
    return {name: float(one.total(one.sums.sum(axis=0))) for name, one in measures.items()}


def f_of_grams(text: list[str], reference: list[str], size: int) -> float:
    """ROUGE-N's F by its definition."""
    a, b = (Counter(tuple(units[at : at + size]) for at in range(len(units) - size + 1)) for units in (text, reference))
    hits = (a & b).total()
    return 2 * hits / (a.total() + b.total()) if hits else 0.0


def f_of_common(text: list[str], reference: list[str]) -> float:
    """ROUGE-L's F by its definition: the longest common subsequence."""

    @cache
    def longest(at: int, other: int) -> int:
        if at == len(text) or other == len(reference):
            return 0
        if text[at] == reference[other]:
            return 1 + longest(at + 1, other + 1)
        return max(longest(at + 1, other), longest(at, other + 1))

    return 2 * longest(0, 0) / (len(text) + len(reference)) if text and reference else 0.0


TEXTS = st.text(alphabet="甲乙丙丁 a", max_size=10)


@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=2)), min_size=1, max_size=4))
def test_rouge_and_bleu_by_characters(rows: list[tuple[str, list[str]]]) -> None:
    texts, references = [text for text, _ in rows], [several for _, several in rows]
    found = values(overlap.measures(texts, references))
    cut = overlap.characters
    for name, size in (("rouge_1", 1), ("rouge_2", 2)):
        best = [max(f_of_grams(cut(text), cut(one), size) for one in several) for text, several in rows]
        assert found[name] == pytest.approx(np.mean(best))
    best = [max(f_of_common(cut(text), cut(one)) for one in several) for text, several in rows]
    assert found["rouge_l"] == pytest.approx(np.mean(best))
    # One reference each, so that the whole corpus can be given to sacreBLEU itself.
    single = values(overlap.measures(texts, [several[:1] for several in references]))["bleu_4"]
    spaced = [" ".join(cut(text)) for text in texts]
    other = sacrebleu.corpus_bleu(spaced, [[" ".join(cut(several[0])) for several in references]], tokenize="none")
    assert single == pytest.approx(other.score / 100)


def test_bleu_of_one_text_is_that_of_variety() -> None:
    text, reference = "小猫在花园里睡觉", "一只小猫在花园的树下睡觉"
    assert values(overlap.measures([text], [[reference]]))["bleu_4"] == pytest.approx(variety.bleu(text, [reference]))


def test_words_are_jieba_s() -> None:
    found = values(overlap.measures(["今天天气很好"], [["今天天气不好"]]))
    assert overlap.words("今天天气 很好") == ["今天天气", "很", "好"]
    assert found["rouge_1_words"] == pytest.approx(
        f_of_grams(overlap.words("今天天气很好"), overlap.words("今天天气不好"), 1)
    )
    assert found["rouge_1"] == pytest.approx(5 / 6) and found["rouge_1_words"] != found["rouge_1"]


def test_words() -> None:
    measures, counts = checks.words(["共同 创 造", "他 来了", "他 去 了"], ["共同 创造", "他 来 了", "他 来 了"])
    found = values(measures)
    assert counts == {"changed": 1}
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((2 / 8, 2 / 8, 2 / 8))
    assert found["sentences"] == 0
    assert values(checks.words(["他 来 了"], ["他 来 了"])[0])["f1"] == 1


def test_spelling() -> None:
    sources = ["他爱看树", "天气很号", "没有错", "也没有错", "我门来了"]
    right = ["他爱看书", "天气很好", "没有错", "也没有错", "我们来了"]
    texts = ["他爱看书", "天气很浩", "没有错", "也没有措", "我们来了呀"]
    measures, counts = checks.spelling(texts, sources, right)
    found = values(measures)
    assert counts == {"other_length": 1}
    # Four sentences were changed and three had errors; in two the errors' places were found, one was put right.
    assert [found[f"sentence_detection_{part}"] for part in ("precision", "recall", "f1")] == [0.5, 2 / 3, 4 / 7]
    assert [found[f"sentence_correction_{part}"] for part in ("precision", "recall", "f1")] == [0.25, 1 / 3, 2 / 7]
    assert [found[f"character_correction_{part}"] for part in ("precision", "recall")] == [0.25, 1 / 3]
    assert found["kept"] == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=(11-1)*2", 20),
        ("X = 3.14×5²", Fraction(157, 2)),
        ("x=1(1/2)+50%", 2),
        ("x=2*[3-(1+1)]", 2),
        ("(7/12)", Fraction(7, 12)),
        ("x=3+4=7", 7),
        ("3+4", 7),
        ("3+4=7", 7),
        ("共有20个", 20),
        ("答案是3.5元。", Fraction(7, 2)),
        ("x=1/0", None),
        ("x=小明", None),
        ("x=9^9^9^9", None),
        ("x=__import__('os').system('ls')", None),
        ("", None),
        ("不知道", None),
    ],
)
def test_the_value_of_an_answer(text: str, expected: Fraction | None) -> None:
    assert checks.value_of(text) == expected


def test_sums() -> None:
    measures, counts = checks.sums(
        ["x=20*(1/3)", "x = 2*( 3+1 )", "x=5", "没有"],
        [Fraction("6.6667"), Fraction(8), Fraction(6), Fraction(1)],
        ["x=20/3", "x=2*(3+1)", "x=6", ""],
    )
    assert values(measures) == {"accuracy": 0.5, "equation": 0.25} and counts == {"no_sum": 1}


def test_facts() -> None:
    measures, counts = checks.facts(
        ["答案是北京。", "乙；甲", "《红楼梦》 曹雪芹", ""], [["北京"], ["甲", "乙"], ["曹雪芹"], ["丙"]]
    )
    found = values(measures)
    assert counts == {"empty": 1} and found["exact"] == 0.5 and found["f1"] == 0.5
    assert 0.5 < found["character_f1"] < 0.75


@given(st.text(max_size=30), st.text(min_size=1, max_size=10).filter(lambda text: checks.normalise(text)))
def test_no_answer_breaks_a_figure(text: str, other: str) -> None:
    found = [
        overlap.measures([text], [[other]]),
        checks.words([text], [other])[0],
        checks.spelling([text], [other], [other])[0],
        checks.sums([text], [Fraction(1)], [other])[0],
        checks.facts([text], [[other]])[0],
    ]
    assert all(0 <= value <= 1 for measures in found for value in values(measures).values())


def test_intervals_and_paired_differences() -> None:
    dice = np.random.default_rng(1)
    first = dice.random(400)
    second = first + 0.05 + 0.02 * dice.standard_normal(400)
    one, other = {"score": mean(first.tolist())}, {"score": mean(second.tolist())}
    alone = figures(one)["score"]
    error = 1.96 * first.std() / 20
    assert alone["value"] == pytest.approx(first.mean())
    assert (alone["low"], alone["high"]) == pytest.approx((first.mean() - error, first.mean() + error), abs=0.006)
    apart = differences(one, other)["score"]
    assert apart["difference"] == pytest.approx(float((second - first).mean()))
    assert 0.045 < apart["low"] < apart["high"] < 0.055  # though the models' own intervals overlap widely
    assert alone["high"] > figures(other)["score"]["low"]
    assert figures(one, seed=3) == figures(one, seed=3) != figures(one, seed=4)


def test_the_interval_of_none_is_not_nothing() -> None:
    found = figures({"exact": share([False] * 50)})["exact"]
    assert found["low"] == 0 and 0.05 < found["high"] < 0.1
    nothing = figures(precision_recall_f1("", [(0, 0, 0)] * 3))
    assert nothing["f1"] == {"value": 0, "low": 0, "high": 0}
    with pytest.raises(ValueError, match="unlike numbers of items"):
        figures({"a": mean([1.0]), "b": mean([1.0, 2.0])})
