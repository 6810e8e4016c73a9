"""Pages from the classroom: animals, words, sums, exercise sheets and lessons in questions and answers."""

from __future__ import annotations

from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld import tell
from hanmo.corpus.microworld.bank_words import count_word, tell_legs
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.pages_people import flow
from hanmo.corpus.microworld.problem import write_options
from hanmo.corpus.microworld.teller import WEIGHTS, Teller


def animals(t: Teller, dice: Dice) -> str:
    """Notes about one to three animals."""
    lines = []
    for kind in dice.sample(lex.ANIMALS, dice.between(1, 3)):
        facts = dice.sample(
            [a for a in ("eats", "call", "home", "trait", "legs") if a != "call" or kind.call], dice.between(2, 5)
        )
        clauses = [
            tell.animal(dice, kind, a, kind.name if n == 0 or dice.chance(0.7) else "它") for n, a in enumerate(facts)
        ]
        if dice.chance(0.3):
            clauses.append(f"人们说“一{kind.measure}{kind.name}”")
        lines.append(flow(dice, clauses))
    return dice.pick(("动物笔记\n", "认识动物。", "", "")) + "\n".join(lines)


def riddles(t: Teller, dice: Dice) -> str:
    """Riddles about animals; the clues are facts, so a guess is a conclusion from several of them."""
    lines = []
    for kind in dice.sample(lex.ANIMALS, dice.between(2, 3)):
        clues = [
            f"它爱吃{kind.eats}",
            f"它{kind.trait}",
            f"它常在{kind.home}",
            f"它有{kind.legs}条腿" if kind.legs else "它没有腿",
        ]
        clues += [f"它叫起来是“{kind.call}”"] if kind.call else []
        asked = dice.pick(("猜猜它是什么动物？", "它是谁？", "打一种动物。", "请猜一猜。"))
        answer = dice.pick(("谜底：{n}。", "答：它是{n}。", "是{n}！", "猜对了，就是{n}。"))
        lines.append(
            "，".join(dice.sample(clues, dice.between(2, 4))) + "。" + asked + "\n" + answer.format(n=kind.name)
        )
    return dice.pick(("猜谜语\n", "", "")) + "\n".join(lines)


def measures(t: Teller, dice: Dice) -> str:
    """Measure words, by word or by noun."""
    lines = []
    for m in dice.sample(list(lex.MEASURES), dice.between(2, 4)):
        nouns = dice.sample(lex.MEASURES[m].split(), dice.between(2, 4))
        counted = [f"一{m}{n}" if dice.chance(0.6) else f"{count_word(dice.between(1, 9))}{m}{n}" for n in nouns]
        lines.append(
            dice.pick(
                (
                    f"“{m}”可以用来数{'、'.join(nouns)}。",
                    f"{'，'.join(counted)}，都用“{m}”。",
                    f"我们说{'、'.join(counted)}。",
                    f"{'、'.join(nouns)}的量词是“{m}”：{'，'.join(counted)}。",
                )
            )
        )
    if dice.chance(0.5):
        things = dice.sample(list(lex.MEASURE_OF), dice.between(3, 5))
        counted = [f"{count_word(dice.between(1, 9))}{lex.MEASURE_OF[n]}{n}" for n in things]
        who = dice.pick(t.people).name
        lines.append(
            dice.pick(
                (
                    f"{who}画了{'、'.join(counted)}。",
                    f"屋里有{'、'.join(counted)}。",
                    f"图画上有{'，还有'.join(counted)}。",
                )
            )
        )
    return dice.pick(("量词课\n", "今天学习量词。", "", "数东西要用量词。")) + "".join(dice.shuffled(lines))


def antonyms(t: Teller, dice: Dice) -> str:
    """Pairs of opposites."""
    lines = []
    for pair in dice.sample(lex.ANTONYMS, dice.between(3, 6)):
        a, b = dice.shuffled(pair)
        lines.append(
            dice.pick(
                (
                    f"{a}的反义词是{b}。",
                    f"{a}的反义词是{b}。",
                    f"{a}和{b}意思相反。",
                    f"{a}和{b}相反。",
                    f"“{a}”与“{b}”是一对反义词。",
                    f"不是{a}，而是{b}。",
                )
            )
        )
    return dice.pick(("反义词\n", "今天学习反义词。", "", "我们来找反义词。")) + "".join(lines)


