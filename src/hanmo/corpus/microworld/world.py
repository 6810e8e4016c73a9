"""The facts of one microworld: who lives where, what grows there, who is whose mother.

:func:`build_world` is a pure function of a seed and two sizes. Everything else in this folder only tells, asks or
checks what stands in the :class:`World` it returns and in :mod:`~hanmo.corpus.microworld.lexicon`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld.dice import Dice
from hanmo.errors import HanmoError


@dataclass
class Person:
    name: str
    sex: str  # 男 or 女
    role: str  # child, parent or elder
    age: int
    month: int  # birthday, 1..12
    home: str
    job: str  # "" for children
    dish: str
    hobby: str
    pet: str = ""  # kind of animal, "" for none
    pet_name: str = ""
    kin: dict[str, str] = field(default_factory=dict)  # 爸爸 -> name

    @property
    def pronoun(self) -> str:
        return "她" if self.sex == "女" else "他"


@dataclass
class Place:
    name: str
    speciality: str
    sight: str
    river: str
    market: str  # weekday of the market
    neighbours: dict[str, str]  # 东 -> name

    @property
    def kind(self) -> str:
        return self.name[-1]


@dataclass
class World:
    seed: int
    people: dict[str, Person]
    places: dict[str, Place]

    def to_json(self) -> dict[str, Any]:
        """The whole world, its fixed knowledge included, as JSON-able data: every exam answer follows from it."""
        return {
            "seed": self.seed,
            "people": {name: asdict(person) for name, person in self.people.items()},
            "places": {name: asdict(place) for name, place in self.places.items()},
            "animals": {animal.name: animal._asdict() for animal in lex.ANIMALS},
            "measures": dict(lex.MEASURE_OF),
            "antonyms": [list(pair) for pair in lex.ANTONYMS],
            "seasons": {season: list(months) for season, months in lex.SEASONS.items()},
            "weekdays": list(lex.WEEKDAYS),
            "festivals": {name: list(row) for name, row in lex.FESTIVALS.items()},
            "jobs": {name: list(row) for name, row in lex.JOBS.items()},
        }


class _Deck:
    """Deals the items of a list in random order, and reshuffles when it is empty: values stay evenly used."""

    def __init__(self, dice: Dice, items: tuple[str, ...]) -> None:
        self.dice, self.items, self.left = dice, items, []

    def deal(self) -> str:
        if not self.left:
            self.left = self.dice.shuffled(self.items)
        return self.left.pop()


def build_world(seed: int, people: int, places: int) -> World:
    """Make ``people`` persons in families and ``places`` towns on a grid. Raises HanmoError if names would run out."""
    if places > len(lex.TOWNS):
        raise HanmoError(f"places: at most {len(lex.TOWNS)} towns have names, {places} were asked for")
    if people > 400:
        raise HanmoError(f"people: at most 400 persons have names of their own, {people} were asked for")
    towns = _build_places(Dice(seed, "places"), places)
    return World(seed, _build_people(Dice(seed, "people"), people, list(towns)), towns)


def _build_places(dice: Dice, count: int) -> dict[str, Place]:
    width = next(w for w in range(1, count + 1) if w * w >= count)
    names = dice.sample(lex.TOWNS, count)
    cells = {divmod(i, width): name for i, name in enumerate(names)}
    speciality, sight = _Deck(dice, lex.SPECIALITIES), _Deck(dice, lex.SIGHTS)
    river, market = _Deck(dice, lex.RIVERS[:8]), _Deck(dice, lex.WEEKDAYS)
    towns = {}
    for (row, column), name in cells.items():
        around = {d: cells.get((row + dy, column + dx)) for d, (dy, dx) in lex.DIRECTIONS.items()}
        neighbours = {d: other for d, other in around.items() if other}
        towns[name] = Place(name, speciality.deal(), sight.deal(), river.deal(), market.deal(), neighbours)
    return towns


def _build_people(dice: Dice, count: int, towns: list[str]) -> dict[str, Person]:
    """Families of father, mother, one or two children and sometimes a grandparent, until ``count`` persons live."""
    deck = {
        "surname": _Deck(dice, lex.SURNAMES),
        "town": _Deck(dice, tuple(towns)),
        "job": _Deck(dice, tuple(lex.JOBS)),
        "dish": _Deck(dice, lex.DISHES),
        "hobby": _Deck(dice, lex.HOBBIES),
        "pet": _Deck(dice, lex.PETS),
        "pet_name": _Deck(dice, lex.PET_NAMES),
        "month": _Deck(dice, tuple(str(m) for m in range(1, 13))),
        "男parent": _Deck(dice, lex.MEN),
        "女parent": _Deck(dice, lex.WOMEN),
        "男child": _Deck(dice, lex.BOYS),
        "女child": _Deck(dice, lex.GIRLS),
        "男elder": _Deck(dice, lex.OLD_MEN),
        "女elder": _Deck(dice, lex.OLD_WOMEN),
    }
    people: dict[str, Person] = {}

    def person(sex: str, role: str, surname: str, home: str, ages: tuple[int, int], taken: set[int]) -> Person:
        name = surname + deck[sex + role].deal()
        while name in people:
            name = surname + deck[sex + role].deal()
        age = dice.between(*ages)
        while age in taken:
            age = dice.between(*ages)
        taken.add(age)
        with_pet = dice.chance(0.95)
        made = Person(
            name,
            sex,
            role,
            age,
            int(deck["month"].deal()),
            home,
            "" if role == "child" else deck["job"].deal(),
            deck["dish"].deal(),
            deck["hobby"].deal(),
            deck["pet"].deal() if with_pet else "",
            deck["pet_name"].deal() if with_pet else "",
        )
        people[name] = made
        return made

    while len(people) < count:
        surname, home, taken = deck["surname"].deal(), deck["town"].deal(), set()
        other = deck["surname"].deal()
        left = count - len(people)
        father = person("男", "parent", surname, home, (32, 48), taken)
        family = [father]
        if left > 1:
            family.append(person("女", "parent", other, home, (30, 46), taken))
        for n in range(min(left - 2, 2 if dice.chance(0.7) else 1)):
            low = 6 if n else 10
            family.append(person(dice.pick("男女"), "child", surname, home, (low, low + 4 - n), taken))
        if left > len(family) and dice.chance(0.5):
            family.append(person(dice.pick("男女"), "elder", surname, home, (60, 78), taken))
        _bind(family)
    return people


def _bind(family: list[Person]) -> None:
    """Write down each member's relatives; a relation that two persons would share (two sons) is left out."""
    father, mother = family[0], family[1] if len(family) > 1 else None
    children = [p for p in family if p.role == "child"]
    elders = [p for p in family if p.role == "elder"]
    if mother:
        father.kin["妻子"], mother.kin["丈夫"] = mother.name, father.name
    for child in children:
        son = "儿子" if child.sex == "男" else "女儿"
        same = [c for c in children if c.sex == child.sex]
        child.kin["爸爸"] = father.name
        if mother:
            child.kin["妈妈"] = mother.name
        for parent in (father, mother):
            if parent and len(same) == 1:
                parent.kin[son] = child.name
        for other in children:
            if other.age > child.age:
                child.kin["哥哥" if other.sex == "男" else "姐姐"] = other.name
            elif other.age < child.age:
                child.kin["弟弟" if other.sex == "男" else "妹妹"] = other.name
    for elder in elders:
        man = elder.sex == "男"
        father.kin["父亲" if man else "母亲"] = elder.name
        elder.kin["儿子"] = father.name
        for child in children:
            child.kin["爷爷" if man else "奶奶"] = elder.name
            if len([c for c in children if c.sex == child.sex]) == 1:
                elder.kin["孙子" if child.sex == "男" else "孙女"] = child.name
