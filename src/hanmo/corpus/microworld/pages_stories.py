"""Little stories: things that are put down and carried about, and fables of two animals."""

from __future__ import annotations

from itertools import pairwise

from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld import tell
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.teller import Teller

TIMES = (
    "早上，",
    "中午，",
    "傍晚，",
    "放学以后，",
    "星期天，",
    "有一天，",
    "天刚亮，",
    "吃过饭，",
    "雨停了，",
    "太阳下山的时候，",
)
ENDS = (
    "大家都笑了。",
    "这件事就这样过去了。",
    "后来，人们还常常说起这件事。",
    "谁也没有再问。",
    "从此以后，他们更加小心了。",
    "一天就这样过完了。",
    "原来事情这么简单。",
    "他们高高兴兴地回家了。",
)
FABLES = (
    (
        "{a}和{b}比赛跑步。{a}跑得快，{b}跑得慢。可是{a}在半路上睡着了，{b}一步也不停，最后{b}赢了，{a}输了。",
        "骄傲的人会输，坚持的人会赢。",
    ),
    (
        "{a}勤劳，{b}懒惰。春天，{a}忙着存粮食，{b}只顾晒太阳。到了冬天，{a}吃得饱饱的，{b}却饿着肚子。",
        "勤劳才有饭吃。",
    ),
    ("{a}掉进了深沟，喊了半天。{b}听见了，找来一根长绳子，把{a}拉了上来。{a}说：“谢谢你！”", "朋友有难，要伸手相助。"),
    ("{a}对{b}说：“河水很浅，快过来吧。”{b}不敢相信，先用一根棍子试了试，才知道河水很深。", "遇事要自己试一试。"),
    ("{a}嫌{b}个子小，没有用。有一天，{a}被网缠住了，{b}个子小，钻进去把绳子咬断，救了{a}。", "个子小也能帮大忙。"),
    ("{a}捡到一个红苹果，{b}也想要。它们把苹果切成两半，一半给{a}，一半给{b}，两个都很高兴。", "好东西要一起分享。"),
    (
        "{a}说真话，{b}总说假话。后来{b}真的遇到危险，大声喊救命，却没有谁相信它，只有{a}跑来看了看。",
        "说假话的人，没有人相信。",
    ),
    ("天快下雨了，{a}忙着搬家，{b}却在玩。雨下起来，{a}的新家又干又暖和，{b}的旧家湿透了。", "做事要早做准备。"),
    ("{a}做事仔细，{b}做事粗心。它们一起盖房子，{a}盖的那一半很结实，{b}盖的那一半一吹就倒。", "粗心做不好事情。"),
    ("{a}和{b}都想当第一名。它们吵了半天，谁也不让谁。最后太阳下山了，比赛没有开始就结束了。", "争吵只会浪费时间。"),
)


def errand(t: Teller, dice: Dice) -> str:
    """A story of things and places, mostly with a question at its end."""
    problem = t.problem(dice, "story")
    story, start = problem.slots["s"], dice.pick(TIMES) if dice.chance(0.3) else ""
    if dice.chance(0.75):
        question, reply = problem.worked(dice)
        return f"{start}{question}\n{dice.pick(('答：', '', '回答：', '想好了：'))}{reply}"
    return f"{start}{story}{problem.steps}。{dice.pick(ENDS)}"


def fable(t: Teller, dice: Dice) -> str:
    """Two animals and a moral, with a true remark on each of them."""
    a, b = dice.sample([k for k in lex.ANIMALS if k.legs], 2)
    body, moral = dice.pick(FABLES)
    intro = dice.pick(
        (
            f"从前，有一{a.measure}{a.name}和一{b.measure}{b.name}。",
            f"{a.home}有一{a.measure}{a.name}，{b.home}有一{b.measure}{b.name}。",
            f"{a.name}和{b.name}是邻居。",
        )
    )
    facts = [tell.animal(dice, k, dice.pick(("eats", "trait", "home"))) + "。" for k in (a, b) if dice.chance(0.7)]
    told = body.format(a=a.name, b=b.name)
    lesson = dice.pick((f"这个故事告诉我们：{moral}", f"所以说，{moral}", moral, ""))
    return dice.pick((f"《{a.name}和{b.name}》\n", "")) + intro + "".join(facts) + told + lesson


def compare(t: Teller, dice: Dice) -> str:
    """Ages told side by side, never of two persons whom the exam compares."""
    people = dice.sample(t.people, dice.between(2, 4))
    lines = [tell.person(dice, p, "age") + "。" for p in people]
    for a, b in pairwise(people):
        if a.age != b.age and t.may("pair", *sorted((a.name, b.name))):
            old, young = (a, b) if a.age > b.age else (b, a)
            lines.append(
                dice.pick(
                    (
                        f"{old.name}{old.age}岁，{young.name}{young.age}岁，{old.name}比{young.name}大。",
                        f"{young.name}比{old.name}小，因为{young.name}{young.age}岁，{old.name}{old.age}岁。",
                    )
                )
            )
    return dice.pick(("", "比一比年龄。", "谁大谁小？")) + "".join(lines)
