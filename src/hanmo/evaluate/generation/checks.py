"""Judging answers of which it is known what is right: words, corrected characters, sums, facts.

* **words** (Sproat & Emerson 2003): a word is right where both its ends are; precision, recall and F1 over all words. A
  sentence whose characters came out otherwise has no word right;
* **spelling** (Tseng et al. 2015): of each sentence, whether exactly the wrong characters were found (detection) and
  put right (correction), over the sentences that were changed and those that had errors; and the same by characters;
* **sums**: an equation is right where its value is the answer, by exact fractions (`hanmo.evaluate.arithmetic`);
* **facts**: whether the answer is one of the names that are right, without width, case and outer punctuation; F1
  between the set of names given and the set that is right; F1 by characters with the best of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from hanmo.evaluate import arithmetic
from hanmo.evaluate.generation.measures import Measure, mean, precision_recall_f1, share
from hanmo.evaluate.items import normalise

#: How far a value may be from the answer, of the larger of it and 1: answers of Math23K are rounded.
_NEAR = Fraction(1, 10_000)
#: 1(1/2) is one and a half in Math23K.
_MIXED = re.compile(r"(?<![\d.)])(\d+)\((\d+/\d+)\)")
_SUM = re.compile(r"[-+*/^().%\d\s]*\d[-+*/^().%\d\s]*")
#: Between several names of an answer.
_BETWEEN = re.compile(r"\|\|\||[;；\n]")


def words(texts: Sequence[str], references: Sequence[str]) -> tuple[dict[str, Measure], dict[str, int]]:
    """precision, recall, f1 over words and `sentences`, the share that is wholly right; and how many were `changed`.

    Args:
        texts, references: sentences with spaces between the words.
    """
    counts, whole, changed = [], [], 0
    for text, reference in zip(texts, references, strict=True):
        given, wanted = text.split(), reference.split()
        same = "".join(given) == "".join(wanted)
        changed += not same
        right = len(_spans(given) & _spans(wanted)) if same else 0
        counts.append((right, len(given), len(wanted)))
        whole.append(given == wanted)
    return precision_recall_f1("", counts) | {"sentences": share(whole)}, {"changed": changed}


def _spans(words: Sequence[str]) -> set[tuple[int, int]]:
    found, at = set(), 0
    for word in words:
        found.add((at, at + len(word)))
        at += len(word)
    return found


def spelling(
    texts: Sequence[str], sources: Sequence[str], references: Sequence[str]
) -> tuple[dict[str, Measure], dict[str, int]]:
    """sentence_ and character_ detection_ and correction_ with precision, recall and f1; `kept`, the share of sentences
    without errors that were left as they are; how many came out with another length.

    A sentence of another length has no character in its place: as a sentence it was changed, and wrongly; by characters
    it counts as one wrong correction.
    """
    rows: dict[str, list[tuple[float, float, float]]] = {
        f"{unit}_{what}": [] for unit in ("sentence", "character") for what in ("detection", "correction")
    }
    kept: list[tuple[float, float]] = []
    longer = 0
    for text, source, reference in zip(texts, sources, references, strict=True):
        text = text.strip()
        errors = {at for at, (a, b) in enumerate(zip(source, reference, strict=True)) if a != b}
        kept.append((float(not errors and text == source), float(not errors)))
        if len(text) != len(source):
            longer += 1
            for unit in ("sentence", "character"):
                wanted = float(bool(errors)) if unit == "sentence" else len(errors)
                for what in ("detection", "correction"):
                    rows[f"{unit}_{what}"].append((0, 1, wanted))
            continue
        found = {at for at, (a, b) in enumerate(zip(source, text, strict=True)) if a != b}
        mended = {at for at in found & errors if text[at] == reference[at]}
        sentence = (float(bool(found)), float(bool(errors)))
        rows["sentence_detection"].append((float(bool(errors) and found == errors), *sentence))
        rows["sentence_correction"].append((float(bool(errors) and text == reference), *sentence))
        rows["character_detection"].append((len(found & errors), len(found), len(errors)))
        rows["character_correction"].append((len(mended), len(found), len(errors)))
    measures = {name: one for group, counts in rows.items() for name, one in precision_recall_f1(group, counts).items()}
    right = precision_recall_f1("", [(a, b, b) for a, b in kept])["recall"]
    return measures | {"kept": right}, {"other_length": longer}


def sums(
    texts: Sequence[str], answers: Sequence[Fraction], equations: Sequence[str]
) -> tuple[dict[str, Measure], dict[str, int]]:
    """accuracy by value, and `equation`, the share that is written as the reference is; how many were `no_sum`.

    Args:
        answers: what is right.
        equations: how the references write it; "" where they do not.
    """
    values = [value_of(text) for text in texts]
    right = [
        value is not None and abs(value - answer) <= _NEAR * max(1, abs(answer))
        for value, answer in zip(values, answers, strict=True)
    ]
    same = [bool(one) and _bare(text) == _bare(one) for text, one in zip(texts, equations, strict=True)]
    return {"accuracy": share(right), "equation": share(same)}, {"no_sum": sum(value is None for value in values)}


def value_of(text: str) -> Fraction | None:
    """The value that an answer gives: of what follows x=, else of the whole, else its last number; None: it gives none.

    Of `x=3+4=7` that is the value of 3+4.
    """
    plain = _MIXED.sub(r"(\1+\2)", arithmetic.plain(text)).strip()
    behind = re.search(r"x\s*=", plain, re.IGNORECASE)
    start = plain[behind.end() :] if behind else plain
    found = _SUM.match(start)
    if found and (behind or found.end() == len(start) or start[found.end()] == "="):
        try:
            return arithmetic.value(found[0])
        except arithmetic.NoSum:
            pass
    return None if behind else arithmetic.last_number(plain)


def answer_of(text: str) -> Fraction:
    """The value of a reference's answer, which may be a sum, per cent or a mixed number.

    Raises:
        NoSum: it is none of these.
    """
    return arithmetic.value(_MIXED.sub(r"(\1+\2)", arithmetic.plain(text)))


def _bare(text: str) -> str:
    return "".join(arithmetic.plain(text).lower().split()).removeprefix("x=")


def facts(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[dict[str, Measure], dict[str, int]]:
    """exact, f1 (of sets of names) and character_f1; how many were `empty`."""
    exact, sets, letters = [], [], []
    for text, several in zip(texts, references, strict=True):
        given = {name for part in _BETWEEN.split(_said(text)) if (name := normalise(part))}
        wanted = {normalise(one) for one in several}
        whole = normalise(_said(text))
        exact.append(bool(whole) and (whole in wanted or given == wanted))
        sets.append(2 * len(given & wanted) / (len(given) + len(wanted)))
        letters.append(max(_shared(whole, one) for one in wanted))
    found = {"exact": share(exact), "f1": mean(sets), "character_f1": mean(letters)}
    return found, {"empty": sum(not text.strip() for text in texts)}


def _said(text: str) -> str:
    return re.sub(r"^\s*答案(?:是|为|[:：])", "", text)


def _shared(one: str, other: str) -> float:
    same = (Counter(one) & Counter(other)).total()
    return 2 * same / max(1, len(one) + len(other))
