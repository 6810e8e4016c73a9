"""The bank of questions: eleven kinds, each able to draw as many different problems as the world allows.

| category | joins | hops |
|---|---|---|
| fact | one fact about a person or a place, asked in other words than it is told | 1 |
| home | person -> home -> what is there | 2 |
| family | person -> relative -> what is known of that person | 2 |
| pet | person -> animal -> what is known of its kind | 2 |
| calendar | birthday -> its season, the month after or before; market day -> the day after or before | 2 |
| age | three ages compared | 2 |
| legs | two animals' legs added | 2 |
| measure | two nouns' measure words in turn | 2 |
| antonym | two words' opposites in turn | 2 |
| sum | word problems of one step with small numbers | 1 |
| story | somebody carries a thing from place to place: where did the way begin (1), where is the thing now (2) | 1-2 |

What is held out: for ``fact`` the question (the fact itself stands in the documents); for the joins the pair of facts
(each of them is told and used in other joins); for ``sum`` the numbers of that kind of word problem (single equations
such as ``7+8=15`` are told, so one-step items test reading the problem, not unseen additions); for ``story`` the story.
"""

from __future__ import annotations

from collections.abc import Callable

from hanmo.corpus.microworld import bank_words as words
from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld.bank_words import count_word, shift_month, shift_weekday, tell_legs
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.problem import Problem
from hanmo.corpus.microworld.world import Person, Place, World

PERSON_FACTS = ("home", "month", "job", "dish", "hobby", "pet")
PLACE_FACTS = ("speciality", "sight", "river", "market")


