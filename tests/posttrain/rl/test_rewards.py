"""Rewards by hand."""

from __future__ import annotations

from typing import Any

import pytest

from hanmo.posttrain.rl.rewards import Rewards, Task, by_arithmetic, choice, exact, item_of, length
from hanmo.posttrain.settings import RlSettings


def task(prompt: str, reference: str) -> Task:
    return Task([{"role": "user", "content": prompt}], reference)


SUM = task("陈俊有4个苹果，又得到4个，一共几个？", "4+4=8，所以答案是8。")
PICK = task("灯笼在哪里？\nA．井边\nB．阳台\nC．竹林", "灯笼在陈俊手里，所以答案是竹林。")
INLINE = task("一共多少个？\n选项：A. 13；B. 20；C. 16", "答案是C。")


def test_exact() -> None:
    assert exact(SUM, "我想，答案是8。") == 1 and exact(SUM, "8") == 1
    assert exact(SUM, "答案是9。") == 0 and exact(SUM, "") == 0 and exact(SUM, "答案是8，也可能答案是9。") == 0
    assert exact(task("你好", "你好，很高兴见到你。"), "你好") is None


def test_choice() -> None:
    assert [choice(PICK, text) for text in ("答案是C。", "选C", "答案是竹林。", "C")] == [1, 1, 1, 1]
    assert [choice(PICK, text) for text in ("答案是A。", "选A或者选C", "不知道", "")] == [0, 0, 0, 0]
    assert choice(INLINE, "答案是16。") == 1 and choice(INLINE, "答案是B。") == 0
    assert choice(SUM, "答案是8。") is None
    assert item_of("A. 一样；B. 一样") is None and item_of("只有A. 一项") is None


def test_arithmetic() -> None:
    assert by_arithmetic(SUM, "4+4=8，所以答案是8。") == 1 and by_arithmetic(SUM, "8个") == 1
    assert by_arithmetic(SUM, "4+4=9，所以答案是8。") == 0 and by_arithmetic(SUM, "答案是9") == 0
    assert by_arithmetic(SUM, "没有数字") == 0
    assert by_arithmetic(PICK, "3") is None


def test_length() -> None:
    judge = length(4, 10)
    assert [judge(SUM, "字" * count) for count in (0, 2, 4, 10, 15, 20, 50)] == [0, 0.5, 1, 1, 0.5, 0, 0]


def test_weights_and_parts() -> None:
    settings = RlSettings(rewards={"exact": 2, "format": 0.5, "length": -1}, pattern="。$", characters=[1, 5])
    rewards = Rewards(settings, None)
    parts = rewards.parts([SUM, SUM], ["答案是8。", "9"])
    assert parts == {"exact": [1, 0], "format": [1, 0], "length": [1, 1]}
    assert rewards.total(parts) == [1.5, -1]
    assert rewards.applies(SUM) and not rewards.applies(task("你好", "你好，很高兴见到你。"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rewards": {"exakt": 1}}, "rewards: 'exakt' is none.*'exact'"),
        ({"rewards": {}}, "none has a weight"),
        ({"rewards": {"exact": 0}}, "none has a weight"),
        ({"rewards": {"format": 1}}, "pattern: reward format needs"),
        ({"rewards": {"format": 1}, "pattern": "("}, "is no regular expression"),
        ({"rewards": {"length": 1}, "characters": [9, 3]}, "characters: two numbers"),
        ({"method": "ppo"}, "'grpo' or 'rloo'"),
    ],
)
def test_settings_say_what_is_wrong(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RlSettings(**given)
