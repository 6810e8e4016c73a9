"""The held-out exam: which joins are asked only here, and in which words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from hanmo.corpus.microworld.bank import Bank
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.problem import Problem
from hanmo.errors import HanmoError
from hanmo.evaluate.items import LETTERS, ExamItem

#: The largest share of a form's questions that the exam may hold out: what is never trained on cannot be learnt.
MOST = 0.65
#: Categories whose answers come from a short list: of all questions with the same answer, training keeps at least one
#: where the world has enough, for a value that was never said as an answer is not given as one either.
ANSWERED = ("home", "family", "pet", "calendar", "sum")


@dataclass(frozen=True)
class Exam:
    """Items, the problems they were made from (same order), what training may not state, and its sentence check."""

    items: list[ExamItem]
    problems: list[Problem]
    held_out: frozenset[tuple[str, ...]]
    #: subject -> values that no training sentence may bring together with the subject's name
    apart: dict[str, frozenset[str]]


def make_exam(bank: Bank, seed: int, per_category: int) -> Exam:
    """Draw ``per_category`` problems of every kind, no two with the same key.

    Raises HanmoError if the world is too small.
    """
    items: list[ExamItem] = []
    problems: list[Problem] = []
    held_out: set[tuple[str, ...]] = set()
    told = _values(bank)
    letters: dict[int, Counter[int]] = {}  # by number of options, over all categories: every letter as often
    for category in bank.categories:
        dice = Dice(seed, "exam", category)
        chosen = _choose(bank, category, dice, per_category, told)
        forms: Counter[str] = Counter()
        for n, problem in enumerate(chosen, 1):
            forms[problem.form] += 1
            kind = problem.kinds[forms[problem.form] % len(problem.kinds)]
            width = min(problem.width, len(set(problem.rivals) - {problem.answer}) + 1)
            choices = None
            if kind == "choice":
                used = letters.setdefault(width, Counter())
                letter = min(dice.shuffled(range(width)), key=lambda i: used[i])
                used[letter] += 1
                choices = problem.options(dice, letter)
            items.append(
                ExamItem(
                    id=f"{category}-{n:03d}",
                    category=category,
                    kind="choice" if choices else "short",
                    question=problem.ask(dice, exam=True),
                    choices=choices,
                    answer=LETTERS[choices.index(problem.answer)] if choices else problem.answer,
                    accept=[] if choices else list(problem.accept),
                    hops=2 if problem.hops == 2 else 1,
                )
            )
            problems.append(problem)
            held_out.add(problem.key)
            if category == "age":
                held_out.update(("pair", *sorted(two)) for two in combinations(problem.key[1:], 2))
    apart: dict[str, set[str]] = {}
    for problem in problems:
        if _is_apart(problem):
            apart.setdefault(problem.subject, set()).add(problem.answer)
    return Exam(items, problems, frozenset(held_out), {name: frozenset(values) for name, values in apart.items()})


def _is_apart(problem: Problem) -> bool:
    """Whether the answer of a join is so telling that it must never stand in one sentence with the subject."""
    return problem.category in ("home", "family", "pet", "calendar") and problem.form.split("/")[1] not in (
        "legs",
        "after",
        "before",
        "next",
        "last",
        "month",
        "market",
    )


def _values(bank: Bank) -> Counter[tuple[str, str]]:
    """How many different things, told or joined, give a person the same value: (name, value) -> count."""
    count: Counter[tuple[str, str]] = Counter()
    for person in bank.people:
        count.update((person.name, v) for v in (person.dish, person.hobby, person.job))
        place = bank.world.places[person.home]
        count.update((person.name, v) for v in (place.speciality, place.sight, place.river))
    for person, _, other in bank.kin:
        count.update((person.name, v) for v in (other.dish, other.hobby, other.job))
    return count


def _choose(bank: Bank, category: str, dice: Dice, wanted: int, told: Counter[tuple[str, str]]) -> list[Problem]:
    """``wanted`` problems with different keys, and few of one subject, so that each subject is trained on too."""
    cap = 4 if category == "family" else 2
    scout = Dice(bank.world.seed, "scout", category)
    known: dict[str, set[tuple[str, ...]]] = {}
    alike: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for _ in range(3000):
        seen = bank.draw(category, scout)
        known.setdefault(seen.form, set()).add(seen.key)
        alike.setdefault((seen.form, seen.answer), set()).add(seen.key)
    chosen: dict[tuple[str, ...], Problem] = {}
    subjects: Counter[str] = Counter()
    forms: Counter[str] = Counter()
    answers: Counter[tuple[str, str]] = Counter()
    for number in range(400 * wanted):
        problem = bank.draw(category, dice)
        if problem.key in chosen or (problem.subject and subjects[problem.subject] >= cap):
            continue
        if _is_apart(problem) and told[problem.subject, problem.answer] > 1:
            continue  # the same value is the person's own or another relative's: training will bring the two together
        if forms[problem.form] >= MOST * len(known.get(problem.form, ())):
            continue
        same = problem.form, problem.answer
        scarce = number > 300 * wanted  # a small world may not have enough questions of that kind
        if category in ANSWERED and not scarce and answers[same] + 1 >= len(alike.get(same, ())):
            continue
        twin = bank.twin(problem)
        if twin and len(chosen) + 2 > wanted:
            continue
        for one in (problem, twin) if twin else (problem,):
            chosen[one.key] = one
            answers[one.form, one.answer] += 1
            forms[one.form] += 1
            subjects[one.subject] += 1
        if len(chosen) == wanted:
            return list(chosen.values())
    raise HanmoError(
        f"exam_per_category: the world has only {len(chosen)} questions of kind '{category}' to hold out, {wanted} "
        "were asked for; raise people and places or lower exam_per_category"
    )
