"""Metre (平仄) and rhyme of regulated verse (近体诗), by the sounds of today.

Tones and finals are pypinyin's; rhymes are the fourteen groups of 中华新韵 (2005). The rules, for four or eight lines
of five or seven characters:

* of the even positions, which bear the metre (二四六分明), each is of the other kind than the one before it;
* the second characters of the two lines of a couplet are of unlike kinds (对), those of its last line and of the next
  couplet's first are alike (粘);
* the even lines rhyme with each other and end level (平); the other lines but the first end oblique (仄). The first may
  do either: rhyme and end level, or end oblique.

By today's sounds, not those of the T'ang: the entering tone (入声) was oblique and has fallen into all four tones
since. A verse by 平水韵 that has such characters in oblique places loses some points here where they are level today.
A character of several readings counts as whichever suits the place.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from pypinyin import Style, pinyin

#: 中华新韵's groups by final; the finals of 支 are those i which stand behind these initials.
_GROUPS = (
    "a ia ua",
    "o e uo",
    "ie ve",
    "ai uai",
    "ei uei",
    "ao iao",
    "ou iou",
    "an ian uan van",
    "en in uen vn",
    "ang iang uang",
    "eng ing ueng ong iong",
    "i er v",
    "-i",
    "u",
)
_RHYME = {final: number for number, finals in enumerate(_GROUPS) for final in finals.split()}
_BUZZING = ("zh", "ch", "sh", "r", "z", "c", "s")
_FORMS = {"五绝": (4, 5), "七绝": (4, 7), "五律": (8, 5), "七律": (8, 7)}
FORMS = tuple(_FORMS)


class Sound(NamedTuple):
    """A reading: whether it is level (平: tones 1 and 2), and the number of its rhyme group (-1: none)."""

    level: bool
    rhyme: int


@functools.cache
def sounds(character: str) -> frozenset[Sound]:
    """All readings of a character; empty for what is no Han character."""
    kinds = [Style.FINALS_TONE3, Style.INITIALS]
    finals, initials = (pinyin(character, style=kind, heteronym=True, errors="ignore") for kind in kinds)
    if not finals:
        return frozenset()
    # The initials of a character's readings are listed without repeats: only where all agree do we know which.
    buzzing = bool(initials) and all(initial in _BUZZING for initial in initials[0])
    found = set()
    for final in finals[0]:
        tone = final[-1] if final[-1:].isdigit() else "5"
        base = final.rstrip("12345")
        base = "-i" if base == "i" and buzzing else base
        found.add(Sound(tone in "12", _RHYME.get(base, -1)))
    return frozenset(found)


class Judgement(NamedTuple):
    """Shares of the rules that hold: of the form (lines, characters), of the metre, of the rhymes; each 0 to 1."""

    form: float
    metre: float
    rhyme: float

    @property
    def total(self) -> float:
        """0 without the right form, else 0.2 for it and 0.4 for each of the others."""
        return 0.0 if self.form < 1 else 0.2 + 0.4 * self.metre + 0.4 * self.rhyme


def lines_of(text: str) -> list[str]:
    """The lines of a verse: what stands between marks of punctuation, ends of lines and spaces."""
    return [line for line in re.split(r"[^\u3400-\u9fff]+", text) if line]


def judge(text: str, form: str = "auto") -> Judgement:
    """Judge a verse.

    Args:
        form: one of `FORMS`, or "auto": whichever of them has as many lines of as many characters.
    """
    lines = lines_of(text)
    forms = [_FORMS[form]] if form != "auto" else list(_FORMS.values())
    fitting = [
        (count, width) for count, width in forms if len(lines) == count and all(len(li) == width for li in lines)
    ]
    if not fitting:
        best = max(sum(len(line) == width for line in lines[:count]) / max(count, len(lines)) for count, width in forms)
        return Judgement(min(best, 0.99), 0.0, 0.0)
    _, width = fitting[0]
    return Judgement(1.0, _metre(lines, width), _rhyme(lines))


def _kinds(character: str) -> set[bool]:
    return {sound.level for sound in sounds(character)}


def _differ(one: str, other: str) -> bool:
    """Whether some readings of the two are of unlike kinds."""
    return any(kind not in _kinds(other) or len(_kinds(other)) > 1 for kind in _kinds(one)) and bool(_kinds(other))


def _alike(one: str, other: str) -> bool:
    return bool(_kinds(one) & _kinds(other))


def _metre(lines: list[str], width: int) -> float:
    checks = []
    for line in lines:
        checks += [_differ(line[at], line[at + 2]) for at in range(1, width - 2, 2)]
    for at in range(len(lines) - 1):
        check = _differ if at % 2 == 0 else _alike
        checks.append(check(lines[at][1], lines[at + 1][1]))
    return sum(checks) / len(checks)


def _rhyme(lines: list[str]) -> float:
    ends = [sounds(line[-1]) for line in lines]
    rhyming = ends[1::2]
    groups = {sound.rhyme for end in rhyming for sound in end if sound.level and sound.rhyme >= 0}
    # The group that most lines rhyme in; a line that ends oblique rhymes in none.
    best = max((sum(any(s.level and s.rhyme == g for s in end) for end in rhyming) for g in groups), default=0)
    # A single line rhymes with nothing.
    checks = [float(best if best > 1 else 0)]
    for number, end in enumerate(ends[0::2]):
        oblique = any(not sound.level for sound in end)
        joins = number == 0 and any(
            one.level and one.rhyme >= 0 and one.rhyme in {s.rhyme for s in rhyming[0] if s.level} for one in end
        )
        checks.append(float(oblique or joins))
    return sum(checks) / (len(rhyming) + len(checks) - 1)
