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
        a, b = dice.between(2, 6), dice.between(2, 6)
        steps, result = f"{b}×{a}={a * b}", a * b
    slots |= {"a": str(a), "b": str(b)}
    rivals = tuple(str(n) for n in range(max(1, result - 5), result + 6) if n != result)
    return Problem(
        "sum",
        f"sum/{form}",
        ("sum", form, str(a), str(b)),
        slots,
        steps,
        str(result),
        rivals,
        1,
        "",
        (f"{result}{measure}", f"{result}{measure}{noun}"),
    )


def story(dice: Dice, names: Sequence[str]) -> Problem:
    p, x = dice.pick(names), dice.pick(lex.THINGS)
    *way, fourth = dice.sample(lex.SPOTS, 4)
    take = ("{p}带着{x}出门。", "{p}拿起{x}。", "{x}在{p}手里。", "{p}随身带着{x}。")
    walk = (
        "{p}先去了{a}，又去了{b}，最后到了{c}。",
        "{p}先到{a}，再到{b}，最后来到{c}。",
        "{p}先走到{a}，接着去了{b}，最后去了{c}。",
    )
    a, b, c = way
    told = dice.pick(take).format(p=p, x=x) + dice.pick(walk).format(p=p, a=a, b=b, c=c)
    now = dice.chance(0.6)
    value = c if now else a
    steps = f"{x}在{p}手里，{p}最后到了{c}" if now else f"{p}先到了{a}"
    return Problem(
        "story",
        "story/now" if now else "story/first",
        ("story", p, x, a, b, c),
        {"s": told, "x": x, "p": p},
        steps,
        value,
        tuple(v for v in (*way, fourth) if v != value),
        2 if now else 1,
        "",
        (f"在{value}",),
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


def shift_month(month: int, later: bool) -> tuple[str, str]:
    """The month after or before ``month``, and the sentence that says so."""
    there = f"{(month % 12 + 1) if later else (month - 2) % 12 + 1}月"
    return there, f"{month}月的{'下' if later else '上'}一个月是{there}"
