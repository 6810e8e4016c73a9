"""The suggested vocabulary size: what the rule says on curves that are known, and on small corpora."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from tests.tokenizer.test_kinds import WORDS

from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter, write_json
from hanmo.tokenizer import load
from hanmo.tokenizer.settings import TokenizerSettings
from hanmo.tokenizer.suggest import corpus_bytes, crossing, least_cost, suggest
from hanmo.tokenizer.train import run


def prose(words: int, seed: int = 0) -> str:
    dice = random.Random(seed)
    return "".join(dice.choice(WORDS) + dice.choice(["", "", "的", "，", "。\n"]) for _ in range(words))


def test_the_cheapest_vocabulary_of_a_known_curve() -> None:
    def tokens(vocabulary: float) -> float:
        return 0.002 * math.log(vocabulary) ** 2 - 0.06 * math.log(vocabulary) + 0.6

    curve = [(v, 1 / tokens(v)) for v in (512, 1024, 2048, 4096, 8192, 16384, 32768)]

    def cost(vocabulary: int, rest: int) -> float:
        return (rest + 384 * vocabulary) * tokens(vocabulary)

    for rest in (5_000_000, 15_000_000, 80_000_000):
        found = least_cost(curve, 384, rest)
        assert cost(found, rest) <= min(cost(v, rest) for v in range(512, 32768, 64)) * 1.0001
    # A larger model bears a larger vocabulary.
    assert least_cost(curve, 384, 80_000_000) > least_cost(curve, 384, 5_000_000)


def test_where_the_share_falls() -> None:
    assert crossing([(1.0, 512), (0.99, 1024), (0.91, 2048), (0.5, 4096)]) == 1448
    assert crossing([(1.0, 512), (0.97, 1024)]) == 1024
    assert crossing([(0.5, 512), (0.2, 1024)]) == 512


def test_more_text_more_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [prose(40_000)]
    size = len(texts[0].encode())
    small = suggest(texts, "bpe", "hanmo-16m", size)
    large = suggest(texts, "bpe", "hanmo-16m", 1000 * size)
    assert 512 <= small.vocab_size <= large.vocab_size
    assert small.seen <= large.seen
    assert [rate for _, rate in large.curve] == sorted(rate for _, rate in large.curve)
    assert "bytes a token 512: " in capsys.readouterr().err
    words = suggest(texts, "word", "hanmo-16m", size)
    assert words.vocab_size % 64 == 0
    assert suggest(texts, "pinyin", "hanmo-16m", 1000 * size).vocab_size >= 576
    with pytest.raises(HanmoError, match="did you mean 'hanmo-16m'"):
        suggest(texts, "bpe", "hanmo-16n", size)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "word"])
def test_auto_on_a_small_corpus(tmp_path: Path, kind: str) -> None:
    with JsonlZstWriter(tmp_path / "corpus" / "train" / "00000.jsonl.zst") as file:
        for seed in range(20):
            file.write({"id": "", "text": prose(600, seed), "source": "a", "meta": {}})
    write_json(tmp_path / "corpus" / "stats.json", {"sources": {"a": {}}, "train": {"bytes": 5_000_000}})
    assert corpus_bytes(tmp_path / "corpus") == 5_000_000
    counts = run(TokenizerSettings(kind=kind, vocab_size="auto"), {"corpus": [tmp_path / "corpus"]}, tmp_path / kind)
    assert counts["vocab_size"] == len(load(tmp_path / kind))
    assert 200 <= counts["vocab_size"] <= 4096
