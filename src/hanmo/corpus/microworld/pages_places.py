"""Pages about places and time: town guides, walks over the map, market days, the calendar."""

from __future__ import annotations

from hanmo.corpus.microworld import lexicon as lex
from hanmo.corpus.microworld import tell
from hanmo.corpus.microworld.bank_words import count_word, shift_month, shift_weekday
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.pages_people import flow
from hanmo.corpus.microworld.teller import Teller
from hanmo.corpus.microworld.world import Place

PRAISE = (
    "这里的人都很热情",
    "街上干干净净",
    "路边种满了柳树",
    "早上常有薄雾，好看极了",
    "老人们爱在树下聊天",
    "孩子们放学后在空地上玩",
    "房子大多是白墙黑瓦",
    "晚上很安静，只听得见水声",
    "住过的人都舍不得离开",
    "来过一次，就会想来第二次",
    "小路弯弯曲曲，通向田野",
)


def guide(t: Teller, dice: Dice, place: Place | None = None) -> str:
    """What a place is known for and what lies around it."""
    place = place or dice.pick(t.places)
    facts = [("fact", a) for a in dice.sample(("speciality", "sight", "river", "market"), dice.between(2, 4))]
    facts += [("near", d) for d in dice.sample(list(place.neighbours), dice.between(1, 4))]
    sentences = []
    for n, (kind, what) in enumerate(dice.shuffled(facts)):
        if kind == "near":
            sentences.append(tell.neighbour(dice, place, what, "这里" if n and dice.chance(0.3) else None))
        else:
            subject = place.name if n == 0 or dice.chance(0.6) else dice.pick(("这里", f"这个{place.kind}子"))
            sentences.append(tell.place(dice, place, what, subject))
    for remark in dice.sample(PRAISE, dice.between(0, 2)):
        sentences.insert(dice.between(1, len(sentences)), remark)
    start = dice.pick(
        (
            "",
            "",
            f"欢迎来到{place.name}！",
            f"{place.name}是个好地方。",
            f"{place.name}简介\n",
            f"让我们认识一下{place.name}。",
        )
    )
    return start + flow(dice, sentences)


def walk(t: Teller, dice: Dice) -> str:
    """A traveller goes from place to place."""
    steps = t.walk(dice, dice.between(2, 5))
    traveller = dice.pick(("一位货郎", "一个邮差", "一群学生", "一位老人", "两个朋友", "一个画家", "一支马队"))
    lines = [f"{traveller}从{steps[0][0].name}出发。"]
    for n, (here, d, there) in enumerate(steps):
        way = dice.pick(
            (
                "往{d}走，到了{v}",
                "{s}的{d}边是{v}，走了半天就到了",
                "向{d}走一站，就是{v}",
                "{s}的{d}边是{v}，便往{d}去",
            )
        )
        lines.append(dice.pick(("先", "") if n == 0 else ("接着", "然后", "再", "歇一歇，")) * ("{s}" not in way))
        lines[-1] += way.format(s=here.name, d=d, v=there.name) + "。"
        if dice.chance(0.6):
            lines.append(tell.place(dice, there, dice.pick(("speciality", "sight", "river", "market"))) + "。")
    lines.append(
        dice.pick(("这一路走得很开心。", "天黑的时候，该休息了。", "走到这里，路就走完了。", "一路上看了不少风景。"))
    )
    return "".join(lines)


