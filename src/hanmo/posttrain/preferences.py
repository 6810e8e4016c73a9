"""The forms in which people write preferences down.

| form | record |
|---|---|
| pair | `{"prompt": text or messages, "chosen": text or messages, "rejected": ...}`, or two dialogues |
| alpaca | `{"instruction": ..., "input"?: ..., "chosen": text, "rejected": text, "history"?: ...}` |
| sharegpt | `{"conversations": [{"from": "human", "value": ...}], "chosen": {"from": "gpt", ...} or text, ...}` |
| ranked | `{"instruction": ..., "input"?: ..., "output": [best, ..., worst], "history"?: ...}` |
| medicalgpt | `{"system": ..., "history": ..., "question": ..., "response_chosen": ..., "response_rejected": ...}` |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hanmo.posttrain import forms
from hanmo.posttrain.faults import Fault
from hanmo.posttrain.forms import MESSAGE_ROLES, SHAREGPT_ROLES, Dialogue, Record, Turn, text_of


class Pair(NamedTuple):
    """A prompt that ends with something to answer, a better and a worse answer."""

    prompt: Dialogue
    chosen: str
    rejected: str


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


def _pair(record: Record, ranked: str) -> list[Pair]:
    prompt = record.get("prompt")
    if isinstance(prompt, str):
        turns = [Turn("user", prompt, "prompt")]
    elif prompt is None:
        turns = []
    else:
        turns = _listed(prompt, "prompt")
    turns = forms.with_system(turns, text_of(record, "system", optional=True)) if turns else turns
    return _join(turns, _answer(record, "chosen"), _answer(record, "rejected"))


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


PARSERS: dict[str, Callable[[Record, str], list[Pair]]] = {
    "pair": _pair,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "ranked": _ranked,
    "medicalgpt": _medicalgpt,
}
_ALPACA = {"instruction", "input", "system", "history"}
READ_FIELDS = {
    "pair": {"prompt", "chosen", "rejected", "system"},
    "alpaca": _ALPACA | {"chosen", "rejected"},
    "sharegpt": {"conversations", "system", "chosen", "rejected"},
    "ranked": _ALPACA | {"output"},
    "medicalgpt": {"system", "history", "question", "response_chosen", "response_rejected"},
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
    if "instruction" in record and isinstance(record.get("output"), list):
        return "ranked"
    raise Fault(
        "",
        "fits no known form of a preference",
        f": its fields are {forms.fields_of(record)}; prompt, chosen and rejected are needed",
    )


def pairs_of(record: Record, form: str, ranked: str, notes: Counter[str]) -> list[Pair]:
    """The pairs of one record; what was passed over goes into `notes`."""
    pairs = []
    for pair in PARSERS[form](record, ranked):
        if pair.chosen == pair.rejected:
            notes["pairs of two equal answers left out"] += 1
        else:
            pairs.append(pair)
    for name in record.keys() - READ_FIELDS[form]:
        notes[f"field '{name}' not used"] += 1
    return pairs
