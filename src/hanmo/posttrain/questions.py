"""The questions stage: records of a domain become dialogues to tune on and an exam that nobody is tuned on.

The exam asks which answer is a question's own: it is shown with answers to other held-out questions, those of the
likest lengths, so that length tells nothing. Which records are held out goes by a hash of their prompts: a prompt is
either learnt or asked.

Out: `sft.jsonl` to tune on; `exam.jsonl` (`hanmo eval --exam`); `heldout.jsonl`, the same questions with their
answers (`hanmo eval generation --task text --source question --target answer`); `records.json` with what became of
every record.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.evaluate.items import LETTERS, ExamItem, normalise
from hanmo.files import atomic_write, write_json
from hanmo.posttrain.forms import Dialogue
from hanmo.posttrain.records import Item, hold_out, read_items, sft_kind
from hanmo.posttrain.settings import QuestionsSettings

#: Of the records, at most this share is held out.
_SHARE = 0.2
#: Other answers are drawn from so many of the likest lengths, for each that is wanted.
_NEAREST = 5


def run(settings: QuestionsSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Part records; see the module for what is written.

    Inputs: "records" (record files of dialogues).

    Raises:
        HanmoError: faulty records, or fewer that can be asked than there are options.
    """
    items, account = read_items(inputs["records"], settings, sft_kind(settings))
    for line in account.lines({}):
        console.print(line, style="dim", soft_wrap=True, markup=False)
    train, held = hold_out(items, min(_SHARE, settings.held / len(items)))
    asked = [item for item in held if _short(item.value, settings.longest)]
    exam = make_exam(asked, settings.options, settings.seed)
    with atomic_write(out / "sft.jsonl", "wb") as file:
        for item in train:
            file.write(orjson.dumps({"messages": item.value}, option=orjson.OPT_APPEND_NEWLINE))
    with atomic_write(out / "exam.jsonl", "wb") as file:
        for question in exam:
            file.write(orjson.dumps(question.model_dump(exclude_none=True), option=orjson.OPT_APPEND_NEWLINE))
    with atomic_write(out / "heldout.jsonl", "wb") as file:
        for question in exam:
            record = {"id": question.id, "question": question.question, "answer": question.answer_text}
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    found = {"records": len(train), "held": len(exam), "held_but_not_asked": len(held) - len(exam)}
    write_json(out / "records.json", account.as_json() | found)
    console.print(
        f"{len(train)} dialogues to tune on, {len(exam)} held-out questions of {settings.options} answers each, "
        f"{len(held) - len(exam)} more held out and not asked (answers above {settings.longest} characters, or twice)",
        markup=False,
    )
    return found


def _short(dialogue: Dialogue, longest: int) -> bool:
    """Whether a dialogue begins with a question and an answer that an exam can show."""
    return dialogue[0]["role"] == "user" and len(dialogue[1]["content"].strip()) <= longest


def make_exam(held: list[Item], options: int, seed: int) -> list[ExamItem]:
    """A question for each dialogue's first exchange; answers that say the same are taken once.

    Raises:
        HanmoError: there are fewer than `options`.
    """
    own: dict[str, Item] = {}
    for item in held:
        if said := normalise(item.value[1]["content"]):
            own.setdefault(said, item)
    ranked = sorted(own.values(), key=lambda item: (len(item.value[1]["content"].strip()), item.number))
    if len(ranked) < options:
        raise HanmoError(
            f"only {len(ranked)} held-out questions can be asked, {options} answers are to be shown with each; give "
            "more records, or raise held or longest"
        )
    answers = [item.value[1]["content"].strip() for item in ranked]
    made = []
    for place, item in enumerate(ranked):
        dice = random.Random(f"{seed}:{item.draw}")
        near = sorted((at for at in range(len(ranked)) if at != place), key=lambda at: abs(at - place))
        others = dice.sample(near[: _NEAREST * (options - 1)], options - 1)
        choices = [answers[at] for at in (place, *others)]
        dice.shuffle(choices)
        made.append(
            ExamItem(
                id=f"{item.place.file.name}:{item.place.line}",
                category=item.place.file.name.split(".")[0],
                kind="choice",
                question=item.value[0]["content"].strip(),
                choices=choices,
                answer=LETTERS[choices.index(answers[place])],
            )
        )
    return sorted(made, key=lambda question: question.id)
