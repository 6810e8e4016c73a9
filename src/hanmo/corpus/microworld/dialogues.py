"""Dialogues for instruction tuning and preference pairs, both in the words of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld import pages_people, pages_places, pages_stories
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.overlap import Guard
from hanmo.corpus.microworld.problem import Problem, write_options
from hanmo.corpus.microworld.teller import Teller

Turn = tuple[str, str]  # what the user says, what is replied

LEADS = ("请问，", "我想知道，", "老师，", "帮我看看，", "请回答：", "有个问题：", "你好，", "再问一个：", "考考你：")
SOCIAL: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("你好！", "你好", "您好", "早上好！", "嗨，你好呀"),
        ("你好！有什么可以帮你的吗？", "你好！很高兴见到你。", "你好！想聊点什么？"),
    ),
    (
        ("你是谁？", "你叫什么名字？", "介绍一下你自己吧", "请问你是谁"),
        ("我叫翰墨，是一个小小的中文语言模型。", "我是翰墨，一个小小的中文语言模型。"),
    ),
    (
        ("你会做什么？", "你能帮我做什么？", "你有什么本领？"),
        ("我认识小世界里的人和地方，会回答问题，也会讲小故事。", "我会回答小世界里的问题，也会做简单的算术。"),
    ),
    (
        ("谢谢你！", "谢谢", "多谢！", "你真厉害，谢谢"),
        ("不客气！", "不用谢，能帮上忙我很高兴。", "不客气，有问题再来问我。"),
    ),
    (("再见！", "再见", "我要走了", "下次再聊"), ("再见！祝你天天快乐。", "再见，欢迎再来。", "好的，下次再聊！")),
    (("你真笨！", "你怎么什么都不懂？"), ("对不起，我还在学习，请多多指教。", "很抱歉，我会继续努力的。")),
    (
        ("今天我不太开心", "我有点难过", "今天好累啊"),
        ("别难过，休息一下，明天会更好的。", "辛苦了，喝杯热水，早点休息吧。", "我陪你聊聊天，慢慢就会好起来的。"),
    ),
)
RUDE = ("不知道，自己去查。", "这么简单还要问？", "烦死了，别问我。", "我不想回答。", "你自己想吧。", "哼，懒得理你。")


def _social(t: Teller, dice: Dice) -> Turn:
    asked, replies = dice.pick(SOCIAL)
    return dice.pick(asked), dice.pick(replies)


def _unknown(t: Teller, dice: Dice) -> Turn:
    """Somebody the world does not hold."""
    while True:
        name = dice.pick(lex.SURNAMES) + dice.pick((*lex.MEN, *lex.GIRLS, *lex.BOYS, *lex.WOMEN))
        if name not in t.world.people:
            break
    asked = dice.pick(("{n}是谁？", "{n}住在哪里？", "介绍一下{n}。", "{n}最爱吃什么？", "你认识{n}吗？")).format(
        n=name
    )
    return asked, dice.pick(("对不起，我不认识{n}。", "很抱歉，我不认识{n}，没法回答。")).format(n=name)


def _open(t: Teller, dice: Dice) -> Turn:
    """Something to write rather than to answer."""
    what = dice.below(5)
    if what == 0:
        who = dice.pick(t.people)
        asked = dice.pick(("介绍一下{n}。", "请介绍{n}。", "说说{n}这个人。", "{n}是个什么样的人？", "给我讲讲{n}。"))
        return asked.format(n=who.name), pages_people.portrait(t, dice, who)
    if what == 1:
        place = dice.pick(t.places)
        asked = dice.pick(("介绍一下{n}。", "{n}是个什么样的地方？", "说说{n}。", "我想去{n}玩，给我讲讲那里。"))
        return asked.format(n=place.name), pages_places.guide(t, dice, place)
    if what == 2:
        return dice.pick(
            ("讲一个小故事吧。", "给我讲个动物故事。", "请讲一个寓言。", "我想听故事。")
        ), pages_stories.fable(t, dice)
    if what == 3:
        asked = dice.pick(("写一篇日记。", "请帮我写一篇短短的日记。", "写一段日记吧。"))
        return asked, pages_people.diary(t, dice)
    pairs = [dice.shuffled(p) for p in dice.sample(lex.ANTONYMS, dice.between(2, 4))]
    asked = dice.pick(("说几组反义词。", "请举几个反义词的例子。", "反义词有哪些？举几个例子。"))
    return asked, "，".join(f"{a}的反义词是{b}" for a, b in pairs) + "。"


def _asked(t: Teller, dice: Dice, problem: Problem) -> Turn:
    question, reply = problem.worked(dice, choice=None if problem.rivals else False)
    return (dice.pick(LEADS) if dice.chance(0.2) else "") + question, reply


def _followed(t: Teller, dice: Dice, count: int) -> list[Turn]:
    """Several questions about one person; the later ones say 他 or 她."""
    who = dice.pick(t.people)
    turns: list[Turn] = []
    for n in range(count):
        problem = t.problem(
            dice, dice.pick(("fact", "home", "family", "pet") if who.pet else ("fact", "home", "family")), who.name
        )
        question, reply = problem.worked(dice, choice=None if n == 0 else False)
        if n and problem.subject == who.name:
            question = dice.pick(("那", "", "还有，")) + question.replace(who.name, who.pronoun, 1)
        turns.append((question, reply))
    return turns


def _turns(t: Teller, dice: Dice) -> list[Turn]:
    kind = dice.weighted((("one", 50), ("many", 22), ("followed", 12), ("open", 8), ("social", 5), ("unknown", 3)))
    if kind == "one":
        return [_asked(t, dice, t.problem(dice))]
    if kind == "many":
        turns = [_asked(t, dice, t.problem(dice)) for _ in range(dice.between(2, 4))]
        if dice.chance(0.2):
            turns.insert(0, _social(t, dice))
        return turns
    if kind == "followed":
        return _followed(t, dice, dice.between(2, 3))
    if kind == "open":
        return [_open(t, dice), *([_asked(t, dice, t.problem(dice))] if dice.chance(0.3) else [])]
    if kind == "social":
        return [_social(t, dice), _asked(t, dice, t.problem(dice)), *([_social(t, dice)] if dice.chance(0.3) else [])]
    return [_unknown(t, dice), *([_asked(t, dice, t.problem(dice))] if dice.chance(0.5) else [])]


def dialogues(t: Teller, guard: Guard, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield ``count`` records ``{"messages": [...]}``, no two alike."""
    seen: set[tuple[Turn, ...]] = set()
    number = 0
    while len(seen) < count:
        turns = _turns(t, Dice(seed, "dialogue", number))
        number += 1
        if tuple(turns) in seen:
            guard.counts["repeated"] += 1
        elif all(guard.allows(f"{asked}\n{reply}") for asked, reply in turns):
            seen.add(tuple(turns))
            yield {"messages": [m for asked, reply in turns for m in (_say("user", asked), _say("assistant", reply))]}


