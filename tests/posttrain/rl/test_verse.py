"""Metre and rhyme of verses that everybody knows, and of what only looks like them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.posttrain.rl.verse import FORMS, judge, lines_of, sounds

#: 王之涣, 登鹳雀楼: regulated, rhyme in -ou.
STORK = "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"
#: 杜甫, 绝句.
ORIOLES = "两个黄鹂鸣翠柳，一行白鹭上青天。窗含西岭千秋雪，门泊东吴万里船。"


@pytest.mark.parametrize(("text", "form"), [(STORK, "五绝"), (ORIOLES, "七绝")])
def test_verses_of_the_tang_pass_but_for_entering_tones(text: str, form: str) -> None:
    found = judge(text, form)
    assert found.form == 1.0 and found.rhyme == 1.0
    assert found.metre > 0.7
    assert judge(text).total == found.total > 0.85


def test_rules_that_are_broken_cost() -> None:
    good = judge(STORK)
    assert judge(STORK.replace("楼", "山")).rhyme < good.rhyme
    flat = judge("天天天天天，天天天天天。天天天天天，天天天天天。")
    # Of 4 places within lines, 2 couplets and 1 join only the join is alike; the third line ends level.
    assert flat.metre == pytest.approx(1 / 7) and flat.rhyme < 1.0
    assert judge(STORK.replace("流", "落")).rhyme < good.rhyme


def test_the_metre_by_hand() -> None:
    """平 天, 仄 月. Second places 平仄仄平, fourth ones against them: every rule holds; then one place is broken."""
    whole = "天天月月月，天月天天天。天月天天月，天天月月天。"
    assert judge(whole).metre == 1.0
    assert judge("天天月天" + whole[4:]).metre == pytest.approx(6 / 7)


@pytest.mark.parametrize("text", ["", "你好", "白日依山尽，黄河入海流。", STORK.replace("白", ""), "abc\n" * 4])
def test_another_form_earns_nothing(text: str) -> None:
    found = judge(text)
    assert found.form < 1 and found.total == 0


def test_form_asked_for() -> None:
    assert judge(STORK, "五绝").total > 0 == judge(STORK, "七绝").total == judge(STORK, "五律").total


def test_sounds() -> None:
    assert {sound.level for sound in sounds("天")} == {True}
    assert {sound.level for sound in sounds("月")} == {False}
    # Two readings, zhang and chang: 长 suits both kinds.
    assert {sound.level for sound in sounds("长")} == {True, False}
    # 诗 ends in another i than 衣.
    assert {s.rhyme for s in sounds("诗")}.isdisjoint({s.rhyme for s in sounds("衣")})
    assert {s.rhyme for s in sounds("流")} == {s.rhyme for s in sounds("楼")}
    assert sounds("a") == frozenset()


@given(st.text(alphabet="天月山水，。\nab ", max_size=60), st.sampled_from([*FORMS, "auto"]))
def test_any_text_gets_shares(text: str, form: str) -> None:
    found = judge(text, form)
    assert all(0 <= share <= 1 for share in found) and 0 <= found.total <= 1
    assert all(line for line in lines_of(text))
