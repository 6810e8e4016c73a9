"""The forms in which people write dialogues down, and what can be wrong with one.

| form | record |
|---|---|
| messages | `{"messages" or "conversations": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}` |
| sharegpt | `{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}], "system"?: ...}` |
| alpaca | `{"instruction": ..., "input"?: ..., "output": ..., "system"?: ..., "history"?: [[question, answer], ...]}` |
| turns | `{"turns": [{"instruction": ..., "input"?: ..., "output": ...}, ...]}` |
| instances | `{"instruction": ..., "instances": [{"input": ..., "output": ...}, ...]}` (a dialogue each) |
| qa | `{"question": ..., "answer": ...}`, or prompt/response, query/response, prompt/completion, input/output |
| template | any flat record, through the templates of a rule |

Tools and their calls (`hanmo.posttrain.tools`) may stand in messages, sharegpt and alpaca.

A record is recognised by the names of its fields alone. Whatever does not fit is a `Fault` that names the field.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hanmo.posttrain.faults import Fault, kind_of
from hanmo.posttrain.settings import FileRule
from hanmo.posttrain.tools import tools_of, with_calls

Record = Mapping[str, Any]
Dialogue = list[dict[str, str]]


class Turn(NamedTuple):
    """A message and the field it was read from."""

    role: str
    content: Any
    field: str


#: What ShareGPT files call the speakers. A call of a tool is something the assistant says.
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
MESSAGE_ROLES = {role: role for role in ("system", "user", "assistant", "tool")}
#: The note of a dialogue that goes on behind the assistant's last answer.
CUT = "dialogues cut behind their last answer"
#: Names of question and answer in flat records.
QUESTION_ANSWER = (
    ("question", "answer"),
    ("prompt", "response"),
    ("query", "response"),
    ("prompt", "completion"),
    ("input", "output"),
)
_FOLLOWS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def text_of(record: Record, field: str, where: str = "", optional: bool = False) -> str:
    """The text in a field; `optional` makes a missing or null one empty."""
    name = f"{where}{field}"
    if field not in record:
        if optional:
            return ""
        raise Fault(name, "is missing", f"the record has {fields_of(record)}")
    value = record[field]
    if value is None and optional:
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Fault(name, f"is {kind_of(value)} instead of text")
    return value


def filled_text(record: Record, field: str) -> str:
    """A field that must hold text.

    Raises:
        Fault: it is missing, empty, or something else.
    """
    if field not in record:
        raise Fault(field, "is missing", f"it has {fields_of(record)}")
    value = record[field]
    if not isinstance(value, str):
        raise Fault(field, f"is {kind_of(value)} instead of text")
    if not value.strip():
        raise Fault(field, "is empty")
    return value


def fields_of(record: Record) -> str:
    """The names of a record's fields, for an error line."""
    return ", ".join(list(record)[:12]) or "no fields"


def check_dialogue(turns: Sequence[Turn]) -> tuple[Dialogue, int]:
    """Check the order of speakers and that everyone says something; returns the messages and how many were cut.

    An optional system message, then user and assistant in turn; tools answer assistants and are answered by them. Turns
    behind the last assistant's are cut, since nothing can be learnt from them.

    Raises:
        Fault: naming the field of the first message that is wrong.
    """
    previous = ""
    for turn in turns:
        if turn.role not in _FOLLOWS[previous]:
            expected = " or ".join(_FOLLOWS[previous])
            place = f"follows '{previous}'" if previous else "comes first"
            raise Fault(turn.field, "roles out of order", f"'{turn.role}' {place}, expected {expected}")
        if not isinstance(turn.content, str):
            raise Fault(turn.field, f"is {kind_of(turn.content)} instead of text")
        if not turn.content.strip():
            raise Fault(turn.field, "empty answer" if turn.role == "assistant" else "is empty")
        if not turn.content.isascii():
            try:
                turn.content.encode()
            except UnicodeEncodeError:
                raise Fault(turn.field, "holds half of a surrogate pair", "not valid Unicode text") from None
        previous = turn.role
    last = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    if last < 0:
        raise Fault(turns[0].field if turns else "", "no answer of an assistant in the dialogue")
    kept = [{"role": turn.role, "content": turn.content} for turn in turns[: last + 1]]
    return kept, len(turns) - len(kept)


