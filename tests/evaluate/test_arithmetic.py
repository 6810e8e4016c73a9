"""Sums are computed exactly and never executed."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.evaluate.arithmetic import NoSum, equations, last_number, value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1+2*3", 7),
        ("(1+2)×3", 9),
        ("８÷４", 2),
        ("-3 - -2", -1),
        ("50%*4", 2),
        ("0.1+0.2", Fraction(3, 10)),
        ("1,000-1", 999),
        ("7/2", Fraction(7, 2)),
        ("2**9", 512),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("2^-1", Fraction(1, 2)),
        ("3.14×5²", Fraction(785, 10)),
        ("(20+30)%*[4-2]", 1),
    ],
)
def test_values(text: str, expected: Fraction) -> None:
    assert value(text) == expected


BAD = [
    "",
    "1+",
    "1/0",
    "2^0.5",
    "9^9^9",
    "0^(1-2)",
    "2^^2",
    "(1",
    "1)",
    "__import__('os')",
    "9" * 16,
    "(" * 30 + "1" + ")" * 30,
    "1+" * 200 + "1",
    "a",
]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_sum_has_no_value(text: str) -> None:
    with pytest.raises(NoSum):
        value(text)


_LEAVES = st.integers(0, 999).map(lambda number: (str(number), Fraction(number)))


def _joined(parts: tuple[tuple[str, Fraction], str, tuple[str, Fraction]]) -> tuple[str, Fraction]:
    (left, a), sign, (right, b) = parts
    return f"({left}{sign}{right})", {"+": a + b, "-": a - b, "×": a * b}[sign]


@given(st.recursive(_LEAVES, lambda inner: st.tuples(inner, st.sampled_from("+-×"), inner).map(_joined), max_leaves=6))
def test_it_computes_what_the_fractions_do(case: tuple[str, Fraction]) -> None:
    assert value(case[0]) == case[1]


@given(st.text(max_size=40))
def test_no_text_does_more_than_fail(text: str) -> None:
    with contextlib.suppress(NoSum):
        assert isinstance(value(text), Fraction)
    assert all(isinstance(one, bool) for one in equations(text))


def test_equations_in_a_reply() -> None:
    assert equations("4×4=16，所以答案是16。") == [True]
    assert equations("9-4=6，6+1=7") == [False, True]
    assert equations("先算(2+3)*2=10，再算10÷0=1") == [True, False]
    assert equations("3^2+1=10，5²=25") == [True, True]
    assert equations("没有算式，只有3和5。") == []


def test_the_last_number() -> None:
    assert last_number("4×4=16，所以答案是16。") == 16
    assert last_number("共3.5元") == Fraction(7, 2)
    assert last_number("气温是-3度") == -3
    assert last_number("没有") is None
