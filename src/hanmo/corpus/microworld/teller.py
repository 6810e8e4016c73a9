"""What every page writer shares: the world, its questions, and what the exam holds out."""

from __future__ import annotations

from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld.bank import Bank
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.problem import Problem
from hanmo.corpus.microworld.world import Person, Place, World

#: How often each kind of question is trained on; kinds with more to work through get more.
WEIGHTS = (
    ("fact", 1.0),
    ("home", 1.0),
    ("family", 1.1),
    ("pet", 1.0),
    ("calendar", 2.0),
    ("age", 1.6),
    ("legs", 1.0),
    ("measure", 1.3),
    ("antonym", 1.3),
    ("sum", 2.2),
    ("story", 1.6),
)


class Teller:
    """Gives page writers what may be told: ``may`` a conclusion be stated, draw a ``problem`` outside the exam."""

    def __init__(self, world: World, bank: Bank, held_out: frozenset[tuple[str, ...]]) -> None:
        self.world, self.bank, self.held_out = world, bank, held_out
        self.people, self.places = bank.people, bank.places

    def may(self, *key: str) -> bool:
        return key not in self.held_out

    def problem(self, dice: Dice, category: str | None = None, about: str | None = None) -> Problem:
        """A problem that the exam does not ask; ``about`` asks for one with that subject, where one is found."""
        for attempt in range(1000):
            problem = self.bank.draw(category or dice.weighted(WEIGHTS), dice)
            if problem.key not in self.held_out and (about in (None, problem.subject) or attempt > 200):
                return problem
        raise AssertionError("the exam leaves nothing to train on")  # the exam's own limits rule this out

    def walk(self, dice: Dice, length: int) -> list[tuple[Place, str, Place]]:
        """A way over the map in steps (from, direction, to) that never turns right back."""
        here = dice.pick(self.places)
        steps: list[tuple[Place, str, Place]] = []
        while len(steps) < length:
            last = steps[-1] if steps else None
            ways = [d for d in here.neighbours if last is None or d != lex.OPPOSITE[last[1]]]
            if not ways:
                break
            d = dice.pick(ways)
            there = self.world.places[here.neighbours[d]]
            steps.append((here, d, there))
            here = there
        return steps

    def join(self, dice: Dice, who: Person, subject: str) -> str | None:
        """A clause that joins two facts about ``who`` and that the exam does not ask for; None if the draw has none."""
        place = self.world.places[who.home]
        attribute = dice.pick(("speciality", "sight", "river", "market"))
        if dice.chance(0.5):
            if not self.may("home", who.name, attribute):
                return None
            ways = {
                "speciality": ("{s}的家乡出产{v}", "{s}住的地方特产是{v}"),
                "sight": ("{s}的家乡有{v}", "{s}常带客人去看家乡的{v}"),
                "river": ("{s}的家在{v}边", "{s}从小在{v}边长大"),
                "market": ("{s}每到{v}就去赶集", "{s}的家乡逢{v}赶集"),
            }
            return dice.pick(ways[attribute]).format(s=subject, v=getattr(place, attribute))
        if not who.kin:
            return None
        relation = dice.pick(list(who.kin))
        other = self.world.people[who.kin[relation]]
        known = dice.pick([a for a in ("job", "dish", "hobby") if getattr(other, a)])
        if not self.may("family", who.name, relation, known):
            return None
        ways = {"job": "{s}的{r}是一名{v}", "dish": "{s}的{r}最爱吃{v}", "hobby": "{s}的{r}喜欢{v}"}
        return ways[known].format(s=subject, r=relation, v=getattr(other, known))
