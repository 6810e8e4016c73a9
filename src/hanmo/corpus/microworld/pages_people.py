"""Pages about persons: portraits, introductions of oneself, families, letters, diaries and talks."""

from __future__ import annotations

from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld import tell
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.teller import Teller
from hanmo.corpus.microworld.world import Person

REMARKS = (
    "认识{s}的人都说{s}很和气",
    "邻居们都喜欢{s}",
    "{s}说话不快，可是句句在理",
    "{s}每天起得很早",
    "{s}常常帮助别人",
    "{s}的笑声老远就能听见",
    "{s}做事从不马虎",
    "{s}答应的事一定会做到",
    "谁家有事，{s}总是第一个到",
    "{s}待人很热情",
    "{s}不爱多说话，心里却什么都明白",
    "{s}总是把东西放得整整齐齐",
    "{s}走到哪里都带着笑",
    "{s}记性好，什么事都忘不了",
    "{s}最怕别人等自己，所以从不迟到",
    "{s}相信日子会越过越好",
    "{s}喜欢安安静静地想事情",
    "{s}爱讲笑话，常逗得大家哈哈大笑",
)
OPENINGS = (
    "说说{n}吧。",
    "今天介绍一位朋友：{n}。",
    "{n}是大家都熟悉的人。",
    "我来介绍{n}。",
    "你认识{n}吗？",
    "",
    "",
    "",
)
LINKS = ("", "", "", "", "另外，", "大家都知道，", "听说，", "还有，")
WEATHER = ("晴", "多云", "阴", "小雨", "大风", "雾", "晴转多云", "阵雨")
MOODS = (
    "今天过得真快。",
    "心里很高兴。",
    "晚上睡得很香。",
    "我想，明天一定也是个好日子。",
    "虽然有点累，但是很值得。",
    "这样的日子真好。",
    "我把这件事记下来，免得以后忘了。",
    "睡觉以前，我又想了一遍今天的事。",
    "希望明天还能这样。",
    "这一天没有白过。",
)
DEEDS = (
    "帮邻居抬了一张桌子",
    "把旧衣服补好了",
    "给院子里的花浇了水",
    "买了一双新布鞋",
    "修好了一把旧椅子",
    "读完了一本书",
    "收到了一封远方的信",
    "和朋友下了一盘棋",
    "洗了满满一盆衣服",
    "学会了一首儿歌",
    "把菜园里的草拔干净了",
    "捡到一把钥匙，交还给了失主",
    "去看了一场电影",
)
EVENTS = (
    *DEEDS,
    "早上起来，推开窗户，空气很新鲜",
    "上午把屋子打扫了一遍",
    "中午和家里人一起吃饭",
    "下午在树下坐了一会儿",
    "傍晚出门散步，遇见了几个熟人",
    "晚上在灯下写字",
    "听见树上有鸟叫",
    "看见天边有一道彩虹",
    "煮了一锅热汤",
    "在门口贴了一副对联",
    "在窗前听了一会儿雨声",
)


def known(who: Person) -> list[str]:
    """The attributes that ``who`` has."""
    return [a for a in ("home", "age", "month", "job", "dish", "hobby", "pet") if getattr(who, a)]


def portrait(t: Teller, dice: Dice, who: Person | None = None) -> str:
    """Several facts about a person, with name and pronoun in turn; behind a relative's name always the name."""
    who = who or dice.pick(t.people)
    told = ["fact"] * dice.between(3, 7) + ["kin"] * dice.between(0, 2) + ["remark"] * dice.between(0, 2)
    facts, relations = iter(dice.shuffled(known(who))), iter(dice.shuffled(list(who.kin)))
    remarks = iter(dice.shuffled(REMARKS))
    sentences: list[str] = []
    clear = False  # whether 他 or 她 can only mean this person
    for kind in ["fact", *dice.shuffled(told[1:])]:
        subject = who.pronoun if clear and dice.chance(0.6) else who.name
        if kind == "kin":
            relation = next(relations, None)
            if relation:
                sentences.append(tell.kin(dice, who, relation, subject))
                clear = False
        elif kind == "remark":
            sentences.append(next(remarks).format(s=subject))
        else:
            fact = next(facts, None)
            if fact:
                clause = tell.person(dice, who, fact, subject)
                sentences.append((dice.pick(LINKS) if sentences and "，" not in clause else "") + clause)
                clear = True
    if dice.chance(0.5):
        joined = t.join(dice, who, who.name)
        sentences.extend([joined] if joined else [])
    return dice.pick(OPENINGS).format(n=who.name) + flow(dice, sentences)