def preferences(t: Teller, guard: Guard, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield ``count`` pairs ``{"prompt", "chosen", "rejected"}``, no two with the same prompt and replies."""
    seen: set[tuple[str, str, str]] = set()
    number = 0
    while len(seen) < count:
        dice = Dice(seed, "preference", number)
        number += 1
        if dice.chance(0.08):
            asked, chosen = _social(t, dice)
            rejected = dice.pick(RUDE)
        else:
            asked, chosen, rejected = _contrast(t, dice)
        if (asked, chosen, rejected) in seen:
            guard.counts["repeated"] += 1
        elif guard.allows(f"{asked}\n{chosen}") and guard.allows(rejected):
            seen.add((asked, chosen, rejected))
            yield {
                "prompt": [_say("user", asked)],
                "chosen": [_say("assistant", chosen)],
                "rejected": [_say("assistant", rejected)],
            }


def _contrast(t: Teller, dice: Dice) -> tuple[str, str, str]:
    """A question, its right reply, and one that is wrong, unfinished, undecided, out of form or rude."""
    problem = t.problem(dice)
    question = problem.ask(dice)
    options = None
    if "choice" in problem.kinds and ("short" not in problem.kinds or dice.chance(0.5)):
        options = problem.options(dice)
        question += "\n" + write_options(options, dice)
    chosen = problem.reply(options)
    wrong = [r for r in options or problem.rivals if r != problem.answer]
    fault = dice.weighted((("wrong", 45), ("unfinished", 20), ("undecided", 15), ("bare", 12), ("rude", 8)))
    steps = chosen.split("，所以答案是")[0]
    if fault == "wrong" and wrong:
        other = dice.pick(wrong)
        return question, chosen, f"{steps}，所以答案是{other}。"
    if fault == "undecided" and wrong:
        other = dice.pick(wrong)
        two = dice.shuffled((problem.answer, other))
        return question, chosen, f"答案可能是{two[0]}，也可能是{two[1]}。"
    if fault == "bare":
        return (
            question,
            chosen,
            dice.pick(("我觉得都可以。", "这个嘛，不好说。", "大概就是那样吧。", "这个问题很有意思。")),
        )
    if fault == "rude":
        return question, chosen, dice.pick(RUDE)
    return question, chosen, steps.split("，")[0] + "。"


def _say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