class Bank:
    """Draws problems about one world. ``draw(category, dice)`` is uniform over the category's forms."""

    def __init__(self, world: World) -> None:
        self.world = world
        people, places = list(world.people.values()), list(world.places.values())
        self.people, self.places = people, places
        self.owners = [p for p in people if p.pet]
        self.kin = [(p, relation, world.people[name]) for p in people for relation, name in p.kin.items()]
        self.values = {
            "home": tuple(world.places),
            "month": tuple(f"{m}月" for m in range(1, 13)),
            "job": tuple(sorted({p.job for p in people if p.job})),
            "dish": tuple(sorted({p.dish for p in people})),
            "hobby": tuple(sorted({p.hobby for p in people})),
            "pet": tuple(sorted({p.pet for p in people if p.pet})),
            "speciality": tuple(sorted({t.speciality for t in places})),
            "sight": tuple(sorted({t.sight for t in places})),
            "river": tuple(sorted({t.river for t in places})),
            "market": lex.WEEKDAYS,
        }
        self.names = names = [person.name for person in people]
        self.draws: dict[str, Callable[[Dice], Problem]] = {
            "fact": self.fact,
            "home": self.home,
            "family": self.family,
            "pet": self.pet,
            "calendar": self.calendar,
            "age": self.age,
            "legs": words.legs,
            "measure": words.measure,
            "antonym": words.antonym,
            "sum": lambda dice: words.sums(dice, names),
            "story": lambda dice: words.story(dice, names),
        }

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.draws)

    def draw(self, category: str, dice: Dice) -> Problem:
        return self.draws[category](dice)

    # --- one fact -----------------------------------------------------------------------------------------------

    def tell(self, name: str, attribute: str) -> tuple[str, str]:
        """The plain sentence (without a full stop) of one fact, and its value."""
        if attribute in PLACE_FACTS:
            place = self.world.places[name]
            value = getattr(place, attribute)
            told = {
                "speciality": "{n}的特产是{v}",
                "sight": "{n}的名胜是{v}",
                "river": "流过{n}的河是{v}",
                "market": "{n}逢{v}赶集",
            }
        else:
            person = self.world.people[name]
            value = f"{person.month}月" if attribute == "month" else getattr(person, attribute)
            told = {
                "home": "{n}住在{v}",
                "month": "{n}的生日在{v}",
                "job": "{n}是一名{v}",
                "dish": "{n}最爱吃{v}",
                "hobby": "{n}喜欢{v}",
                "pet": "{n}养的是{v}",
            }
        return told[attribute].format(n=name, v=value), value

    def fact(self, dice: Dice) -> Problem:
        if dice.chance(0.3):
            place, attribute = dice.pick(self.places), dice.pick(PLACE_FACTS)
            steps, value = self.tell(place.name, attribute)
            return Problem(
                "fact",
                f"fact/{attribute}",
                ("fact", place.name, attribute),
                {"t": place.name},
                steps,
                value,
                self.values[attribute],
                1,
                place.name,
            )
        if dice.chance(0.25):
            person, relation, other = dice.pick(self.kin)
            rivals = tuple(p.name for p in self.people if p.name not in (person.name, *person.kin.values()))
            return Problem(
                "fact",
                "fact/kin",
                ("fact", person.name, relation),
                {"p": person.name, "r": relation},
                f"{person.name}的{relation}是{other.name}",
                other.name,
                rivals,
                1,
                person.name,
            )
        person = dice.pick(self.people)
        attribute = dice.pick([a for a in PERSON_FACTS if getattr(person, a)])
        steps, value = self.tell(person.name, attribute)
        return Problem(
            "fact",
            f"fact/{attribute}",
            ("fact", person.name, attribute),
            {"p": person.name},
            steps,
            value,
            self.values[attribute],
            1,
            person.name,
        )

    # --- two facts ----------------------------------------------------------------------------------------------

    def home(self, dice: Dice) -> Problem:
        person, attribute = dice.pick(self.people), dice.pick(PLACE_FACTS)
        told, value = self.tell(person.home, attribute)
        return Problem(
            "home",
            f"home/{attribute}",
            ("home", person.name, attribute),
            {"p": person.name, "k": person.home[-1]},
            f"{person.name}住在{person.home}，{told}",
            value,
            self.values[attribute],
            2,
            person.name,
        )

    def family(self, dice: Dice) -> Problem:
        person, relation, other = dice.pick(self.kin)
        attribute = dice.pick([a for a in ("job", "dish", "hobby", "month") if getattr(other, a)])
        told, value = self.tell(other.name, attribute)
        return Problem(
            "family",
            f"family/{attribute}",
            ("family", person.name, relation, attribute),
            {"p": person.name, "r": relation},
            f"{person.name}的{relation}是{other.name}，{told}",
            value,
            self.values[attribute],
            2,
            person.name,
        )

    def pet(self, dice: Dice) -> Problem:
        person = dice.pick(self.owners)
        animal = lex.ANIMAL[person.pet]
        form = dice.pick([f for f in ("eats", "call", "legs") if f != "call" or animal.call])
        kinds = [lex.ANIMAL[name] for name in lex.PETS]
        told, value, rivals = {
            "eats": (f"{animal.name}爱吃{animal.eats}", animal.eats, tuple(a.eats for a in kinds)),
            "call": (f"{animal.name}的叫声是{animal.call}", animal.call, tuple(a.call for a in lex.ANIMALS if a.call)),
            "legs": (tell_legs(animal), str(animal.legs), ("0", "2", "4", "6", "8")),
        }[form]
        accept = (f"{value}条", f"{value}条腿") if form == "legs" else (f"{value}叫",) if form == "call" else ()
        return Problem(
            "pet",
            f"pet/{form}",
            ("pet", person.name, form),
            {"p": person.name},
            f"{person.name}养的是{animal.name}，{told}",
            value,
            rivals,
            2,
            person.name,
            accept,
        )

    def calendar(self, dice: Dice) -> Problem:
        what = dice.weighted((("season", 0.35), ("month", 0.4), ("day", 0.25)))
        if what == "day":
            return self._day(dice.pick(self.places), dice.chance(0.5))
        person = dice.pick(self.people)
        if what == "month":
            return self._month(person, dice.chance(0.5))
        season = lex.SEASON_OF[person.month]
        return Problem(
            "calendar",
            "calendar/season",
            ("season", person.name),
            {"p": person.name},
            f"{self.tell(person.name, 'month')[0]}，{person.month}月是{season}",
            season,
            tuple(lex.SEASONS),
            2,
            person.name,
            (season.replace("天", "季"), season[0]),
        )

    def _day(self, place: Place, later: bool) -> Problem:
        value, told = shift_weekday(place.market, 1, later)
        return Problem(
            "calendar",
            "calendar/after" if later else "calendar/before",
            ("day", place.name, value),
            {"t": place.name, "n": count_word(1)},
            f"{self.tell(place.name, 'market')[0]}，{told}",
            value,
            lex.WEEKDAYS,
            2,
            place.name,
        )

    def _month(self, person: Person, later: bool) -> Problem:
        value, told = shift_month(person.month, later)
        return Problem(
            "calendar",
            "calendar/next" if later else "calendar/last",
            ("month", person.name, value),
            {"p": person.name},
            f"{self.tell(person.name, 'month')[0]}，{told}",
            value,
            self.values["month"],
            2,
            person.name,
        )

    def twin(self, problem: Problem) -> Problem | None:
        """The same question in the other direction of time, where it has one.

        The exam holds out both or none. With one of them in training, a model learns the name's direction and not the
        question's.
        """
        match problem.form:
            case "calendar/after" | "calendar/before":
                return self._day(self.world.places[problem.subject], problem.form == "calendar/before")
            case "calendar/next" | "calendar/last":
                return self._month(self.world.people[problem.subject], problem.form == "calendar/last")
        return None

    def age(self, dice: Dice) -> Problem:
        while True:
            three = dice.sample(self.people, 3)
            ages = sorted(p.age for p in three)
            if ages[1] - ages[0] >= 2 and ages[2] - ages[1] >= 2:
                break
        eldest = dice.chance(0.5)
        winner = (max if eldest else min)(three, key=lambda p: p.age)
        told = "，".join(f"{p.name}{p.age}岁" for p in three)
        names = tuple(p.name for p in three)
        return Problem(
            "age",
            "age/oldest" if eldest else "age/youngest",
            ("age", *sorted(names)),
            dict(zip("abc", names, strict=True)),
            f"{told}，年纪最{'大' if eldest else '小'}的是{winner.name}",
            winner.name,
            names,
            2,
            "",
            width=3,
            kinds=("choice",),
            closed=True,
        )