def turns_of_list(items: Any, field: str, roles: Mapping[str, str], role_key: str, text_key: str) -> list[Turn]:
    """Turns of a list of objects with a speaker and a text."""
    if not isinstance(items, list):
        raise Fault(field, f"is {kind_of(items)} instead of a list of messages")
    if not items:
        raise Fault(field, "is an empty list")
    turns = []
    for index, item in enumerate(items):
        where = f"{field}[{index}]"
        if not isinstance(item, Mapping):
            raise Fault(where, f"is {kind_of(item)} instead of an object with '{role_key}' and '{text_key}'")
        calls = item.get("tool_calls") or None
        for key in (role_key, text_key):
            if key not in item and not (calls and key == text_key):
                raise Fault(f"{where}.{key}", "is missing", f"the message has {fields_of(item)}")
        role = item[role_key]
        if not isinstance(role, str) or role not in roles:
            known = ", ".join(roles)
            raise Fault(f"{where}.{role_key}", "unknown role", f"{str(role)[:40]!r}; known are {known}")
        content = item.get(text_key)
        if calls and roles[role] != "assistant":
            raise Fault(f"{where}.tool_calls", "only an assistant calls tools", f"the role is '{role}'")
        if calls:
            content = with_calls(content, calls, f"{where}.tool_calls")
        elif role == "function_call":
            content = with_calls(None, content, f"{where}.{text_key}")
        turns.append(Turn(roles[role], content, f"{where}.{text_key}"))
    return turns


def list_field(record: Record) -> str:
    """Which field holds the list of messages."""
    return next((name for name in ("messages", "conversations", "conversation") if name in record), "messages")


def _messages(record: Record, rule: FileRule) -> list[list[Turn]]:
    field = list_field(record)
    return [turns_of_list(record.get(field), field, MESSAGE_ROLES, "role", "content")]


def _sharegpt(record: Record, rule: FileRule) -> list[list[Turn]]:
    field = "conversations" if "conversations" in record else list_field(record)
    turns = turns_of_list(record.get(field), field, SHAREGPT_ROLES, "from", "value")
    return [with_system(turns, text_of(record, "system", optional=True))]


def with_system(turns: list[Turn], system: str) -> list[Turn]:
    """Put a system message in front, unless there is one already or `system` is blank."""
    if not system.strip() or (turns and turns[0].role == "system"):
        return turns
    return [Turn("system", system, "system"), *turns]


def with_tools(turns: list[Turn], tools: str) -> list[Turn]:
    """Put what is said about tools behind the system message, which may have to be made for it."""
    if not tools:
        return turns
    if turns and turns[0].role == "system" and isinstance(turns[0].content, str):
        return [turns[0]._replace(content=f"{turns[0].content}\n\n{tools}"), *turns[1:]]
    return [Turn("system", tools, "tools"), *turns]


def instruction_turn(record: Record, where: str = "") -> Turn:
    """The user's turn of an alpaca record: the instruction, and below it the input if there is one."""
    instruction = text_of(record, "instruction", where)
    extra = text_of(record, "input", where, optional=True)
    return Turn("user", f"{instruction}\n{extra}" if extra.strip() else instruction, f"{where}instruction")


def history_turns(record: Record) -> list[Turn]:
    """Earlier exchanges of an alpaca record: `history` is a list of [question, answer]."""
    history = record.get("history")
    if history is None:
        return []
    if not isinstance(history, list):
        raise Fault("history", f"is {kind_of(history)} instead of a list of [question, answer]")
    turns = []
    for index, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Fault(f"history[{index}]", "is not a list of two texts, [question, answer]")
        turns += [Turn("user", pair[0], f"history[{index}][0]"), Turn("assistant", pair[1], f"history[{index}][1]")]
    return turns


def _alpaca(record: Record, rule: FileRule) -> list[list[Turn]]:
    if isinstance(record.get("output"), list):
        raise Fault("output", "is a list instead of text", "ranked answers are for DPO, not for SFT")
    turns = [*history_turns(record), instruction_turn(record), Turn("assistant", text_of(record, "output"), "output")]
    return [with_system(turns, text_of(record, "system", optional=True))]


def _turns(record: Record, rule: FileRule) -> list[list[Turn]]:
    items = record.get("turns")
    if not isinstance(items, list) or not items:
        raise Fault("turns", "must be a list of objects with 'instruction' and 'output'")
    turns = []
    for index, item in enumerate(items):
        where = f"turns[{index}]."
        if not isinstance(item, Mapping):
            raise Fault(where[:-1], f"is {kind_of(item)} instead of an object with 'instruction' and 'output'")
        answer = Turn("assistant", text_of(item, "output", where), f"{where}output")
        turns += [instruction_turn(item, where), answer]
    return [turns]