def market(t: Teller, dice: Dice) -> str:
    """A market day: who sells what at which price."""
    place = dice.pick(t.places)
    measure, noun = dice.pick(lex.GOODS)
    price, count = dice.between(2, 9), dice.between(2, 9)
    buyer = dice.pick(("一位老奶奶", "一个小伙子", "一位阿姨", "一个小姑娘", "一位大叔"))
    start = dice.pick(
        (
            f"{place.name}逢{place.market}赶集。",
            f"今天是{place.market}，{place.name}赶集。",
            f"{place.market}是{place.name}赶集的日子，街上挤满了人。",
        )
    )
    stall = dice.pick(
        (
            f"集上最多的是{place.speciality}，因为{place.name}的特产是{place.speciality}。",
            f"到处都是卖{place.speciality}的，{place.name}盛产{place.speciality}嘛。",
            f"{place.name}的{place.speciality}摆满了摊子，又新鲜又便宜。",
        )
    )
    deal = dice.pick(
        (
            f"{buyer}问：“{noun}怎么卖？”摊主说：“{price}元一{measure}。”{buyer[2:]}要了{count}{measure}，"
            f"{price}×{count}={price * count}，付了{price * count}元。",
            f"有人卖{noun}，一{measure}{price}元。{buyer}买了{count}{measure}，"
            f"一共{price * count}元，因为{price}×{count}={price * count}。",
        )
    )
    nouns = dice.sample(WARES, 3)
    goods = "、".join(f"{count_word(dice.between(1, 9))}{lex.MEASURE_OF[n]}{n}" for n in nouns)
    other = dice.pick(
        (f"旁边的摊子上摆着{goods}。", f"有人买了{goods}，高高兴兴地回家了。", f"{buyer}还看中了{goods}。", "")
    )
    end = dice.pick(
        ("太阳偏西，集市才慢慢散了。", "直到中午，人还是很多。", "赶集真热闹！", "大家都说今天没有白来。", "")
    )
    return start + dice.pick((stall + deal, deal + stall, stall, deal)) + other + end


def calendar(t: Teller, dice: Dice) -> str:
    """Weekdays counted forward and back, months and seasons, festivals."""
    lines = []
    for _ in range(dice.between(2, 5)):
        what = dice.below(4)
        if what == 0:
            day, days, later = dice.pick(lex.WEEKDAYS), dice.between(1, 2), dice.chance(0.5)
            lines.append(shift_weekday(day, days, later)[1] + "。")
        elif what == 1:
            month = dice.between(1, 12)
            season = lex.SEASON_OF[month]
            lines.append(shift_month(month, dice.chance(0.5))[1] + "。")
            lines.append(
                dice.pick(
                    (
                        f"{month}月是{season}。",
                        f"{month}月是{season}，{WEATHER_OF[season]}。",
                        f"到了{month}月，就是{season}了。",
                    )
                )
            )
        elif what == 2:
            season = dice.pick(list(lex.SEASONS))
            months = "、".join(f"{m}月" for m in lex.SEASONS[season])
            lines.append(dice.pick((f"{months}都是{season}。", f"{season}有三个月：{months}。")))
        else:
            name, (date, custom) = dice.pick(list(lex.FESTIVALS.items()))
            lines.append(
                dice.pick(
                    (
                        f"{name}在{date}，这一天人们{custom}。",
                        f"{date}是{name}，大家{custom}。",
                        f"到了{name}，人们{custom}。",
                    )
                )
            )
    place, n = dice.pick(t.places), dice.between(1, 2)
    there, told = shift_weekday(place.market, n, True)
    if dice.chance(0.4) and t.may("day", place.name, there):
        lines.append(f"{place.name}逢{place.market}赶集，{told}，也就是说，赶集过后{count_word(n)}天是{there}。")
    if dice.chance(0.4):
        today = dice.below(7)
        yesterday, today, tomorrow, after = (lex.WEEKDAYS[(today + d) % 7] for d in (-1, 0, 1, 2))
        lines.append(f"今天是{today}，明天是{tomorrow}，后天是{after}，昨天是{yesterday}。")
    return dice.pick(("看日历\n", "日子一天天过去。", "说说日历。", "")) + "".join(dice.shuffled(lines))


WARES = tuple(
    n
    for m in "条本把件双顶支块盏面"
    for n in lex.MEASURES[m].split()
    if n not in ("河", "小路", "石板", "路灯", "轿子", "帐篷")
)
WEATHER_OF = {
    "春天": "草绿了，花开了",
    "夏天": "天气热，蝉声不断",
    "秋天": "天高云淡，果子熟了",
    "冬天": "天气冷，有时会下雪",
}
