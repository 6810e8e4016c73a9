"""How things are asked: for every form of question, phrasings used in training and others kept for the exam.

What is new in the exam is who and what is asked about. Phrasings in which names stand densely serve training and exam
alike; of the others the exam has its own. Together with joins that are held out, this keeps any 13 consecutive
characters of an exam item out of the training text (``overlap.py`` checks it), and it means that a right answer needs
the facts and the sense of the question, not a remembered sentence.
"""

from __future__ import annotations

import re

#: form -> phrasings in training and in the exam, separated by spaces
_PHRASINGS: dict[str, tuple[str, str]] = {
    # one fact
    "fact/home": (
        "{p}住在哪里？ {p}的家在什么地方？ {p}是哪里人？ {p}家住何处？ 你知道{p}住在哪儿吗？ "
        "想去{p}家做客，要到哪里去？ 给{p}寄信，该寄到什么地方？ {p}一家住在什么地方？ 要找{p}，得往哪里走？",
        "要去{p}家做客，该往哪里走？ 寄给{p}的信，该送到什么地方？",
    ),
    "fact/month": (
        "{p}的生日在几月？ {p}是几月出生的？ {p}几月过生日？ {p}的生日是哪个月？ 给{p}过生日，要等到几月？ "
        "{p}在哪个月过生日？ 几月里有{p}的生日？ 请记住{p}的生日，那是几月？",
        "要等到哪个月，才能给{p}过生日？ 哪个月份里有{p}的生日？",
    ),
    "fact/job": (
        "{p}是做什么工作的？ {p}的职业是什么？ {p}靠什么工作谋生？ {p}在做哪一行？ {p}每天做什么工作？ "
        "{p}干的是哪一行？ 说说{p}的工作是什么。 {p}上班做的是什么工作？",
        "{p}谋生靠的是哪一行工作？ 每天上班，{p}干的是什么工作？",
    ),
    "fact/dish": (
        "{p}最爱吃什么？ {p}最喜欢吃的是什么？ 什么吃的最合{p}的口味？ {p}喜欢吃哪一样？ 请{p}吃饭，做什么好？ "
        "{p}最馋什么？ 做什么吃的会让{p}高兴？",
        "请{p}来吃饭，做哪一样最合口味？ 什么吃的会让{p}最高兴？",
    ),
    "fact/hobby": (
        "{p}的爱好是什么？ {p}平时喜欢做什么？ {p}空闲的时候爱干什么？ {p}有什么爱好？ {p}有空会做什么？ "
        "{p}最大的乐趣是什么？ 闲下来的时候，{p}喜欢做什么？",
        "有空的时候，{p}最喜欢做什么？ {p}闲下来，最大的爱好是什么？",
    ),
    "fact/pet": (
        "{p}养的是什么动物？ {p}家里养了什么小动物？ {p}的宠物是什么？ {p}养了哪种动物？ {p}家里的小动物是什么？ "
        "{p}喂养的是哪种小动物？",
        "在{p}家里，养着的宠物是哪种动物？ {p}每天喂养的宠物是什么？",
    ),
    "fact/kin": (
        "{p}的{r}叫什么名字？ 谁是{p}的{r}？ {p}的{r}是谁？ 你知道{p}的{r}叫什么吗？ {p}叫谁{r}？ 说出{p}的{r}的名字。",
        "{p}有一位{r}，名字叫什么？ 被{p}叫作{r}的人是谁？",
    ),
    "fact/speciality": (
        "{t}的特产是什么？ {t}出产什么？ {t}盛产什么？ {t}最有名的特产是哪一样？ 从{t}带回来的特产是什么？ "
        "到{t}买特产，能买到什么？ {t}有什么土产？ {t}的土产是哪一样？",
        "到{t}去，能买到哪一样有名的土产？ 从{t}回来，人们会带什么特产？",
    ),
    "fact/sight": (
        "{t}有什么名胜？ {t}的名胜是什么？ 到{t}可以参观什么？ {t}最值得看的是什么？ 到{t}游玩，应该看什么？ "
        "{t}有什么好风景？ 游客到{t}都去看什么？",
        "游客去{t}参观，最值得看的名胜是什么？ {t}最好的风景是什么？",
    ),
    "fact/river": (
        "哪条河流过{t}？ 流过{t}的河叫什么？ {t}边上的河叫什么名字？ {t}在哪条河边？ {t}的人喝的是哪条河的水？ "
        "在{t}能看到哪条河？ 到{t}划船，在哪条河上划？",
        "{t}的人划船，会在哪条河上划？ 从{t}边上流过的是哪条河？",
    ),
    "fact/market": (
        "{t}星期几赶集？ {t}哪天赶集？ {t}的集市在星期几？ {t}的赶集日是星期几？ 去{t}赶集，应该星期几去？ "
        "{t}在星期几有集市？ {t}哪一天有集市？",
        "要去{t}的集市，应该在哪一天去？ {t}有集市的那天是星期几？",
    ),
    # a person's home and what is known of that place
    "home/speciality": (
        "{p}住的地方有什么特产？ {p}家乡的特产是什么？ {p}所在的{k}子出产什么？ 说一说{p}家乡的特产。 "
        "{p}家那里最有名的特产是哪一样？ 你知道{p}住的{k}子盛产什么吗？ 到{p}家去做客，能买到什么土产？ "
        "{p}把家乡的土产送给朋友，送的是什么？ {p}的家乡有什么土产？ {p}要寄家乡的特产，会寄什么？",
        "到{p}的家乡做客，能带回什么特产？ {p}想把家乡的特产送给客人，会送什么？",
    ),
    "home/sight": (
        "{p}住的地方有什么名胜？ {p}家乡的名胜是什么？ 到{p}住的{k}子可以参观什么？ 说一说{p}家乡的名胜。 "
        "{p}家那里最值得看的是什么？ 客人到{p}家那里游玩，该看什么？ {p}的家乡有什么好风景？ "
        "{p}带朋友参观家乡的名胜，看的是什么？",
        "客人到{p}的家乡游玩，应该参观什么？ {p}住的地方，最值得看的风景是什么？",
    ),
    "home/river": (
        "哪条河流过{p}住的地方？ {p}家乡的河叫什么名字？ 流过{p}住的{k}子的是哪条河？ {p}家旁边有一条河，它叫什么？ "
        "{p}的家乡在哪条河边？ {p}在家乡的河里划船，那条河叫什么？ {p}家乡的人喝的是哪条河的水？ "
        "{p}住的{k}子边上是哪条河？",
        "在{p}的家乡划船，会在哪条河上划？ {p}住的地方，边上流过的是哪条河？",
    ),
    "home/market": (
        "{p}住的地方星期几赶集？ {p}家乡的集市在星期几？ {p}住的{k}子哪天赶集？ {p}要在家乡赶集，应该在星期几去？ "
        "{p}家乡的赶集日是星期几？ {p}家那里哪一天有集市？ {p}的家乡在星期几有集市？",
        "{p}想去家乡的集市，应该在哪一天去？ {p}住的地方，有集市的那天是星期几？",
    ),
    # a relative and what is known of that person
    "family/job": (
        "{p}的{r}是做什么工作的？ {p}的{r}的职业是什么？ {p}的{r}在做哪一行？ 你知道{p}的{r}做什么工作吗？ "
        "{p}的{r}靠什么工作谋生？ {p}的{r}每天做什么工作？ {p}说起{r}的工作，会说是什么？ {p}的{r}干的是哪一行？ "
        "{p}的{r}上班做的是什么工作？",
        "每天上班，{p}的{r}干的是什么工作？ 说起{r}的职业，{p}会说是哪一行？",
    ),
    "family/dish": (
        "{p}的{r}最爱吃什么？ {p}的{r}最喜欢吃的是什么？ 什么吃的最合{p}的{r}的口味？ {p}的{r}喜欢吃哪一样？ "
        "{p}想请{r}吃饭，做什么好？ 做什么吃的会让{p}的{r}高兴？ {p}的{r}最馋什么？",
        "{p}请{r}来吃饭，做哪一样最合口味？ 什么吃的会让{p}的{r}最高兴？",
    ),
    "family/hobby": (
        "{p}的{r}的爱好是什么？ {p}的{r}平时喜欢做什么？ {p}的{r}空闲的时候爱干什么？ {p}的{r}有什么爱好？ "
        "{p}的{r}有空会做什么？ {p}的{r}最大的乐趣是什么？ {p}说起{r}的爱好，会说是什么？ "
        "闲下来的时候，{p}的{r}喜欢做什么？",
        "有空的时候，{p}的{r}最喜欢做什么？ {p}的{r}闲下来，最大的爱好是什么？",
    ),
    "family/month": (
        "{p}的{r}的生日在几月？ {p}的{r}是几月出生的？ {p}的{r}几月过生日？ {p}的{r}的生日是哪个月？ "
        "{p}给{r}过生日，是在几月？ {p}的{r}在哪个月过生日？ 给{p}的{r}过生日，要等到几月？",
        "{p}要给{r}过生日，得等到哪个月？ 哪个月份里有{p}的{r}的生日？",
    ),
    # a person's animal and what is known of its kind
    "pet/eats": (
        "{p}养的动物爱吃什么？ {p}的宠物吃什么？ {p}家的小动物最爱吃什么？ {p}用什么喂自己的宠物？ "
        "{p}养的小家伙喜欢吃什么？ 给{p}的宠物准备吃的，该准备什么？ {p}养的动物最喜欢的食物是什么？ "
        "喂{p}家的小动物要用什么？",
        "要喂{p}的宠物，该准备什么食物？ {p}养的小动物最喜欢吃哪一样？",
    ),
    "pet/call": (
        "{p}养的动物怎么叫？ {p}的宠物叫起来是什么声音？ {p}家的小动物的叫声是什么？ {p}养的小家伙是怎么叫的？ "
        "{p}的宠物的叫声是怎样的？ 听，{p}养的动物在叫，那是什么声音？",
        "听到{p}的宠物在叫，那是什么声音？ {p}家养的小动物，叫声是怎样的？",
    ),
    "pet/legs": (
        "{p}养的动物有几条腿？ {p}的宠物有多少条腿？ {p}家的小动物长着几条腿？ {p}养的小家伙有几条腿？ "
        "数一数{p}的宠物有几条腿。 {p}家的宠物长着多少条腿？",
        "{p}养的宠物，身上长着几条腿？ 数一数，{p}家的小动物有多少条腿？",
    ),
    # days and seasons
    "calendar/season": (
        "{p}的生日在哪个季节？ {p}是在什么季节出生的？ {p}过生日的时候是什么季节？ {p}在哪个季节过生日？ "
        "春夏秋冬，{p}的生日在哪一季？ 到了什么季节，就有{p}的生日？ 一到什么季节，{p}就过生日？",
        "{p}过生日，是在春夏秋冬的哪个季节？ 到了什么季节，{p}就要过生日？",
    ),
    "calendar/next": (
        "{p}生日的下一个月是几月？ {p}过完生日，下一个月是几月？ {p}的生日在几月，它的下一个月呢？ "
        "{p}过生日的月份，下一个月是几月？ 比{p}的生日晚一个月，是几月？ {p}过完生日，再过一个月会是几月？ "
        "{p}生日之后的那个月是几月？ 从{p}的生日往后数一个月，是几月？ {p}过生日以后，下一个月是几月？ "
        "哪个月比{p}的生日晚一个月？ 几月是{p}生日的下一个月？",
        "{p}过生日以后，再过一个月是几月？",
    ),
    "calendar/last": (
        "{p}生日的上一个月是几月？ {p}过生日前，上一个月是几月？ {p}的生日在几月，它的上一个月呢？ "
        "{p}过生日的月份，上一个月是几月？ 比{p}的生日早一个月，是几月？ 比{p}过生日早一个月，那是几月？ "
        "{p}生日之前的那个月是几月？ 从{p}的生日往前数一个月，是几月？ {p}过生日以前，上一个月是几月？ "
        "哪个月比{p}的生日早一个月？ 几月是{p}生日的上一个月？",
        "{p}过生日以前，早一个月是几月？",
    ),
    "calendar/after": (
        "{t}赶集过后{n}天是星期几？ {t}的赶集日再过{n}天是星期几？ 从{t}赶集那天往后数{n}天，是星期几？ "
        "{t}赶集，{n}天以后是星期几？ {t}的集市过后{n}天，是星期几？ 今天{t}赶集，再过{n}天是星期几？ "
        "{t}有集市，{n}天以后是星期几？ 从{t}的赶集日往后数{n}天，是星期几？ {t}赶集，往后{n}天会是星期几？ "
        "从{t}的集市算起，{n}天以后是星期几？ {t}今天赶集，往后再数{n}天是星期几？ "
        "哪天是{t}赶集的后一天？ 星期几是{t}集市的后一天？",
        "{t}今天有集市，{n}天以后会是星期几？ 从{t}的赶集日算起，往后{n}天是星期几？",
    ),
    "calendar/before": (
        "{t}赶集前{n}天是星期几？ {t}的赶集日往前数{n}天是星期几？ 离{t}赶集还有{n}天，今天是星期几？ "
        "{t}赶集，{n}天以前是星期几？ {t}的集市前{n}天，是星期几？ 再过{n}天{t}就赶集了，今天是星期几？ "
        "{t}有集市，往前{n}天是星期几？ 离{t}的集市还有{n}天，今天是星期几？ {t}赶集，往前{n}天会是星期几？ "
        "从{t}的集市算起，{n}天以前是星期几？ {t}今天赶集，往前再数{n}天是星期几？ "
        "哪天是{t}赶集的前一天？ 星期几是{t}集市的前一天？",
        "{t}有集市的那天，往前{n}天是星期几？ 离{t}的集市还有{n}天，那么今天是星期几？",
    ),
    # three ages
    "age/oldest": (
        "{a}、{b}和{c}，谁的年纪最大？ {a}、{b}和{c}三个人里谁最大？ 比一比{a}、{b}和{c}的年龄，谁最大？ "
        "{a}、{b}、{c}当中，谁的年龄最大？ 谁最大：{a}、{b}还是{c}？ {a}、{b}和{c}，哪一位年纪最大？ "
        "三个人里，{a}、{b}和{c}，数谁最大？",
        "比年龄，{a}、{b}、{c}当中最大的是哪一位？ {a}、{b}，还有{c}，三个人里数谁年纪最大？",
    ),
    "age/youngest": (
        "{a}、{b}和{c}，谁的年纪最小？ {a}、{b}和{c}三个人里谁最小？ 比一比{a}、{b}和{c}的年龄，谁最小？ "
        "{a}、{b}、{c}当中，谁的年龄最小？ 谁最小：{a}、{b}还是{c}？ {a}、{b}和{c}，哪一位年纪最小？ "
        "三个人里，{a}、{b}和{c}，数谁最小？",
        "比年龄，{a}、{b}、{c}当中最小的是哪一位？ {a}、{b}，还有{c}，三个人里数谁年纪最小？",
    ),
    # legs added
    "legs": (
        "{x}和{y}一共有几条腿？ {x}加上{y}，一共有多少条腿？ {x}和{y}合起来有几条腿？ "
        "算一算：{x}和{y}共有多少条腿？ {x}的腿加上{y}的腿，是多少条？ 数一数，{x}和{y}有多少条腿？ "
        "院子里有{x}，还有{y}，腿一共有几条？",
        "把{x}和{y}的腿合起来，是多少条？ 院子里有{x}和{y}，数一数共有几条腿？",
    ),
    # measure words
    "measure/pair": (
        "在空里填上量词：一（　）{x}，一（　）{y}。 “{x}”和“{y}”依次用什么量词？ 给“{x}”和“{y}”配上量词。 "
        "量词填空：一（　）{x}和一（　）{y}。 先写“{x}”的量词，再写“{y}”的量词。 "
        "“{x}”的量词和“{y}”的量词分别是什么？ 数“{x}”用什么量词？数“{y}”呢？",
        "先说“{x}”的量词，再说“{y}”的量词，依次是什么？ 数“{x}”和数“{y}”，分别用什么量词？",
    ),
    # opposites
    "antonym/pair": (
        "依次写出“{x}”和“{y}”的反义词。 “{x}”和“{y}”的反义词依次是什么？ "
        "“{x}”的反义词和“{y}”的反义词分别是什么？ 写反义词：“{x}”“{y}”。 "
        "先写“{x}”的反义词，再写“{y}”的反义词。 “{x}”“{y}”的反义词各是什么？ "
        "和“{x}”意思相反的词是什么？和“{y}”意思相反的呢？",
        "先说“{x}”的反义词，再说“{y}”的反义词，依次是什么？ 和“{x}”相反的词、和“{y}”相反的词，分别是什么？",
    ),
    # word problems
    "sum/add": (
        "{p}有{a}{m}{o}，又买来{b}{m}，现在一共有多少{m}？ {p}先数了{a}{m}{o}，后来又数了{b}{m}，一共是多少{m}？ "
        "左边有{a}{m}{o}，右边有{b}{m}{o}，合起来是多少{m}？ {p}原来有{a}{m}{o}，妈妈又给了{b}{m}，现在有多少{m}？ "
        "上午卖了{a}{m}{o}，下午卖了{b}{m}，一共卖了多少{m}？ 桌上放着{a}{m}{o}，{p}又放上{b}{m}，桌上有多少{m}？ "
        "{p}早上买来{a}{m}{o}，晚上又买来{b}{m}，加起来有多少{m}？ "
        "桌上原来放着{a}{m}{o}，后来又放上{b}{m}，合在一起是多少{m}？",
        "{p}上午买来{a}{m}{o}，下午又买来{b}{m}，合起来有多少{m}？ "
        "桌上原来有{a}{m}{o}，妈妈又放上{b}{m}，现在一共是多少{m}？",
    ),
    "sum/sub": (
        "{p}有{a}{m}{o}，送给别人{b}{m}，还剩多少{m}？ {p}原来有{a}{m}{o}，用掉了{b}{m}，还剩下多少{m}？ "
        "一共有{a}{m}{o}，拿走{b}{m}，还剩多少{m}？ {p}带了{a}{m}{o}，路上丢了{b}{m}，还有多少{m}？ "
        "桌上放着{a}{m}{o}，{p}拿走{b}{m}，桌上剩下多少{m}？ {p}要卖{a}{m}{o}，卖了{b}{m}，还有多少{m}没卖？",
        "桌上原来有{a}{m}{o}，{p}用掉了{b}{m}，现在还剩多少{m}？ {p}带了{a}{m}{o}，卖了{b}{m}，还剩下多少{m}？",
    ),
    "sum/mul": (
        "有{a}个盒子，每个盒子里有{b}{m}{o}，一共有多少{m}？ {p}每天得到{b}{m}{o}，{a}天一共得到多少{m}？ "
        "{a}个小朋友，每人分{b}{m}{o}，一共要多少{m}？ 每排放{b}{m}{o}，放了{a}排，一共是多少{m}？ "
        "一盒装{b}{m}{o}，{a}盒一共装多少{m}？ {p}买了{a}盒{o}，每盒{b}{m}，一共有多少{m}？ "
        "柜子里有{a}个盒子，每盒放{b}{m}{o}，加起来是多少{m}？ {p}每天送来{b}{m}{o}，送了{a}天，一共送了多少{m}？",
        "桌上有{a}个盒子，每盒装{b}{m}{o}，合起来是多少{m}？ {p}每天买{b}{m}{o}，买了{a}天，一共有多少{m}？",
    ),
    # stories
    "story/now": (
        "{s}请问{x}现在在哪里？ {s}想一想，{x}到哪里去了？ {s}现在要找{x}，应该去哪里找？ {s}{x}现在在什么地方？ "
        "{s}有人问：{x}在哪里？ {s}要用{x}的话，应该到哪里拿？ {s}那么，{x}在哪里呢？",
        "{s}有人要用{x}，应该去哪里拿？ {s}那么{x}现在在什么地方呢？",
    ),
    "story/first": (
        "{s}请问{p}先到了哪里？ {s}想一想，{p}先去了哪里？ {s}{p}先去了什么地方？ {s}有人问：{p}先到了哪里？ "
        "{s}{p}去的第一个地方是哪里？ {s}那么，{p}先走到哪里呢？",
        "{s}有人问：{p}去的第一个地方是哪里？ {s}那么{p}先去的是什么地方呢？",
    ),
}

