"""Single facts told in many ways. Each function returns one clause without its closing punctuation."""

from __future__ import annotations

from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld.bank_words import tell_legs
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.world import Person, Place

PERSON = {
    "home": (
        "{s}住在{v}",
        "{s}住在{v}",
        "{s}的家在{v}",
        "{s}是{v}人",
        "{s}和家人住在{v}",
        "{s}在{v}安了家",
        "{s}的家就在{v}",
    ),
    "age": ("{s}{v}岁", "{s}今年{v}岁", "{s}今年{v}岁", "{s}已经{v}岁了", "{s}的年龄是{v}岁", "今年{s}{v}岁"),
    "month": (
        "{s}的生日在{v}月",
        "{s}的生日在{v}月",
        "{s}是{v}月出生的",
        "{s}出生在{v}月",
        "一到{v}月，{s}就要过生日了",
    ),
    "job": (
        "{s}是一名{v}",
        "{s}是一名{v}",
        "{s}的职业是{v}",
        "{s}当{v}很多年了",
        "{s}在{where}工作，是一名{v}",
        "{s}是一名{v}，每天{what}",
    ),
    "dish": (
        "{s}最爱吃{v}",
        "{s}最爱吃{v}",
        "{s}最喜欢吃的是{v}",
        "说起吃的，{s}最爱{v}",
        "只要有{v}吃，{s}就很高兴",
        "{s}最馋的是{v}",
    ),
    "hobby": (
        "{s}喜欢{v}",
        "{s}喜欢{v}",
        "{s}的爱好是{v}",
        "一有空，{s}就会{v}",
        "{s}闲下来的时候爱{v}",
        "{s}最大的乐趣是{v}",
    ),
    "pet": (
        "{s}养的是{v}",
        "{s}养了一{m}{v}",
        "{s}养了一{m}{v}，名叫{nick}",
        "{s}养的是{v}，名叫{nick}",
        "{s}家里有一{m}叫{nick}的{v}",
    ),
}
KIN = ("{s}的{r}是{v}", "{s}的{r}是{v}", "{s}的{r}叫{v}", "{v}是{s}的{r}", "{s}有{one}，名叫{v}")
PLACE = {
    "speciality": (
        "{s}的特产是{v}",
        "{s}的特产是{v}",
        "{s}盛产{v}",
        "{s}的{v}远近闻名",
        "{s}出产的{v}又多又好",
        "说到{s}，人人都知道那里的{v}",
    ),
    "sight": ("{s}的名胜是{v}", "{s}的名胜是{v}", "到{s}的人都要去看{v}", "{s}最值得看的是{v}", "{s}的{v}很有名"),
    "river": ("流过{s}的河是{v}", "流过{s}的河是{v}", "{v}从{s}边上流过", "{s}在{v}岸边", "{s}的人喝的是{v}的水"),
    "market": (
        "{s}逢{v}赶集",
        "{s}逢{v}赶集",
        "{s}的集市在{v}",
        "{v}是{s}赶集的日子",
        "每到{v}，{s}就热闹起来，因为那天赶集",
    ),
}
NEIGHBOUR = (
    "{s}的{d}边是{v}",
    "{s}的{d}边是{v}",
    "{v}在{s}的{d}边",
    "从{s}往{d}走一站，就到{v}",
    "{s}往{d}紧挨着{v}",
    "{s}{d}边的邻居是{v}",
)
ANIMAL = {
    "eats": ("{s}爱吃{v}", "{s}爱吃{v}", "{s}最喜欢的食物是{v}", "喂{s}要用{v}"),
    "call": ("{s}的叫声是{v}", "{s}的叫声是{v}", "{s}“{v}”地叫", "{s}叫起来是“{v}”"),
    "home": ("{s}常在{v}", "{s}常在{v}", "{s}住在{v}", "在{v}能找到{s}"),
    "trait": ("{s}{v}", "大家都知道，{s}{v}", "{s}有个特点：{v}"),
}


def person(dice: Dice, who: Person, attribute: str, subject: str | None = None) -> str:
    """A clause about ``who``; ``subject`` is the name unless another word (他, 我) is given."""
    where, what = lex.JOBS.get(who.job, ("", ""))
    measure = lex.ANIMAL[who.pet].measure if who.pet else ""
    return dice.pick(PERSON[attribute]).format(
        s=subject or who.name, v=getattr(who, attribute), where=where, what=what, m=measure, nick=who.pet_name
    )


def kin(dice: Dice, who: Person, relation: str, subject: str | None = None) -> str:
    siblings = {"哥哥", "姐姐", "弟弟", "妹妹", "儿子", "女儿", "孙子", "孙女"}
    ways = KIN if relation in siblings else KIN[:-1]
    one = f"一个{relation}"
    return dice.pick(ways).format(s=subject or who.name, r=relation, v=who.kin[relation], one=one)


def place(dice: Dice, where: Place, attribute: str, subject: str | None = None) -> str:
    return dice.pick(PLACE[attribute]).format(s=subject or where.name, v=getattr(where, attribute))


def neighbour(dice: Dice, where: Place, direction: str, subject: str | None = None) -> str:
    return dice.pick(NEIGHBOUR).format(s=subject or where.name, d=direction, v=where.neighbours[direction])


def animal(dice: Dice, kind: lex.Animal, attribute: str, subject: str | None = None) -> str:
    if attribute == "legs":
        return tell_legs(kind)
    return dice.pick(ANIMAL[attribute]).format(s=subject or kind.name, v=getattr(kind, attribute))
