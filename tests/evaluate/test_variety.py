"""Repetition and variety of texts: known figures, and BLEU as sacreBLEU has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.evaluate.variety import bleu, figures

TEXTS = st.text(alphabet="春夏秋冬风花", min_size=1, max_size=30)


def test_known_figures() -> None:
    found = figures([["春夏秋冬 春夏秋冬", "春 夏"], ["花"], [" \n"]])
    assert (found["texts"], found["characters"]) == (3, 11)
    assert found["repetition"] == pytest.approx(
        (1 - 4 / 5) / 3
    )  # 春夏秋冬 stands twice among five; the others have none
    assert found["distinct_1"] == pytest.approx(5 / 11)
    assert found["distinct_2"] == pytest.approx(4 / 8)
    assert figures([["一样的话"] * 3])["self_bleu"] == pytest.approx(1)
    assert "self_bleu" not in figures([["只有一篇"]])


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no text"):
        figures([["", " "]])


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_bleu_is_that_of_sacrebleu(text: str, references: list[str]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    metric = sacrebleu.BLEU(tokenize="char", effective_order=True, smooth_method="exp")
    # sacreBLEU takes the longest order of which the text has an n-gram that could match, as this does.
    assert 100 * bleu(text, references) == pytest.approx(metric.sentence_score(text, references).score, abs=1e-6)