#: The longest stretch without a telling slot with which a phrasing may serve training and exam alike, inside it and at
#: its end, where options follow: well below the 13 characters that no exam item shares with any training text.
INSIDE, AT_END = 9, 8
#: Slots of few values, by their usual length: 一天 or 两天 makes no other text, so they count as fixed characters. A
#: shared phrasing that leans on such slots would have the guard throw most training questions of its form away.
FEW = {"n": 1, "k": 1, "m": 1, "r": 2}


def _shared(form: str, phrasing: str) -> bool:
    """Whether names stand so densely in a phrasing that asking about others makes another text."""
    few = FEW | ({"x": 2} if form.startswith("story/") else {})  # there are only so many things to look for
    fixed = re.sub(r"\{(\w)\}", lambda slot: "＿" * few[slot[1]] if slot[1] in few else slot[0], phrasing)
    *inside, end = re.split(r"\{\w\}", fixed)
    return bool(inside) and max(map(len, inside)) <= INSIDE and len(end) <= AT_END


def _exam(form: str, training: list[str], own: list[str]) -> tuple[str, ...]:
    """The exam's phrasings: those of training that may be shared, else its own.

    The slots of word problems hold single digits, which part the text too little.
    """
    shared = [] if form.startswith("sum/") else [phrasing for phrasing in training if _shared(form, phrasing)]
    return tuple(shared or own)


#: form -> (phrasings in training, phrasings in the exam). The exam takes training's own words where it may.
ASKED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    form: (tuple(training.split(" ")), _exam(form, training.split(" "), exam.split(" ")))
    for form, (training, exam) in _PHRASINGS.items()
}