def flow(dice: Dice, clauses: list[str]) -> str:
    """Clauses as sentences, some of them in pairs joined by a comma; of two 他, 她, 它 or 我 the second is left out."""
    text = ""
    joined = False
    for n, clause in enumerate(clauses):
        before = clauses[n - 1] if joined else "。。"
        if clause[0] in "他她它我" and clause[0] == before[0] and "的" not in (clause[1], before[1]):
            clause = clause[1:] if clause[1] not in "们和家" else clause
        after = clauses[n + 1] if n + 1 < len(clauses) else "，"
        joined = not joined and "，" not in clause + after and dice.chance(0.45)
        text += clause + ("，" if joined else "。")
    return text


def introduction(t: Teller, dice: Dice) -> str:
    """A person speaks of himself or herself before others."""
    who = dice.pick(t.people)
    start = dice.pick(
        ("大家好，我叫{n}。", "我是{n}，很高兴认识大家。", "各位好！我的名字是{n}。", "我叫{n}，请大家多关照。")
    )
    sentences = [tell.person(dice, who, a, "我") for a in dice.sample(known(who), dice.between(3, 6))]
    for relation in dice.sample(list(who.kin), dice.between(0, 2)):
        sentences.insert(dice.below(len(sentences) + 1), tell.kin(dice, who, relation, "我"))
    end = dice.pick(("谢谢大家！", "希望和你们成为朋友。", "以后请多来我家玩。", "我的介绍完了。", "有空一起聊天吧。"))
    return start.format(n=who.name) + flow(dice, sentences) + end


def family(t: Teller, dice: Dice) -> str:
    """One household: who is whose, each member's own facts under his or her own name."""
    who = dice.pick(t.people)
    members = [who, *(t.world.people[name] for name in dict.fromkeys(who.kin.values()))]
    title = dice.pick(("{n}家住在{h}。", "{h}有一户人家，就是{n}家。", "说说{n}一家，他们住在{h}。")).format(
        n=who.name, h=who.home
    )
    bonds = [tell.kin(dice, m, r) for m in members for r in m.kin if dice.chance(0.5)]
    own = [tell.person(dice, m, a) for m in members for a in dice.sample(known(m), dice.between(1, 2))]
    joins = [j for m in members if dice.chance(0.4) and (j := t.join(dice, m, m.name))]
    body = flow(dice, dice.shuffled(bonds)[:5])
    rest = "".join(f"{s}。" for s in dice.shuffled([*own, *joins])[: dice.between(3, 7)])
    end = dice.pick(
        ("一家人和和气气，日子过得很好。", "晚上，一家人围着桌子吃饭，有说有笑。", "他们家常常传出笑声。", "")
    )
    return title + body + "\n" + rest + end