def _instances(record: Record, rule: FileRule) -> list[list[Turn]]:
    items = record.get("instances")
    if not isinstance(items, list) or not items:
        raise Fault("instances", "must be a list of objects with 'input' and 'output'")
    dialogues = []
    for index, item in enumerate(items):
        where = f"instances[{index}]."
        if not isinstance(item, Mapping):
            raise Fault(where[:-1], f"is {kind_of(item)} instead of an object with 'input' and 'output'")
        question = instruction_turn({**item, "instruction": text_of(record, "instruction")})
        dialogues.append([question, Turn("assistant", text_of(item, "output", where), f"{where}output")])
    return dialogues


def _qa(record: Record, rule: FileRule) -> list[list[Turn]]:
    pairs = [pair for pair in QUESTION_ANSWER if all(name in record for name in pair)]
    if not pairs:
        known = ", ".join("/".join(pair) for pair in QUESTION_ANSWER)
        raise Fault(
            "", f"no question with an answer in it (known pairs of fields: {known}; ", f"it has {fields_of(record)})"
        )
    question, answer = pairs[0]
    turns = [
        Turn("user", text_of(record, question), question),
        Turn("assistant", text_of(record, answer), answer),
    ]
    return [with_system(turns, text_of(record, "system", optional=True))]


def _template(record: Record, rule: FileRule) -> list[list[Turn]]:
    def fill(template: str) -> str:
        return _PLACEHOLDER.sub(lambda match: text_of(record, match.group(1)), template)

    turns: list[Turn] = []
    for role, template in rule.spoken():
        field = "+".join(_PLACEHOLDER.findall(template)) or "template"
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, turns[-1].content + fill(template), f"{turns[-1].field}+{field}")
        else:
            turns.append(Turn(role, fill(template), field))
    return [turns]


PARSERS: dict[str, Callable[[Record, FileRule], list[list[Turn]]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "turns": _turns,
    "instances": _instances,
    "qa": _qa,
    "template": _template,
}
#: Fields that a form reads; others are left alone, and counted so that nothing is lost unseen.
READ_FIELDS = {
    "messages": {"messages", "conversations", "conversation", "tools"},
    "sharegpt": {"messages", "conversations", "conversation", "system", "tools"},
    "alpaca": {"instruction", "input", "output", "system", "history", "tools"},
    "turns": {"turns"},
    "instances": {"instruction", "instances"},
    "qa": {name for pair in QUESTION_ANSWER for name in pair} | {"system"},
}


def recognise(record: Record) -> str:
    """The form of an SFT record, by the names of its fields.

    Raises:
        Fault: it fits no form, or more than one.
    """
    if "chosen" in record or "response_chosen" in record:
        raise Fault("chosen", "is a preference (for DPO), not a dialogue")
    for field in ("messages", "conversations", "conversation"):
        if field in record:
            items = record[field]
            first = items[0] if isinstance(items, list) and items else {}
            return "sharegpt" if isinstance(first, Mapping) and "from" in first else "messages"
    if "turns" in record:
        return "turns"
    if "instruction" in record and "instances" in record:
        return "instances"
    if "instruction" in record:
        return "alpaca"
    pairs = [pair for pair in QUESTION_ANSWER if all(name in record for name in pair)]
    if len(pairs) == 1:
        return "qa"
    if pairs:
        both = " and ".join("/".join(pair) for pair in pairs)
        raise Fault("", f"fits {both} alike; say which by the templates `user` and `assistant` of a rule in `files`")
    raise Fault(
        "",
        "fits no known form of a dialogue",
        f": its fields are {fields_of(record)}; name `user` and `assistant` templates for the file in `files`",
    )


def dialogues_of(record: Record, form: str, rule: FileRule, notes: Counter[str]) -> list[Dialogue]:
    """The dialogues of one record; what was cut or passed over goes into `notes`."""
    dialogues = []
    tools = tools_of(record.get("tools")) if "tools" in READ_FIELDS.get(form, ()) else ""
    for turns in PARSERS[form](record, rule):
        dialogue, cut = check_dialogue(with_tools(with_system(turns, rule.system), tools))
        if cut:
            notes[CUT] += 1
        dialogues.append(dialogue)
    if form in READ_FIELDS:
        for name in record.keys() - READ_FIELDS[form]:
            notes[f"field '{name}' not used"] += 1
    return dialogues
