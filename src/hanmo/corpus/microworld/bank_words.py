"""Questions that need no person or place of the world: legs, words, numbers and little stories.

Each function draws one problem; see ``bank.py`` for the table of all kinds.
"""

from __future__ import annotations

from collections.abc import Sequence

from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.problem import Problem


def legs(dice: Dice) -> Problem:
    x, y = dice.sample(lex.ANIMALS, 2)
    while x.legs + y.legs == 0:
        x, y = dice.sample(lex.ANIMALS, 2)
    total = x.legs + y.legs
    steps = f"{tell_legs(x)}，{tell_legs(y)}，{x.legs}+{y.legs}={total}"
    return Problem(
        "legs",
        "legs",
        ("legs", *sorted((x.name, y.name))),
        {"x": f"一{x.measure}{x.name}", "y": f"一{y.measure}{y.name}"},
        steps,
        str(total),
        tuple(str(n) for n in range(2, 15, 2)),
        2,
        "",
        (f"{total}条", f"{total}条腿"),
    )


def measure(dice: Dice) -> Problem:
    x = dice.pick(list(lex.MEASURE_OF))
    m = lex.MEASURE_OF[x]
    y = dice.pick([n for n, other in lex.MEASURE_OF.items() if other != m])
    k = lex.MEASURE_OF[y]
    return Problem(
        "measure",
        "measure/pair",
        ("measure", *sorted((x, y))),
        {"x": x, "y": y},
        f"一{m}{x}，一{k}{y}",
        f"{m}、{k}",
        tuple(f"{a}、{b}" for a, b in ((k, m), *((o, k) for o in lex.MEASURES if o not in (m, k)))),
        2,
        "",
        (f"{m}，{k}", f"{m}和{k}", f"{m}{k}"),
        kinds=("short",),
    )


def antonym(dice: Dice) -> Problem:
    words = list(lex.OPPOSITE_WORD)
    x, y = dice.sample(words, 2)
    while lex.OPPOSITE_WORD[x] == y:
        x, y = dice.sample(words, 2)
    a, b = lex.OPPOSITE_WORD[x], lex.OPPOSITE_WORD[y]
    return Problem(
        "antonym",
        "antonym/pair",
        ("antonym", *sorted((x, y))),
        {"x": x, "y": y},
        f"{x}的反义词是{a}，{y}的反义词是{b}",
        f"{a}、{b}",
        (),
        2,
        "",
        (f"{a}，{b}", f"{a}和{b}"),
        kinds=("short",),
    )


def sums(dice: Dice, names: Sequence[str]) -> Problem:
    form = dice.pick(("add", "sub", "mul"))
    measure, noun = dice.pick(lex.GOODS)
    slots = {"p": dice.pick(names), "m": measure, "o": noun}
    a, b = dice.between(2, 9), dice.between(2, 9)
    if form == "add":
        steps, result = f"{a}+{b}={a + b}", a + b
    elif form == "sub":
        a += b
        steps, result = f"{a}-{b}={a - b}", a - b
    else:
        a, b = dice.between(2, 5), dice.between(2, 5)
        steps, result = f"{b}×{a}={a * b}", a * b
    numbers = (a, b) if form == "sub" else sorted((a, b))
    slots |= {"a": str(a), "b": str(b)}
    rivals = tuple(str(n) for n in range(max(1, result - 5), result + 6) if n != result)
    return Problem(
        "sum",
        f"sum/{form}",
        ("sum", form, *map(str, numbers)),
        slots,
        steps,
        str(result),
        rivals,
        1,
        "",
        (f"{result}{measure}", f"{result}{measure}{noun}"),
    )


def story(dice: Dice, names: Sequence[str]) -> Problem:
    actors = dice.sample(names, 2)
    things, spots = dice.sample(lex.THINGS, len(actors)), dice.sample(lex.SPOTS, len(actors))
    asked = dice.below(len(actors))
    p, x, v = actors[asked], things[asked], spots[asked]
    if dice.chance(0.5):
        put = ("{p}把{x}放在{v}。", "{p}将{x}留在了{v}。", "{x}被{p}放到了{v}。")
        lines = [dice.pick(put).format(p=a, x=t, v=s) for a, t, s in zip(actors, things, spots, strict=True)]
        form, steps, hops, lines = "put", f"{x}放在{v}", 1, dice.shuffled(lines)
    else:
        take = ("{p}拿起了{x}。", "{p}带上了{x}。", "{x}在{p}手里。", "{p}随身带着{x}。")
        move = ("{p}去了{v}。", "{p}来到{v}。", "{p}走到了{v}。", "{p}往{v}去了。")
        first = [dice.pick(take).format(p=a, x=t) for a, t in zip(actors, things, strict=True)]
        second = [dice.pick(move).format(p=a, v=s) for a, s in zip(actors, spots, strict=True)]
        lines = [*dice.shuffled(first), *dice.shuffled(second)]
        form, steps, hops = "carry", f"{x}在{p}手里，{p}去了{v}", 2
    story = "".join(lines)
    rivals = tuple(dict.fromkeys((*(s for s in spots if s != v), *(s for s in dice.sample(lex.SPOTS, 5) if s != v))))[
        :3
    ]
    return Problem(
        "story",
        f"story/{form}",
        ("story", story, x),
        {"s": story, "x": x},
        steps,
        v,
        rivals,
        hops,
        "",
        (f"在{v}",),
    )


def tell_legs(animal: lex.Animal) -> str:
    """「一只猫有4条腿」 or 「一条蛇没有腿」."""
    legs = f"有{animal.legs}条腿" if animal.legs else "没有腿"
    return f"一{animal.measure}{animal.name}{legs}"


def count_word(n: int) -> str:
    """How many, before a measure word: 两 and not 二."""
    return "零一两三四五六七八九十"[n]


def shift_weekday(day: str, days: int, later: bool) -> tuple[str, str]:
    """The weekday ``days`` later or earlier than ``day``, and the sentence that says so."""
    there = lex.WEEKDAYS[(lex.WEEKDAYS.index(day) + (days if later else -days)) % 7]
    way = f"再过{count_word(days)}天" if later else f"的{count_word(days)}天前"
    return there, f"{day}{way}是{there}"
