"""Answers exam questions from world.json alone, by the words of the question: independent of the generator."""

from __future__ import annotations

import re
from typing import Any

from hanmo.evaluate.items import ExamItem

ATTRIBUTES = {  # words of a question -> what is asked; the first that is found counts
    "爱好": "hobby",
    "平时喜欢做": "hobby",
    "喜欢做什么": "hobby",
    "有空": "hobby",
    "乐趣": "hobby",
    "工作": "job",
    "职业": "job",
    "哪一行": "job",
    "吃": "dish",
    "口味": "dish",
    "馋": "dish",
    "养": "pet",
    "宠物": "pet",
    "特产": "speciality",
    "土产": "speciality",
    "出产": "speciality",
    "盛产": "speciality",
    "名胜": "sight",
    "参观": "sight",
    "值得看": "sight",
    "游玩": "sight",
    "风景": "sight",
    "游客": "sight",
    "河": "river",
    "集": "market",
    "生日": "month",
    "出生": "month",
    "住": "home",
    "家": "home",
    "哪里人": "home",
    "往哪里走": "home",
}
PET = {"吃": "eats", "叫": "call", "腿": "legs", "哪里": "home"}
NUMBERS = "零一两三四五六七八九十"


def attribute(question: str, table: dict[str, str] = ATTRIBUTES) -> str:
    return next(what for word, what in table.items() if word in question)


def solve(world: dict[str, Any], item: ExamItem) -> str:
    return globals()[f"_{item.category}"](world, item.question, item)


def _names(world: dict[str, Any], question: str, what: str) -> list[str]:
    return sorted((n for n in world[what] if n in question), key=question.index)


def _value(world: dict[str, Any], name: str, what: str) -> str:
    value = (world["people"].get(name) or world["places"].get(name))[what]
    return f"{value}月" if what == "month" else value


def _fact(world: dict[str, Any], question: str, item: ExamItem) -> str:
    people = _names(world, question, "people")
    if not people:
        return _value(world, _names(world, question, "places")[0], attribute(question))
    if re.search("叫什么|是谁|谁是|叫谁|的名字", question):
        kin = world["people"][people[0]]["kin"]
        return kin[next(r for r in sorted(kin, key=len, reverse=True) if r in question.replace(people[0], ""))]
    return _value(world, people[0], attribute(question))


def _home(world: dict[str, Any], question: str, item: ExamItem) -> str:
    person = world["people"][_names(world, question, "people")[0]]
    return world["places"][person["home"]][attribute(question)]


def _family(world: dict[str, Any], question: str, item: ExamItem) -> str:
    name = _names(world, question, "people")[0]
    rest = question.replace(name, "")
    kin = world["people"][name]["kin"]
    relation = next(r for r in sorted(kin, key=len, reverse=True) if r in rest)
    return _value(world, kin[relation], attribute(rest))


def _pet(world: dict[str, Any], question: str, item: ExamItem) -> str:
    person = world["people"][_names(world, question, "people")[0]]
    return str(world["animals"][person["pet"]][attribute(question, PET)])


def _calendar(world: dict[str, Any], question: str, item: ExamItem) -> str:
    people = _names(world, question, "people")
    if people:
        month = world["people"][people[0]]["month"]
        if "季" not in question:
            later = "下一个月" in question or "以后" in question or "晚" in question
            return f"{(month % 12 + 1) if later else (month - 2) % 12 + 1}月"
        return next(season for season, months in world["seasons"].items() if month in months)
    place = world["places"][_names(world, question, "places")[0]]
    days = next(NUMBERS.index(n) for n in re.findall("(.)天", question) if n in NUMBERS)
    sign = -1 if "前" in question or "还有" in question else 1
    week = world["weekdays"]
    return week[(week.index(place["market"]) + sign * days) % 7]


def _age(world: dict[str, Any], question: str, item: ExamItem) -> str:
    three = _names(world, question, "people")
    oldest = "最大" in question
    return sorted(three, key=lambda n: world["people"][n]["age"])[-1 if oldest else 0]


def _legs(world: dict[str, Any], question: str, item: ExamItem) -> str:
    kinds = [name for name in world["animals"] if re.search(f"[一两].{name}", question)]
    kinds = [name for name in kinds if not any(name != other and name in other for other in kinds)]
    assert len(kinds) == 2, (question, kinds)
    return str(sum(world["animals"][name]["legs"] for name in kinds))


def _measure(world: dict[str, Any], question: str, item: ExamItem) -> str:
    measures = world["measures"]
    nouns = re.findall("“(.+?)”", question) or re.findall(r"一（　）(.+?)(?=[，。]|和一|$)", question)
    return "、".join(measures[noun] for noun in nouns)


def _antonym(world: dict[str, Any], question: str, item: ExamItem) -> str:
    opposite = {a: b for pair in world["antonyms"] for a, b in (pair, pair[::-1])}
    return "、".join(opposite[word] for word in re.findall("“(.+?)”", question))


def _sum(world: dict[str, Any], question: str, item: ExamItem) -> str:
    numbers = [int(n) for n in re.findall(r"\d+", question)]
    minus = "剩" in question or "还有多少" in question
    if "盒子" in question or "每天买" in question:
        result = numbers[0] * numbers[1]
    else:
        result = numbers[0] if minus and len(numbers) == 2 else numbers[0] + numbers[1]
    return str(result - numbers[-1] if minus else result)


def _story(world: dict[str, Any], question: str, item: ExamItem) -> str:
    way = re.search(
        r"先(?:去了|到|走到)(.+?)，(?:又去了|再到|接着去了).+?，最后(?:到了|来到|去了)(.+?)。(.+)", question
    )
    assert way, question
    first, last, asked = way.groups()
    return first if "先" in asked or "第一个" in asked else last
