"""The forms in which people write preferences down.

| form | record |
|---|---|
| pair | `{"prompt": text or messages, "chosen": text or messages, "rejected": ...}`, or two dialogues |
| alpaca | `{"instruction": ..., "input"?: ..., "chosen": text, "rejected": text, "history"?: ...}` |
| sharegpt | `{"conversations": [{"from": "human", "value": ...}], "chosen": {"from": "gpt", ...} or text, ...}` |
| ranked | `{"instruction": ..., "input"?: ..., "output": [best, ..., worst], "history"?: ...}` |
| medicalgpt | `{"system": ..., "history": ..., "question": ..., "response_chosen": ..., "response_rejected": ...}` |
| labelled | `{"prompt": text or messages, "completion": text or messages, "label": true or false}`, or a dialogue \
  of any form with a `label`: what its last answer is worth |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hanmo.posttrain import forms
from hanmo.posttrain.faults import Fault, kind_of
from hanmo.posttrain.forms import MESSAGE_ROLES, SHAREGPT_ROLES, Dialogue, Record, Turn, text_of
from hanmo.posttrain.settings import FileRule


class Pair(NamedTuple):
    """A prompt that ends with something to answer, a better and a worse answer."""

    prompt: Dialogue
    chosen: str
    rejected: str


class Labelled(NamedTuple):
    """A prompt that ends with something to answer, one answer, and whether it is a good one."""

    prompt: Dialogue
    answer: str
    good: bool


def labelled_of(value: Pair | Labelled) -> list[Labelled]:
    """Single answers with labels: a pair is two of them."""
    if isinstance(value, Labelled):
        return [value]
    return [Labelled(value.prompt, value.chosen, True), Labelled(value.prompt, value.rejected, False)]


def _listed(items: Any, field: str) -> list[Turn]:
    """Turns of a list in either notation."""
    first = items[0] if isinstance(items, list) and items else {}
    if isinstance(first, Mapping) and "from" in first:
        return forms.turns_of_list(items, field, SHAREGPT_ROLES, "from", "value")
    return forms.turns_of_list(items, field, MESSAGE_ROLES, "role", "content")


def _answer(record: Record, field: str) -> list[Turn]:
    """An answer given as text, as one message or as a list of messages."""
    if field not in record:
        raise Fault(field, "is missing", f"the record has {forms.fields_of(record)}")
    value = record[field]
    if isinstance(value, str):
        return [Turn("assistant", value, field)]
    if isinstance(value, Mapping):
        value = [value]
        turns = _listed(value, field)
        return [Turn(turns[0].role, turns[0].content, turns[0].field.replace("[0]", ""))]
    return _listed(value, field)


def _join(prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]) -> list[Pair]:
    """Check both dialogues; what they share is the prompt, and one answer of the assistant is left on each side."""
    sides = []
    for answer in (chosen, rejected):
        dialogue, cut = forms.check_dialogue([*prompt, *answer])
        if cut:
            raise Fault(answer[-1].field, "does not end with the assistant's answer")
        sides.append(dialogue)
    better, worse = sides
    if better[:-1] != worse[:-1]:
        raise Fault(
            rejected[-1].field,
            "differs from the chosen one in more than the last answer",
            "one prompt for both is needed",
        )
    return [Pair(better[:-1], better[-1]["content"], worse[-1]["content"])]


def _prompt(record: Record) -> list[Turn]:
    """The prompt as text or messages, behind the record's system message; none where there is no such field."""
    prompt = record.get("prompt")
    if prompt is None:
        return []
    turns = [Turn("user", prompt, "prompt")] if isinstance(prompt, str) else _listed(prompt, "prompt")
    return forms.with_system(turns, text_of(record, "system", optional=True))


def _pair(record: Record, ranked: str) -> list[Pair]:
    return _join(_prompt(record), _answer(record, "chosen"), _answer(record, "rejected"))


def _labelled(record: Record, ranked: str) -> list[Labelled]:
    if "label" not in record:
        raise Fault("label", "is missing", f"the record has {forms.fields_of(record)}")
    good = record["label"]
    if not isinstance(good, bool):
        raise Fault("label", f"is {kind_of(good)} instead of true or false")
    if "completion" in record:
        turns = [*_prompt(record), *_answer(record, "completion")]
        dialogue, cut = forms.check_dialogue(turns)
        if cut:
            raise Fault(turns[-1].field, "does not end with the assistant's answer")
        dialogues = [dialogue]
    else:
        rest = {name: value for name, value in record.items() if name != "label"}
        notes: Counter[str] = Counter()
        dialogues = forms.dialogues_of(rest, forms.recognise(rest), FileRule(), notes)
        if notes[forms.CUT]:
            raise Fault("", "the dialogue does not end with the assistant's answer, which the label would be of")
    return [Labelled(dialogue[:-1], dialogue[-1]["content"], good) for dialogue in dialogues]


