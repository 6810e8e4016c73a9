"""What a text has in common with its references: ROUGE-1, -2 and -L and BLEU-4, by characters and by words.

Google's rouge-score and sacreBLEU count; what a unit is, is said here: every character that is no white space, or the
words that jieba cuts. ROUGE is the F-measure of each text, the best over its references, averaged (Lin 2004); BLEU is
that of the whole corpus (Papineni et al. 2002), with sacreBLEU's smoothing "exp".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hanmo.evaluate.generation.measures import Measure, mean
from hanmo.extras import need

_ROUGE = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}
_ORDER = 4
Cut = Callable[[str], list[str]]


def characters(text: str) -> list[str]:
    """The characters of a text without white space."""
    return list("".join(text.split()))


def words(text: str) -> list[str]:
    """The words of a text by jieba, without white space."""
    jieba = need("jieba", "generation")
    jieba.setLogLevel(logging.WARNING)
    return [word for word in jieba.lcut(text) if word.strip()]


def measures(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Measure]:
    """rouge_1, rouge_2, rouge_l and bleu_4 by characters, and the same with `_words` behind the name.

    Args:
        texts: what was written.
        references: of each text, one or more.
    """
    found: dict[str, Measure] = {}
    for behind, cut in (("", characters), ("_words", words)):
        own = [cut(text) for text in texts]
        others = [[cut(one) for one in several] for several in references]
        found |= {f"{name}{behind}": one for name, one in _rouge(own, others).items()}
        found[f"bleu_{_ORDER}{behind}"] = _bleu(own, others)
    return found


class _Cut:
    """A tokenizer for rouge-score that is given units already."""

    def tokenize(self, text: Any) -> list[str]:
        return text


def _rouge(texts: Sequence[list[str]], references: Sequence[Sequence[list[str]]]) -> dict[str, Measure]:
    scorer = need("rouge_score.rouge_scorer", "generation").RougeScorer(list(_ROUGE), tokenizer=_Cut())
    scores = [scorer.score_multi(several, text) for text, several in zip(texts, references, strict=True)]
    return {ours: mean([score[theirs].fmeasure for score in scores]) for theirs, ours in _ROUGE.items()}


def _bleu(texts: Sequence[list[str]], references: Sequence[Sequence[list[str]]]) -> Measure:
    bleu = need("sacrebleu.metrics", "generation").BLEU
    # Its own tokenizers are left out: units stand between spaces.
    counter = bleu(tokenize="none", effective_order=True)
    rows = []
    for text, several in zip(texts, references, strict=True):
        one = counter.sentence_score(" ".join(text), [" ".join(reference) for reference in several])
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])

    def of(row: np.ndarray) -> float:
        numbers = row.astype(int).tolist()
        own, other = numbers[-2:]
        if not own:
            return 0.0
        score = bleu.compute_bleu(numbers[:_ORDER], numbers[_ORDER:-2], own, other, smooth_method="exp").score
        return min(1.0, score / 100)

    return Measure(np.asarray(rows, np.float64), lambda total: np.apply_along_axis(of, -1, total))