def letter(t: Teller, dice: Dice) -> str:
    """A letter from one person to another about the writer's own life."""
    a, b = dice.sample(t.people, 2)
    greeting = dice.pick(("{b}，你好！", "亲爱的{b}：\n你好！", "{b}：\n见字如面。", "{b}，好久不见！")).format(
        b=b.name
    )
    open_ = dice.pick(
        (
            "很高兴成为你的笔友，先说说我自己。",
            "谢谢你的来信，现在轮到我介绍自己了。",
            "听说你想认识新朋友，我就给你写了这封信。",
            "我们还没有见过面，让我介绍一下自己吧。",
        )
    )
    facts = [tell.person(dice, a, x, "我") for x in dice.sample(known(a), dice.between(2, 5))]
    news = f"{dice.pick(('前天', '昨天', '上个星期', '这几天'))}我{dice.pick(DEEDS)}。"
    wish = dice.pick(("祝你身体健康！", "祝一切顺利！", "盼望你的回信。", "有空请来做客。", "祝你天天快乐！"))
    date = f"{dice.between(1, 12)}月{dice.between(1, 28)}日"
    return f"{greeting}{open_}{flow(dice, facts)}{news}{wish}\n{a.name}\n{date}"


def diary(t: Teller, dice: Dice) -> str:
    """A day in a person's own words."""
    who = dice.pick(t.people)
    month, day = dice.between(1, 12), dice.between(1, 28)
    season = lex.SEASON_OF[month]
    head = f"{who.name}的日记\n{month}月{day}日　{dice.pick(lex.WEEKDAYS)}　{dice.pick(WEATHER)}\n"
    first = dice.pick((f"{month}月是{season}，", f"{season}到了，", "今天", f"又是{month}月了，", ""))
    events = dice.sample(EVENTS, dice.between(2, 4))
    habits = []
    if dice.chance(0.6):
        habits.append(f"我喜欢{who.hobby}，今天又{dice.pick(('玩得很开心', '忙了半天', '过足了瘾', '忘了时间'))}")
    if dice.chance(0.5):
        habits.append(f"晚饭有{who.dish}，那是我最爱吃的")
    if who.pet and dice.chance(0.5):
        habits.append(
            f"{who.pet_name}是我养的{who.pet}，它今天{dice.pick(('很乖', '睡了一整天', '一直跟着我', '胃口很好'))}"
        )
    if month == who.month and dice.chance(0.7):
        habits.append(f"{month}月是我过生日的月份，我许了一个愿")
    if dice.chance(0.4):
        habits.append(tell.person(dice, who, dice.pick(known(who)), "我"))
    return head + first + "。".join(dice.shuffled([*events, *habits])) + "。" + dice.pick(MOODS)


#: what is asked in a talk -> how the other one is asked, and how the question is handed back
ASKED_OF = {
    "home": ("你住在哪里？", "你家在哪儿？", "你是哪里人？"),
    "age": ("你今年多大了？", "你几岁了？", "能问问你的年龄吗？"),
    "month": ("你几月过生日？", "你的生日在几月？"),
    "job": ("你做什么工作？", "你是做哪一行的？"),
    "dish": ("你最爱吃什么？", "你喜欢吃什么？"),
    "hobby": ("你有什么爱好？", "你平时喜欢做什么？"),
    "pet": ("你养了什么动物？", "你有宠物吗？"),
}


def talk(t: Teller, dice: Dice) -> str:
    """Two persons meet and ask about each other, each line under its speaker's name."""
    a, b = dice.sample(t.people, 2)
    lines = [f"{a.name}：{dice.pick(('你好！', '你好，我叫' + a.name + '。', '早上好！', '很高兴认识你。'))}"]
    asker, other = a, b
    for attribute in dice.sample(known(b), dice.between(2, 4)):
        lines[-1] += dice.pick(ASKED_OF[attribute])
        told = tell.person(dice, other, attribute, "我")
        lines.append(f"{other.name}：{told}。{dice.pick(('你呢？', '', '')) if getattr(asker, attribute) else ''}")
        if lines[-1].endswith("你呢？"):
            lines.append(f"{asker.name}：{tell.person(dice, asker, attribute, '我')}。")
        else:
            lines.append(f"{asker.name}：{dice.pick(('原来是这样。', '真好。', '我记住了。', '是吗？真有意思。'))}")
    lines[-1] += dice.pick(("谢谢你，再见！", "下次再聊吧。", "有空来我家玩。", ""))
    return "\n".join(lines)
