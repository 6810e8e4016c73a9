"""The baseline that any real exam must beat: answer by the nearest training sentence, without understanding anything.

Sentences and questions are bags of character bigrams weighted by tf-idf and compared by cosine. Three ways to answer
are tried, and the best of them is reported:

* ``joined``: the question with each candidate answer appended; the candidate whose nearest sentence is nearest wins;
* ``voting``: the ten sentences nearest to the question vote, by their similarity, for the candidates they contain;
* ``containing``: the candidate that is contained in the nearest sentence, of the 300 nearest to the question, wins.

A short question is made as easy as a choice: the candidates are given (all the values its kind of answer can take).
The index is built in chunks, so memory does not grow with the corpus (8 bytes are kept per distinct sentence).
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from hanmo.corpus.microworld.exam import Exam
from hanmo.corpus.microworld.overlap import sentences

CHUNK = 65536  # sentences indexed at a time
NEAREST = 300  # sentences kept for each question
VOTERS = 10


def bigrams(text: str) -> list[str]:
    return [text[i : i + 2] for i in range(len(text) - 1)]


def distinct(texts: Iterable[str]) -> Iterator[str]:
    """Each different sentence once."""
    seen: set[int] = set()
    for text in texts:
        for sentence in sentences(text):
            mark = hash_text(sentence)
            if mark not in seen and len(sentence) > 1:
                seen.add(mark)
                yield sentence


def hash_text(text: str) -> int:
    import xxhash

    return xxhash.xxh64_intdigest(text.encode("utf-8"))


def candidates(exam: Exam) -> list[list[str]]:
    """The answers that the baseline may give to each item: the options, or every value of that kind of answer."""
    pool: dict[str, set[str]] = {}
    for problem in exam.problems:
        pool.setdefault(problem.form, set()).update((problem.answer, *problem.rivals))
    return [item.choices or sorted(pool[p.form]) for item, p in zip(exam.items, exam.problems, strict=True)]


def retrieval_baseline(exam: Exam, texts: Callable[[], Iterable[str]]) -> dict[str, Any]:
    """Score the baseline. ``texts`` gives all training texts anew on each of two calls.

    Returns ``{"accuracy", "method", "by_method", "by_category", "sentences"}`` with the best of the three methods.
    """
    document_frequency: Counter[str] = Counter()
    total = 0
    for sentence in distinct(texts()):
        document_frequency.update(set(bigrams(sentence)))
        total += 1
    weight = {gram: math.log((1 + total) / (1 + n)) + 1 for gram, n in document_frequency.items()}
    offered = candidates(exam)
    questions = [_vector(item.question, weight) for item in exam.items]
    joined = [
        [_vector(item.question + option, weight) for option in options]
        for item, options in zip(exam.items, offered, strict=True)
    ]
    wanted = {gram for vector in (*questions, *(v for row in joined for v in row)) for gram in vector}
    best = [np.zeros(len(options)) for options in offered]
    near: list[list[tuple[float, str]]] = [[] for _ in exam.items]
    chunk: list[str] = []
    for sentence in distinct(texts()):
        chunk.append(sentence)
        if len(chunk) == CHUNK:
            _search(chunk, weight, wanted, questions, joined, best, near)
            chunk = []
    if chunk:
        _search(chunk, weight, wanted, questions, joined, best, near)
    votes, holds = [], []
    for options, nearest in zip(offered, near, strict=True):
        votes.append(np.array([sum(score for score, text in nearest[:VOTERS] if option in text) for option in options]))
        holds.append(np.array([max((score for score, text in nearest if o in text), default=0.0) for o in options]))
    scores = {"joined": best, "voting": votes, "containing": holds}
    right = {name: _right(exam, offered, rows) for name, rows in scores.items()}
    method = max(right, key=lambda name: sum(right[name]))
    by_category: dict[str, list[bool]] = {}
    for item, ok in zip(exam.items, right[method], strict=True):
        by_category.setdefault(item.category, []).append(ok)
    return {
        "accuracy": sum(right[method]) / max(1, len(exam.items)),
        "method": method,
        "by_method": {name: sum(row) / max(1, len(row)) for name, row in right.items()},
        "by_category": {name: sum(row) / len(row) for name, row in by_category.items()},
        "sentences": total,
    }


def _right(exam: Exam, offered: list[list[str]], rows: list[np.ndarray]) -> list[bool]:
    answers = [item.answer_text for item in exam.items]
    return [options[int(np.argmax(row))] == a for options, row, a in zip(offered, rows, answers, strict=True)]


def _vector(text: str, weight: dict[str, float]) -> dict[str, float]:
    """tf-idf of a text's known bigrams, of length one."""
    counts = Counter(gram for gram in bigrams(text) if gram in weight)
    raw = {gram: n * weight[gram] for gram, n in counts.items()}
    norm = math.sqrt(sum(w * w for w in raw.values())) or 1.0
    return {gram: w / norm for gram, w in raw.items()}


def _search(
    chunk: list[str],
    weight: dict[str, float],
    wanted: set[str],
    questions: list[dict[str, float]],
    joined: list[list[dict[str, float]]],
    best: list[np.ndarray],
    near: list[list[tuple[float, str]]],
) -> None:
    """Compare every question with the sentences of ``chunk``; updates ``best`` and ``near`` in place."""
    places: dict[str, array] = {gram: array("l") for gram in wanted}
    values: dict[str, array] = {gram: array("f") for gram in wanted}
    for n, sentence in enumerate(chunk):
        for gram, w in _vector(sentence, weight).items():
            if gram in wanted:
                places[gram].append(n)
                values[gram].append(w)
    index = {
        g: (np.array(places[g], dtype=np.int64), np.array(values[g], dtype=np.float32)) for g in wanted if places[g]
    }
    for i, question in enumerate(questions):
        base = np.zeros(len(chunk), dtype=np.float32)
        _add(base, question, index)
        top = np.argpartition(base, -min(NEAREST, len(chunk)))[-NEAREST:]
        near[i] = sorted([*near[i], *((float(base[n]), chunk[n]) for n in top)], reverse=True)[:NEAREST]
        for j, vector in enumerate(joined[i]):
            # q+option = scale * q + the option's own bigrams: the long part is not summed again
            scale = min((vector[g] / question[g] for g in question), default=0.0)
            row = base * np.float32(scale)
            _add(
                row,
                {
                    g: w - scale * question.get(g, 0.0)
                    for g, w in vector.items()
                    if w - scale * question.get(g, 0.0) > 1e-9
                },
                index,
            )
            best[i][j] = max(best[i][j], float(row.max()))


def _add(row: np.ndarray, vector: dict[str, float], index: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for gram, w in vector.items():
        if gram in index:
            where, value = index[gram]
            row[where] += np.float32(w) * value