def sums(t: Teller, dice: Dice) -> str:
    """Single equations with the numbers of the word problems; half of them in words, as corpora keep Chinese text."""
    lines = []
    for n in range(dice.between(6, 12)):
        a, b = dice.between(2, 9), dice.between(2, 9)
        kind = dice.below(5)
        if kind < 2:
            sign, word, c = "+", "加", a + b
        elif kind < 4:
            a, b = a + b, dice.between(1, min(9, a + b - 1))
            sign, word, c = "-", "减", a - b
        else:
            a, b = dice.between(2, 6), dice.between(2, 6)
            sign, word, c = "×", "乘", a * b
        lines.append(f"{a}{word}{b}等于{c}，{a}{sign}{b}={c}" if n % 2 == 0 else f"{a}{sign}{b}={c}")
    return (
        dice.pick(("算术练习\n", "口算：", "", "算一算："))
        + dice.pick(("。", "；", "\n")).join(dice.shuffled(lines))
        + "。"
    )


def legs(t: Teller, dice: Dice) -> str:
    """Counting legs, alone and together."""
    lines = [tell_legs(kind) + "。" for kind in dice.sample(lex.ANIMALS, dice.between(2, 5))]
    for _ in range(dice.between(1, 2)):
        lines.append(
            t.problem(dice, "legs")
            .worked(dice, choice=False)[1]
            .replace("所以答案是", "一共有")
            .replace("。", "条腿。")
        )
    return dice.pick(("数腿\n", "数一数动物的腿。", "")) + "".join(dice.shuffled(lines))


def exercises(t: Teller, dice: Dice) -> str:
    """A sheet of worked exercises of one kind or of several."""
    one = dice.weighted(WEIGHTS) if dice.chance(0.5) else None
    count = dice.between(2, 4)
    ask, tell_ = dice.pick(
        (
            ("问：", "答："),
            ("题目：", "解答："),
            ("题：", "解："),
            ("【题】", "【答】"),
            ("问题：", "回答："),
            ("练习：", "分析："),
        )
    )
    pages = []
    for _ in range(count):
        question, reply = t.problem(dice, one).worked(dice)
        pages.append(f"{ask}{question}\n{tell_}{reply}")
    return "\n".join(pages)


def lesson(t: Teller, dice: Dice) -> str:
    """A teacher asks, pupils answer."""
    one = dice.weighted(WEIGHTS) if dice.chance(0.4) else None
    pupils = dice.sample(t.people, 4)
    lines = [dice.pick(("上课了。", "老师走进教室。", "大家坐好了。", "讲台前，老师拿起粉笔。", ""))]
    for n in range(dice.between(2, 3)):
        problem = t.problem(dice, one)
        question, reply = problem.ask(dice), problem.reply()
        if "short" not in problem.kinds or (problem.rivals and dice.chance(0.3)):  # the options are read out
            options = problem.options(dice)
            question, reply = question + write_options(options, dice).replace("\n", "，"), problem.reply(options)
        who = (
            pupils[n].name
            if pupils[n].role == "child"
            else dice.pick(("小组长", "一个学生", "前排的同学", "班长", "同桌"))
        )
        asks = dice.pick(("老师问：“{q}”", "老师又问：“{q}”", "老师出了一道题：“{q}”", "只听老师说：“{q}”"))
        says = dice.pick(("{w}答道：“{a}”", "{w}站起来说：“{a}”", "{w}举手回答：“{a}”", "{w}想了想，说：“{a}”"))
        lines.append(asks.format(q=question.replace("“", "‘").replace("”", "’")) + says.format(w=who, a=reply))
    lines.append(dice.pick(("老师点点头：“答得好。”", "大家鼓起掌来。", "下课铃响了。", "老师说：“完全正确。”", "")))
    return "\n".join(line for line in lines if line)
