"""Exam items: what they are, how they are shown to a model, and what counts as a right reply.

An exam is a JSON-lines file of :class:`ExamItem`. A choice item is answered by a letter, a short item by a few
characters. The scorer is strict on purpose, because a small model that lists every candidate must not pass:

* a **choice** reply is right when it chooses exactly one letter (``选B``, ``答案是B``, or the bare letter), and does
  not name another option's text as its answer;
* a **short** reply is right when what it gives as its answer, which is all of the text behind its only ``答案是`` (or
  the whole reply, if it is one clause), equals an accepted answer after normalisation. Nothing may follow the answer
  but punctuation.

The module is light (no torch), so that generators, trainers and reports can all import it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hanmo.errors import HanmoError
from hanmo.files import read_jsonl

T = TypeVar("T")
LETTERS = "ABCDEFGH"
_PUNCTUATION = "。．.！!？?；;，,、：:～~…\"'“”‘’「」（）()《》【】 \t\r\n"
_MARK = re.compile(r"(?:正确)?答案(?:应该|应当|就)?(?:是|为|[:：])")
_CHOSEN = re.compile(r"(?:应该|应当|所以|因此|故|就|我)?(?:选择|选)(?:的是|项|了|[:：])?[（(]?([A-Ha-h])(?![A-Za-z])")
_LETTER = re.compile(r"^[（(]?([A-Ha-h])[)）]?(?![A-Za-z])")


class ExamItem(BaseModel):
    """One question. ``answer`` is a letter for a choice item and the text itself for a short one."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1)
    category: str = Field(min_length=1)
    kind: Literal["choice", "short"]
    question: str = Field(min_length=1)
    choices: list[str] | None = None
    answer: str = Field(min_length=1)
    accept: list[str] = Field(default_factory=list)
    hops: Literal[1, 2] = 1

    @model_validator(mode="after")
    def _consistent(self) -> ExamItem:
        if self.kind == "short":
            if self.choices is not None:
                raise ValueError("choices: a short item has none")
            return self
        if not self.choices or not 2 <= len(self.choices) <= len(LETTERS):
            raise ValueError(f"choices: a choice item has 2 to {len(LETTERS)} of them")
        if len({normalise(c) for c in self.choices}) != len(self.choices):
            raise ValueError("choices: two of them are the same")
        if self.answer not in tuple(LETTERS[: len(self.choices)]):
            raise ValueError(f"answer: must be one of the letters {LETTERS[: len(self.choices)]}")
        return self

    @property
    def answer_text(self) -> str:
        """The right answer in words: the chosen option's text, or the short answer."""
        return self.choices[LETTERS.index(self.answer)] if self.choices else self.answer


def load_items(path: Path | str) -> list[ExamItem]:
    """Read an exam. Raises HanmoError that names file, line and field; also for a repeated id and for an empty file."""
    items: list[ExamItem] = []
    seen: dict[str, int] = {}
    for line, record in read_jsonl(Path(path)):
        try:
            item = ExamItem.model_validate(record)
        except ValidationError as error:
            first = error.errors()[0]
            what = first["msg"].removeprefix("Value error, ")
            if first["loc"]:  # a rule over several fields names its field itself
                what = f"{'.'.join(str(part) for part in first['loc'])}: {what}"
            raise HanmoError(f"{path}, line {line}: {what}; an exam line needs the fields of ExamItem") from None
        if item.id in seen:
            raise HanmoError(
                f"{path}, line {line}: id: {item.id!r} stands on line {seen[item.id]} too; ids must be unique"
            )
        seen[item.id] = line
        items.append(item)
    if not items:
        raise HanmoError(f"{path}: holds no exam item; give an exam.jsonl with at least one line")
    return items


def render_question(item: ExamItem) -> str:
    """The user message that asks ``item``: the question, and for a choice one ``A. text`` line per option."""
    if not item.choices:
        return item.question
    options = (f"{letter}. {text}" for letter, text in zip(LETTERS, item.choices, strict=False))
    return "\n".join((item.question, *options))


def normalise(text: str) -> str:
    """Width and case folded (NFKC), without white space and without punctuation at the two ends."""
    return "".join(unicodedata.normalize("NFKC", text).split()).strip(_PUNCTUATION).casefold()


def extract_short(reply: str) -> str | None:
    """The answer a reply gives, normalised; None if it gives none or several.

    With one ``答案是`` all that follows it is the answer. Without it, the reply must be a single clause.
    """
    parts = _MARK.split(reply.strip())
    if len(parts) > 2:
        return None
    answer = parts[-1].strip(_PUNCTUATION)
    if len(parts) == 1:
        answer = answer.removeprefix("是")
        if re.search(r"[。！？!?；;，,\n]", answer):
            return None
    return normalise(answer) or None


def extract_choice(reply: str, item: ExamItem) -> str | None:
    """The letter a reply chooses; None if it chooses none, several, or a letter and another option's text."""
    if not item.choices:
        return None
    allowed = LETTERS[: len(item.choices)]
    texts = {normalise(text): letter for text, letter in zip(item.choices, allowed, strict=True)}
    reply = unicodedata.normalize("NFKC", reply).strip()
    picked = {letter.upper() for letter in _CHOSEN.findall(reply)}
    answers = _MARK.split(reply)[1:]
    if not answers and not picked:  # a bare letter, a bare option, or "B. text"
        answers = [reply]
    for answer in answers:
        clause, *rest = re.split(r"[。!?;,\n]", answer.strip(), maxsplit=1)
        named = _named(clause, texts)
        if not named and not _CHOSEN.search(clause):
            return None  # what it gives as its answer is no option, or several
        picked |= named
        # behind its answer a reply may say more, but not bring another option into play
        picked |= {
            letter for text, letter in texts.items() if text in normalise("".join(rest)) and letter not in picked
        }
    return picked.pop() if len(picked) == 1 and picked <= set(allowed) else None


def _named(clause: str, texts: dict[str, str]) -> set[str]:
    """The letters that ``clause`` names: by an option's text, by a letter, or by a letter and a text ("B. 西瓜")."""
    if normalise(clause) in texts:
        return {texts[normalise(clause)]}
    letter = _LETTER.match(clause.strip("\"'“”‘’ "))
    if not letter:
        return set()
    rest = normalise(clause.strip("\"'“”‘’ ")[letter.end() :])
    if rest and rest not in texts:
        return set()
    return {letter[1].upper(), *([texts[rest]] if rest else [])}


def score(reply: str, item: ExamItem) -> bool:
    """Whether ``reply`` answers ``item`` rightly, by the rules in the module's docstring."""
    if item.kind == "choice":
        return extract_choice(reply, item) == item.answer
    answer = extract_short(reply)
    return answer is not None and answer in {normalise(text) for text in (item.answer, *item.accept)}


def chance(item: ExamItem) -> float:
    """The expected score of a blind guess: one in the number of options, and 0 for a short answer."""
    return 1.0 / len(item.choices) if item.choices else 0.0


def evenly(values: Sequence[T], most: int | None) -> list[T]:
    """At most `most` of the values (None: all), from all over the list."""
    count = len(values) if most is None else min(most, len(values))
    return [values[index * len(values) // count] for index in range(count)]


def wilson(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for ``k`` successes of ``n`` (Wilson 1927); z=1.96 gives 95 %. n=0 gives (0, 1)."""
    if n == 0:
        return 0.0, 1.0
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding must not push a bound past the share itself (0 of n, n of n).
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))