def _alpaca(record: Record, ranked: str) -> list[Pair]:
    turns = [*forms.history_turns(record), forms.instruction_turn(record)]
    turns = forms.with_system(turns, text_of(record, "system", optional=True))
    return _join(turns, _answer(record, "chosen"), _answer(record, "rejected"))


def _sharegpt(record: Record, ranked: str) -> list[Pair]:
    turns = _listed(record.get("conversations"), "conversations")
    turns = forms.with_system(turns, text_of(record, "system", optional=True))
    return _join(turns, _answer(record, "chosen"), _answer(record, "rejected"))


def _medicalgpt(record: Record, ranked: str) -> list[Pair]:
    turns = [*forms.history_turns(record), Turn("user", text_of(record, "question"), "question")]
    turns = forms.with_system(turns, text_of(record, "system", optional=True))
    return _join(turns, _answer(record, "response_chosen"), _answer(record, "response_rejected"))


def _ranked(record: Record, ranked: str) -> list[Pair]:
    answers = record.get("output")
    if not isinstance(answers, list) or len(answers) < 2:
        raise Fault("output", "must be a list of two or more answers, the best first")
    turns = [*forms.history_turns(record), forms.instruction_turn(record)]
    turns = forms.with_system(turns, text_of(record, "system", optional=True))
    count = len(answers)
    match ranked:
        case "best":
            pairs = [(0, worse) for worse in range(1, count)]
        case "adjacent":
            pairs = [(index, index + 1) for index in range(count - 1)]
        case _:
            pairs = [(better, worse) for better in range(count) for worse in range(better + 1, count)]
    sides = [[Turn("assistant", answer, f"output[{index}]")] for index, answer in enumerate(answers)]
    return [pair for better, worse in pairs for pair in _join(turns, sides[better], sides[worse])]


PARSERS: dict[str, Callable[[Record, str], Sequence[Pair | Labelled]]] = {
    "pair": _pair,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "ranked": _ranked,
    "medicalgpt": _medicalgpt,
    "labelled": _labelled,
}
_ALPACA = {"instruction", "input", "system", "history"}
READ_FIELDS = {
    "pair": {"prompt", "chosen", "rejected", "system"},
    "alpaca": _ALPACA | {"chosen", "rejected"},
    "sharegpt": {"conversations", "system", "chosen", "rejected"},
    "ranked": _ALPACA | {"output"},
    "medicalgpt": {"system", "history", "question", "response_chosen", "response_rejected"},
    "labelled": {"label", "completion", "system"} | set().union(*forms.READ_FIELDS.values()),
}


def recognise(record: Record) -> str:
    """The form of a preference record, by the names of its fields.

    Raises:
        Fault: it fits none.
    """
    if "response_chosen" in record:
        return "medicalgpt"
    if "chosen" in record:
        for field, form in (("conversations", "sharegpt"), ("prompt", "pair"), ("instruction", "alpaca")):
            if field in record:
                return form
        return "pair"
    if "label" in record and ("completion" in record or isinstance(record["label"], bool)):
        return "labelled"
    if "instruction" in record and isinstance(record.get("output"), list):
        return "ranked"
    raise Fault(
        "",
        "fits no known form of a preference",
        f": its fields are {forms.fields_of(record)}; prompt, chosen and rejected are needed, or prompt, completion "
        "and label",
    )


def pairs_of(record: Record, form: str, ranked: str, single: bool, notes: Counter[str]) -> list[Pair | Labelled]:
    """The pairs of one record, or its labelled answers; what was passed over goes into `notes`.

    Args:
        single: whether answers are taken that are compared with no other.
    """
    pairs = []
    if form == "labelled" and not single:
        raise Fault(
            "label", "is of a single answer", "pairs of answers are compared here; loss: kto takes such records"
        )
    for pair in PARSERS[form](record, ranked):
        if isinstance(pair, Pair) and pair.chosen == pair.rejected:
            notes["pairs of two equal answers left out"] += 1
        else:
            pairs.append(pair)
    for name in record.keys() - READ_FIELDS[form]:
        notes[f"field '{name}' not used"] += 1
    return pairs
