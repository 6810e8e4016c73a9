"""Sums in text, computed by a parser of our own: nothing is ever handed to `eval`.

The grammar is + - × ÷ and powers (^ or **) with their usual precedence, brackets, signs, decimals and per cent, in half
or full width. Values are exact fractions, so exponents must be whole. What is too long, too deep, too large or no sum
at all has no value.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

#: Longest expression in characters, deepest nesting and longest number: beyond them a text is no sum but an attack.
_LONGEST, _DEEPEST, _DIGITS = 200, 20, 15
#: Bits of a power's numerator and denominator at most.
_BITS = 1024
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\*\*|[-+*/()^%])")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-", "［": "(", "］": ")", "[": "(", "]": ")", "⁄": "/"})
_RAISED = re.compile(r"[⁰¹²³⁴-⁹]+")
_NUMBER = r"-?\d+(?:\.\d+)?%?"
_EQUATION = re.compile(rf"([-+*/^().%\d\s]*[-+*/^][-+*/^().%\d\s]*)=\s*({_NUMBER})(?![\d.]*\s*[-+*/^(])")
_LAST = re.compile(rf"(?<![\d.]){_NUMBER}")


class NoSum(ValueError):
    """A text that is no expression of the grammar, or has no value."""


def plain(text: str) -> str:
    """Half width, with the usual signs for × and ÷ and raised digits, and without separators of thousands."""
    text = _RAISED.sub(lambda digits: f"^{digits[0]}", text)
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def value(text: str) -> Fraction:
    """The value of an expression.

    Raises:
        NoSum: it is none, divides by zero, or is longer or deeper than any sum in words.
    """
    text = plain(text)
    if len(text) > _LONGEST:
        raise NoSum("too long")
    tokens, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if not match or len(match[1]) > _DIGITS:
            raise NoSum(f"unexpected at {at}")
        tokens.append(match[1])
        at = match.end()
    result, rest = _sum(tokens, 0, 0)
    if rest != len(tokens):
        raise NoSum("something follows the expression")
    return result


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    total, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        part, after = _product(tokens, at + 1, depth)
        total, at = (total + part if tokens[at] == "+" else total - part), after
    return total, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    total, at = _factor(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "*/":
        part, after = _factor(tokens, at + 1, depth)
        if tokens[at] == "/" and part == 0:
            raise NoSum("division by zero")
        total, at = (total * part if tokens[at] == "*" else total / part), after
    return total, at


def _factor(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    if depth > _DEEPEST:
        raise NoSum("too deep")
    if at >= len(tokens):
        raise NoSum("it ends too early")
    if tokens[at] in "+-":
        part, after = _factor(tokens, at + 1, depth + 1)
        return (part if tokens[at] == "+" else -part), after
    base, at = _atom(tokens, at, depth)
    while at < len(tokens) and tokens[at] == "%":
        base, at = base / 100, at + 1
    if at < len(tokens) and tokens[at] in ("^", "**"):
        exponent, at = _factor(tokens, at + 1, depth + 1)
        return _power(base, exponent), at
    return base, at


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise NoSum("an exponent that is not whole")
    if base == 0 and exponent < 0:
        raise NoSum("division by zero")
    if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > _BITS:
        raise NoSum("too large")
    return base ** int(exponent)


def _atom(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    token = tokens[at]
    if token == "(":
        part, at = _sum(tokens, at + 1, depth + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise NoSum("a bracket is not closed")
        return part, at + 1
    if not token[0].isdigit():
        raise NoSum(f"unexpected '{token}'")
    return Fraction(token), at + 1


def number(text: str) -> Fraction:
    """The value of one number, per cent included."""
    return Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)


def equations(text: str) -> list[bool]:
    """Of every `expression = number` in a text, whether it holds; what cannot be computed does not."""
    found = []
    for left, right in _EQUATION.findall(plain(text)):
        try:
            found.append(value(left) == number(right))
        except NoSum:
            found.append(False)
    return found


def last_number(text: str) -> Fraction | None:
    """The last number in a text, or None."""
    found = [token for token in _LAST.findall(plain(text)) if len(token) <= _DIGITS]
    return number(found[-1]) if found else None
