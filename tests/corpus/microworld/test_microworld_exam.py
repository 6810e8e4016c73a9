"""The exam: its composition, its answers, and that nothing in the training text gives them away."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from checker import solve

from hanmo.corpus.microworld.bank import Bank
from hanmo.corpus.microworld.exam import make_exam
from hanmo.corpus.microworld.stage import training_texts
from hanmo.corpus.microworld.world import build_world
from hanmo.errors import HanmoError
from hanmo.evaluate.items import ExamItem, load_items, render_question, score


@pytest.fixture(scope="module")
def items(made: Path) -> list[ExamItem]:
    return load_items(made / "exam.jsonl")


@pytest.fixture(scope="module")
def world(made: Path) -> dict:
    return json.loads((made / "world.json").read_text(encoding="utf-8"))


def test_composition(items: list[ExamItem]) -> None:
    counts = Counter(item.category for item in items)
    assert len(counts) >= 8
    assert min(counts.values()) >= 50
    assert sum(item.hops == 2 for item in items) >= 0.3 * len(items)
    assert {item.kind for item in items} == {"choice", "short"}
    assert min(Counter(item.kind for item in items).values()) >= 0.3 * len(items)
    assert len({render_question(item) for item in items}) == len(items)


def test_letters_are_balanced(items: list[ExamItem]) -> None:
    for width in (3, 4):
        letters = Counter(item.answer for item in items if item.choices and len(item.choices) == width)
        assert max(letters.values()) - min(letters.values()) <= 1
        assert len(letters) == width


def test_every_answer_follows_from_the_world(items: list[ExamItem], world: dict) -> None:
    wrong = [
        (item.question, item.answer_text, solve(world, item))
        for item in items
        if solve(world, item) != item.answer_text
    ]
    assert not wrong


def test_no_thirteen_characters_in_common(items: list[ExamItem], made: Path) -> None:
    trained = {text[i : i + 13] for text in training_texts(made) for i in range(len(text) - 12)}
    for item in items:
        for text in (render_question(item), f"{render_question(item)}\n{item.answer_text}"):
            shared = [text[i : i + 13] for i in range(len(text) - 12) if text[i : i + 13] in trained]
            assert not shared, (item.id, shared[:2])


def test_joined_conclusions_are_told_nowhere(items: list[ExamItem], world: dict, made: Path) -> None:
    """Neither a sentence nor a worked reply brings a held-out person together with the answer."""
    asked: dict[str, set[str]] = {}
    for item in items:
        if item.category == "home" and solve(world, item) not in world["weekdays"]:
            name = next(n for n in world["people"] if n in item.question)
            asked.setdefault(name, set()).add(item.answer_text)
    assert sum(map(len, asked.values())) > 20
    for text in training_texts(made):
        for sentence in re.split("[。！？；\n]", text):
            for name, values in asked.items():
                if name in sentence:
                    assert not [v for v in values if v in sentence], sentence


def test_single_facts_are_told(items: list[ExamItem], world: dict, made: Path) -> None:
    """Both facts of a held-out join stand in the training text."""
    text = "\n".join(training_texts(made))
    for item in items:
        if item.category == "home":
            name = next(n for n in world["people"] if n in item.question)
            home = world["people"][name]["home"]
            assert f"{name}住在{home}" in text
            assert re.search(f"{home}[^。]*{item.answer_text}|{item.answer_text}[^。]*{home}", text)


def test_worked_replies_are_scored_right() -> None:
    exam = make_exam(Bank(build_world(5, 60, 20)), 5, 50)
    for item, problem in zip(exam.items, exam.problems, strict=True):
        assert score(problem.reply(item.choices), item), (item, problem.reply(item.choices))


def test_retrieval_is_not_enough(made: Path) -> None:
    stats = json.loads((made / "stats.json").read_text(encoding="utf-8"))
    assert stats["retrieval"]["accuracy"] <= 0.45
    assert set(stats["retrieval"]["by_method"]) == {"joined", "voting", "containing"}
    assert 0.1 < stats["exam"]["chance"] < 0.25


def test_too_small_a_world_is_one_clear_line() -> None:
    with pytest.raises(HanmoError, match="exam_per_category"):
        make_exam(Bank(build_world(1, 12, 6)), 1, 50)
