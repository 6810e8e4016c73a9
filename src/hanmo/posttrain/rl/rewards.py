"""Rewards: functions that judge an answer, by rules that can be checked or by a reward model.

| name | reward | where the record says nothing of it |
|---|---|---|
| exact | 1 where the answer given equals the record's, as an exam would mark it | prompt left out |
| choice | 1 where the letter chosen (or the option named) is the record's | prompt left out |
| arithmetic | 1 where the last number is the record's and every equation on the way holds | prompt left out |
| format | 1 where `pattern` is found in the answer | |
| length | 1 within `characters`, falling to 0 at twice the upper or none of the lower | |
| verse | share of the rules of regulated verse that hold (`rl.verse`) | |
| model | what a reward model gives | |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hanmo.evaluate import arithmetic
from hanmo.evaluate.items import ExamItem, extract_choice, extract_short, normalise
from hanmo.posttrain.forms import Dialogue
from hanmo.posttrain.reward import RewardModel
from hanmo.posttrain.rl import verse
from hanmo.posttrain.settings import RlSettings

_OPTION = re.compile(r"(?:^|[\n；;：:，,\s])([A-H])\s*[.．、:：)）]\s*([^\n；;]+)")


@dataclass(frozen=True)
class Task:
    """A prompt (messages), and the answer that its record has."""

    prompt: Dialogue
    reference: str


#: A reward of one answer to one task; None where the task's record does not say what is right.
Judge = Callable[[Task, str], float | None]


def exact(task: Task, answer: str) -> float | None:
    """1 where both give the same answer by the exam's rules (what follows 答案是, or a single clause)."""
    wanted = extract_short(task.reference)
    return None if wanted is None else float(extract_short(answer) == wanted)


def choice(task: Task, answer: str) -> float | None:
    """1 where the answer chooses the option that the record's does."""
    item = item_of(task.prompt[-1]["content"])
    wanted = extract_choice(task.reference, item) if item else None
    return None if item is None or wanted is None else float(extract_choice(answer, item) == wanted)


def item_of(question: str) -> ExamItem | None:
    """The options that a question lists (A. … B. …), as an exam item; None where it lists none."""
    options = _OPTION.findall(question)
    letters = "".join(letter for letter, _ in options)
    texts = [text.strip().rstrip("。；;") for _, text in options]
    if (
        len(options) < 2
        or letters != "ABCDEFGH"[: len(options)]
        or len({normalise(text) for text in texts}) < len(texts)
    ):
        return None
    return ExamItem(id="1", category="1", kind="choice", question=question, choices=texts, answer="A")


def by_arithmetic(task: Task, answer: str) -> float | None:
    """1 where the last number is the record's and no equation in the answer is wrong."""
    wanted = arithmetic.last_number(task.reference)
    if wanted is None:
        return None
    return float(arithmetic.last_number(answer) == wanted and all(arithmetic.equations(answer)))


def length(low: int, high: int) -> Judge:
    """1 for low to high characters; outside it falls straight to 0, at none and at twice `high`."""

    def judge(task: Task, answer: str) -> float:
        count = len(answer.strip())
        if count < low:
            return count / low
        return 1.0 if count <= high else max(0.0, 2 - count / high)

    return judge


def judges_of(settings: RlSettings) -> dict[str, Judge]:
    """The rules that the settings name, by name; `model` is not one of them."""
    pattern = re.compile(settings.pattern, re.DOTALL)
    known: dict[str, Judge] = {
        "exact": exact,
        "choice": choice,
        "arithmetic": by_arithmetic,
        "format": lambda task, answer: float(pattern.search(answer) is not None),
        "length": length(*settings.characters),
        "verse": lambda task, answer: verse.judge(answer, settings.verse).total,
    }
    return {name: known[name] for name in settings.rewards if name != "model"}


class Rewards:
    """The rewards of a run together.

    Args:
        model: the reward model, where `rewards` names one.
    """

    def __init__(self, settings: RlSettings, model: RewardModel | None) -> None:
        self.weights = dict(settings.rewards)
        self.judges = judges_of(settings)
        self.model = model

    def applies(self, task: Task) -> bool:
        """Whether every reward can judge answers to the task."""
        return all(judge(task, task.reference) is not None for judge in self.judges.values())

    def parts(self, tasks: Sequence[Task], answers: Sequence[str]) -> dict[str, list[float]]:
        """Of each reward, what it gives each answer, before weights; for tasks that it `applies` to."""
        found: dict[str, Any] = {
            name: [judge(task, answer) for task, answer in zip(tasks, answers, strict=True)]
            for name, judge in self.judges.items()
        }
        if self.model is not None:
            found["model"] = self.model.score([task.prompt for task in tasks], answers)
        return {name: found[name] for name in self.weights}

    def total(self, parts: dict[str, list[float]]) -> list[float]:
        """Weighted sums, an answer each."""
        columns = zip(*parts.values(), strict=True)
        return [sum(w * v for w, v in zip(self.weights.values(), row, strict=True)) for row in columns]
