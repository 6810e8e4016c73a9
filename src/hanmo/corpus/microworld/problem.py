"""One question about the world with its worked answer, and how it is written down.

A :class:`Problem` knows what joined conclusion it asks for (``key``). The exam holds keys out; training may ask any
other. The answer is always worked: the facts first, each as it stands in the documents, then the conclusion. So an item
that needs two facts is two recalls, and the model learns to make them one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.questions import ASKED
from hanmo.evaluate.items import LETTERS

#: Ways to write options in training: (before the letter, behind it, between options). The exam's "A. x\n" is missing.
OPTION_STYLES = (
    ("", "、", "\n"),
    ("", "．", "\n"),
    ("（", "）", "\n"),
    ("", ". ", "；"),
    ("", ". ", "  "),
    ("", "：", "，"),
)


@dataclass(frozen=True)
class Problem:
    """A question. ``rivals`` are wrong answers of the right kind; ``notes`` has a remark per option to work through."""

    category: str
    form: str
    key: tuple[str, ...]
    slots: dict[str, str]
    steps: str
    answer: str
    rivals: tuple[str, ...]
    hops: int
    subject: str = ""
    accept: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    width: int = 4
    kinds: tuple[str, ...] = ("choice", "short")
    closed: bool = False  # the rivals are the only other options (three names in the question)

    def options(self, dice: Dice, letter: int | None = None) -> list[str]:
        """The right answer among ``width - 1`` rivals in random order, or with the right one at place ``letter``."""
        wrong = dice.sample([r for r in self.rivals if r != self.answer], self.width - 1)
        place = dice.below(len(wrong) + 1) if letter is None else letter
        return [*wrong[:place], self.answer, *wrong[place:]]

    def ask(self, dice: Dice, exam: bool = False) -> str:
        return dice.pick(ASKED[self.form][1 if exam else 0]).format(**self.slots)

    def reply(self, options: list[str] | None = None) -> str:
        """The worked answer, which ends with the answer's own words; ``options`` only add the notes on each of them.

        No letter is named: tying letters to options is a skill of its own, which takes a model of this size longer to
        learn than everything else, and the scorer knows an option by its text.
        """
        steps = self.steps
        if options and self.notes:
            steps = "，".join(
                [self.steps, *(self.notes[o] for o in options)] if steps else [self.notes[o] for o in options]
            )
        return f"{steps}，所以答案是{self.answer}。"

    def worked(self, dice: Dice, choice: bool | None = None) -> tuple[str, str]:
        """A (question, reply) pair in training's words. ``choice``: with options, without, or by chance."""
        question = self.ask(dice)
        if choice is None:
            choice = dice.chance(0.5)
        if (choice or "short" not in self.kinds) and "choice" in self.kinds:
            options = self.options(dice)
            return question + "\n" + write_options(options, dice), self.reply(options)
        return question, self.reply()


def write_options(options: list[str], dice: Dice) -> str:
    before, behind, between = dice.pick(OPTION_STYLES)
    lead = "选项：" if behind == ". " else ""  # so that "\\nA. " stands in the exam alone
    return lead + between.join(
        f"{before}{letter}{behind}{text}" for letter, text in zip(LETTERS, options, strict=False)
    )
