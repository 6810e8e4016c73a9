"""Keeps training text clear of the exam: no 13 characters in common, no held-out conclusion in one sentence.

The exam is made first; every training text is then tested against it and thrown away (and counted) on a hit. Phrasings
of the exam are not used in training, so hits are rare accidents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from hanmo.corpus.microworld.exam import Exam
from hanmo.evaluate.items import render_question

WINDOW = 13
_SENTENCE = re.compile(r"[。！？；\n]")


def grams(text: str, size: int = WINDOW) -> Iterable[str]:
    """Every run of ``size`` consecutive characters, white space and punctuation included."""
    return (text[i : i + size] for i in range(len(text) - size + 1))


def sentences(text: str) -> list[str]:
    """Non-empty sentences, split at 。！？； and line ends."""
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


class Guard:
    """Tests training text against an exam; ``counts`` says how many texts were thrown away, by reason."""

    def __init__(self, exam: Exam) -> None:
        shown = [f"{render_question(item)}\n{item.answer_text}" for item in exam.items]
        self._grams = frozenset(gram for text in shown for gram in grams(text))
        self._apart: Mapping[str, frozenset[str]] = exam.apart
        names = sorted(self._apart, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)) if names else r"(?!)")
        self.counts: Counter[str] = Counter()

    def allows(self, text: str) -> bool:
        """Whether ``text`` may be trained on; a refusal is counted."""
        reason = self.objection(text)
        if reason:
            self.counts[reason] += 1
        return reason is None

    def objection(self, text: str) -> str | None:
        if any(gram in self._grams for gram in grams(text)):
            return "overlap"
        for sentence in sentences(text):
            for name in set(self._names.findall(sentence)):
                if any(value in sentence for value in self._apart[name]):
                    return "join"
        return None
