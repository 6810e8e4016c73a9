"""The trained models: what they compute against plain counting, what they learn, and how they are kept and used."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.corpus import stage
from hanmo.corpus.quality import classifier, folding, ngram
from hanmo.corpus.quality.characters import codes_of
from hanmo.corpus.quality.classifier import Classifier
from hanmo.corpus.quality.ngram import NgramModel
from hanmo.corpus.quality.train import texts, train_classifier
from hanmo.corpus.settings import CorpusSettings, QualitySettings, Source
from hanmo.errors import HanmoError
from hanmo.files import read_json, read_jsonl

GOOD = ["春天", "花园", "老师", "学校", "下雨", "高兴", "月亮", "故事", "朋友", "早上"]
BAD = ["点击", "优惠", "代购", "加微信", "包邮", "促销", "返利", "抢购", "正品", "秒杀"]


def sentence(words: list[str], dice: random.Random) -> str:
    return "，".join(dice.choice(words) + dice.choice("的了和在") + dice.choice(words) for _ in range(6)) + "。"


def sides(count: int, seed: int = 1) -> tuple[list[str], list[str]]:
    dice = random.Random(seed)
    return [sentence(GOOD, dice) for _ in range(count)], [sentence(BAD, dice) for _ in range(count)]


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@given(st.text(max_size=60))
def test_folding(text: str) -> None:
    folded = folding.fold(codes_of(text))
    assert len(folded) <= len(text)
    assert not ((folded[1:] == 0x20) & (folded[:-1] == 0x20)).any()
    assert (folding.fold(folded.astype(np.uint32)) == folded).all()


def test_folding_of_letters_digits_and_space() -> None:
    assert "".join(map(chr, folding.fold(codes_of("Ab\n\t 1９二𠀀")))) == "ab 00二\uffff"


def test_a_word_has_one_hash_wherever_it_stands() -> None:
    one, two, three = (folding.word_hashes(folding.fold(codes_of(t))) for t in ("Hanmo 汉", "汉字, hanmo", "hanmos x"))
    assert one.tolist() == two.tolist() and one[0] not in three and len(three) == 2
    runs = folding.run_hashes(folding.fold(codes_of("春天春天")), range(2, 3))
    assert runs[0][0] == runs[0][2] != runs[0][1]


def test_a_classifier_learns_and_is_kept(tmp_path: Path) -> None:
    good, bad = sides(200)
    model, figures = classifier.train(good, bad, bits=16, epochs=3)
    assert figures["accuracy"][0] > 0.97 and figures["auc"][0] > 0.99
    assert figures["accuracy"][1] < figures["accuracy"][0] <= figures["accuracy"][2]
    again, _ = classifier.train(good, bad, bits=16, epochs=3)
    assert (again.weights == model.weights).all() and again.constant == model.constant
    model.save(tmp_path / "model")
    kept = Classifier.load(tmp_path / "model")
    fresh_good, fresh_bad = sides(20, seed=9)
    for text in (*fresh_good, *fresh_bad):
        assert kept.score(codes_of(text)) == model.score(codes_of(text))
        assert (kept.score(codes_of(text)) > 0.5) == (text in fresh_good)
    assert kept.facts["documents"] == {"good": 200, "bad": 200}
    assert 0 < kept.score(codes_of("")) < 1
    long = codes_of("".join(fresh_good) * 100)
    assert kept.score(long) > 0.9


def test_figures_are_those_of_counting() -> None:
    dice = np.random.default_rng(3)
    labels = dice.integers(0, 2, 60)
    scores = np.round(np.clip(dice.normal(0.4 + 0.2 * labels, 0.2), 0, 1), 1)
    figures = classifier.measure(scores, labels)
    pairs = [(g > b) + 0.5 * (g == b) for g in scores[labels == 1] for b in scores[labels == 0]]
    assert figures["auc"][0] == pytest.approx(np.mean(pairs))
    assert figures["auc"][1] < figures["auc"][0] < figures["auc"][2]
    row = next(row for row in figures["thresholds"] if row["threshold"] == 0.5)
    assert row["good_kept"] == pytest.approx((scores[labels == 1] >= 0.5).mean())


def kneser_ney(texts: list[str], order: int) -> dict[int, dict[str, float]]:
    """Interpolated Kneser-Ney by the book, in dictionaries: p by run, for every order."""
    counts: dict[int, Counter[str]] = {order: Counter()}
    for text in texts:
        counts[order].update(text[i : i + order] for i in range(len(text) - order + 1))
    for size in range(order - 1, 0, -1):
        counts[size] = Counter(run[1:] for run in counts[size + 1])
    found: dict[int, dict[str, float]] = {}
    for size in range(1, order + 1):
        once, twice = (sum(value == times for value in counts[size].values()) for times in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        whole: dict[str, int] = defaultdict(int)
        kinds: dict[str, int] = defaultdict(int)
        for run, count in counts[size].items():
            whole[run[:-1]] += count
            kinds[run[:-1]] += 1
        found[size] = {}
        for run, count in counts[size].items():
            lower = found[size - 1][run[1:]] if size > 1 else 1 / 65536
            found[size][run] = (count - discount + discount * kinds[run[:-1]] * lower) / whole[run[:-1]]
    return found


def test_probabilities_are_kneser_ney_s() -> None:
    dice = random.Random(4)
    documents = [sentence(GOOD, dice) for _ in range(60)]
    model = ngram.train(documents, order=3, bits=18, least=1)
    book = kneser_ney(documents, 3)
    for run, value in book[3].items():
        logs = model.log_probabilities(folding.fold(codes_of(run)))
        assert logs[2] == pytest.approx(math.log(value), abs=0.04)
        assert logs[0] == pytest.approx(math.log(book[1][run[0]]), abs=0.001)


@pytest.mark.parametrize("least", [1, 3])
def test_probabilities_sum_to_one_after_pruning(least: int) -> None:
    dice = random.Random(5)
    documents = [sentence(GOOD + BAD, dice) for _ in range(300)]
    model = ngram.train(documents, order=4, bits=18, least=least)
    known = sorted(set("".join(documents)))
    others = (65536 - len(known)) * math.exp(model.first[0x1234])
    for context in ("春天的", "加微信", "信，", "学", "鼎鼎"):
        total = sum(
            math.exp(model.log_probabilities(folding.fold(codes_of(context + char)))[-1]) for char in known
        )  # fmt: skip
        weight = math.exp(model.log_probabilities(folding.fold(codes_of(context + "鼎")))[-1]) / math.exp(
            model.first[ord("鼎")]
        )
        assert total + others * weight == pytest.approx(1, abs=0.03)


def test_perplexity_tells_fluent_from_shuffled(tmp_path: Path) -> None:
    good, _ = sides(300)
    model = ngram.train(good, bits=16)
    model.save(tmp_path / "lm")
    kept = NgramModel.load(tmp_path / "lm")
    text = sides(1, seed=99)[0][0]
    mixed = "".join(random.Random(1).sample(text, len(text)))
    assert kept.perplexity(codes_of(text)) == model.perplexity(codes_of(text)) < 30
    assert kept.perplexity(codes_of(mixed)) > 5 * kept.perplexity(codes_of(text))
    assert kept.perplexity(codes_of("")) == 1.0


def test_counting_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    good, _ = sides(100)
    whole = ngram.train(good, bits=16)
    monkeypatch.setattr(ngram, "_CHUNK", 500)
    assert (ngram.train(good, bits=16).slots == whole.slots).all()
    monkeypatch.setattr(ngram, "MOST_RUNS", 300)  # the rarest are dropped on the way
    small = ngram.train(good, bits=16)
    assert 0 < np.count_nonzero(small.slots) < np.count_nonzero(whole.slots)


def test_faults_are_one_line(tmp_path: Path) -> None:
    good, bad = sides(30)
    with pytest.raises(HanmoError, match="3 good documents are too few"):
        classifier.train(good[:3], bad)
    with pytest.raises(HanmoError, match="too few different ones"):
        classifier.train(good, [bad[0]] * 30)
    with pytest.raises(HanmoError, match="too few for a model"):
        ngram.train(["短"])
    with pytest.raises(HanmoError, match="no such model"):
        Classifier.load(tmp_path / "none")
    (tmp_path / "text").write_text("no model at all", encoding="utf-8")
    with pytest.raises(HanmoError, match="not a model file"):
        NgramModel.load(tmp_path / "text")
    ngram.train(good, bits=12).save(tmp_path / "lm")
    with pytest.raises(HanmoError, match="not a model of `hanmo corpus quality train`"):
        Classifier.load(tmp_path / "lm")


def test_a_corpus_is_judged_by_both_and_made_anew_when_a_model_changes(tmp_path: Path) -> None:
    good, bad = sides(120)
    train_classifier(
        [write(tmp_path / "good.jsonl", good)], [write(tmp_path / "bad.jsonl", bad)], tmp_path / "q", 1000, 14, 3, 7
    )
    ngram.train(good + bad, bits=14).save(tmp_path / "lm")
    fresh_good, fresh_bad = sides(30, seed=5)
    noise = "".join(random.Random(2).sample("".join(GOOD) * 3, 60))
    source = Source(path=str(write(tmp_path / "a.jsonl", [*fresh_good, *fresh_bad, noise])))
    quality = QualitySettings(classifier="q", min_score=0.5, perplexity="lm", max_perplexity=60)
    settings = CorpusSettings(sources=[source], quality=quality, workers=1, near_similarity=0).anchored(tmp_path)
    assert settings.quality.classifier == str(tmp_path / "q") and tmp_path / "lm" in settings.external()
    stage.run(settings, {}, tmp_path / "out")
    stats = read_json(tmp_path / "out" / "stats.json")
    assert stats["rejected"] == {"classifier": 30, "perplexity": 1}
    assert sum(stats["seen"]["quality"].values()) == 60 and sum(stats["seen"]["perplexity"].values()) == 61
    kept = [r for p in (tmp_path / "out").glob("[th]*/*.zst") for _, r in read_jsonl(p)]
    assert len(kept) == 30 and all(r["meta"]["quality"] >= 0.5 and r["meta"]["perplexity"] <= 60 for r in kept)
    rejected = [r for p in (tmp_path / "out" / "rejects").glob("*.zst") for _, r in read_jsonl(p)]
    assert all("below min_score 0.5" in r["meta"]["detail"] for r in rejected if r["reason"] == "classifier")
    classifier.train(bad, good, bits=14)[0].save(tmp_path / "q")  # now the other way round
    stage.run(settings, {}, tmp_path / "out")
    assert read_json(tmp_path / "out" / "stats.json")["rejected"] == {"classifier": 30, "perplexity": 1}
    kept = [r["text"] for p in (tmp_path / "out").glob("[th]*/*.zst") for _, r in read_jsonl(p)]
    assert set(kept) == set(fresh_bad)


def test_texts_of_any_form(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("第一篇　文章。", encoding="gb18030")
    write(tmp_path / "folder" / "b.jsonl", ["第二篇。", "第三篇。"])
    found = list(texts([tmp_path / "folder"]))
    assert [where for where, _ in found] == ["a.txt:1", "b.jsonl:1", "b.jsonl:2"] or found[0][0].startswith("a.txt")
    assert [text for _, text in found] == ["第一篇 文章。", "第二篇。", "第三篇。"]
