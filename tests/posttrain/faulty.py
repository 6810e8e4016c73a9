"""Lines of record files that are faulty, each with what must be said of it: one table a family.

Tests of a family read its table; to add a kind is to add an entry. Lines that are text stand as they are; others are
written as JSON.
"""

from __future__ import annotations

from typing import Any

Q, A = "问题", "回答"
TURNS = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
ASKED = {"from": "human", "value": Q}
CALL = {"function": {"name": "看", "arguments": {"处": "树"}}}


def calling(calls: Any, role: str = "assistant", **more: Any) -> dict[str, Any]:
    """A dialogue whose second message calls tools."""
    return {"messages": [TURNS[0], {"role": role, "content": None, "tool_calls": calls}], **more}


GOOD = {"messages": TURNS}
#: (a faulty line, what the error must say besides file and line); 25 kinds.
SFT_FAULTS: list[tuple[Any, list[str]]] = [
    ("{not json", ["not JSON"]),
    ("[1, 2]", ["a list instead of an object"]),
    ("42", ["a number instead of an object"]),
    ({"messages": []}, ["'messages'", "empty list"]),
    ({"messages": "你好"}, ["'messages'", "text instead of a list"]),
    ({"messages": None}, ["'messages'", "null instead of a list"]),
    ({"messages": ["你好"]}, ["'messages[0]'", "text instead of an object"]),
    ({"messages": [{"role": "user"}]}, ["'messages[0].content'", "is missing"]),
    ({"messages": [{"content": Q}]}, ["'messages[0].role'", "is missing"]),
    ({"messages": [{"role": "人", "content": Q}, TURNS[1]]}, ["'messages[0].role'", "unknown role", "'人'"]),
    ({"messages": [{"role": ["user"], "content": Q}, TURNS[1]]}, ["'messages[0].role'", "unknown role"]),
    (
        {"messages": [TURNS[0], {"role": "assistant", "content": None}]},
        ["'messages[1].content'", "null instead of text"],
    ),
    (
        {"messages": [TURNS[0], {"role": "assistant", "content": [1]}]},
        ["'messages[1].content'", "a list instead of text"],
    ),
    ({"messages": [TURNS[0], {"role": "assistant", "content": " \n"}]}, ["'messages[1].content'", "empty answer"]),
    ({"messages": [{"role": "user", "content": ""}, TURNS[1]]}, ["'messages[0].content'", "is empty"]),
    ({"messages": [TURNS[1]]}, ["'messages[0].content'", "roles out of order", "'assistant' comes first"]),
    ({"messages": [TURNS[0], TURNS[0], TURNS[1]]}, ["'messages[1].content'", "'user' follows 'user'"]),
    ({"messages": [*TURNS, TURNS[1]]}, ["'messages[2].content'", "'assistant' follows 'assistant'"]),
    ({"messages": [*TURNS, {"role": "system", "content": "x"}]}, ["'system' follows 'assistant'"]),
    ({"messages": [TURNS[0]]}, ["no answer of an assistant"]),
    ({"text": "只有文字"}, ["fits no known form", "text"]),
    ({}, ["fits no known form", "no fields"]),
    ({"prompt": Q, "chosen": A, "rejected": "不"}, ["'chosen'", "preference"]),
    ({"question": Q, "answer": A, "input": Q, "output": A}, ["question/answer and input/output"]),
    ("NaN", ["not JSON"]),
    ('{"messages": [{"role": "user", "content": "\\x"}]}', ["not JSON"]),
    ('{"question": "甲", "answer": "乙"', ["not JSON"]),
    ('{"question": "甲", "answer": "乙"} {"question": "丙", "answer": "丁"}', ["not JSON"]),
    ("{'question': '甲', 'answer': '乙'}", ["not JSON"]),
    (b'{"messages": [{"role": "user", "content": "\xd6\xd0"}]}', ["not UTF-8", "save the file as UTF-8"]),
    ('{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "a"}]}', ["not JSON"]),
    ("null", ["null instead of an object"]),
    ('"text"', ["text instead of an object"]),
    ({"messages": {"role": "user", "content": Q}}, ["'messages'", "an object instead of a list"]),
    ({"messages": [{"role": "system", "content": Q}, {"role": "system", "content": Q}, *TURNS]}, ["'system' follows"]),
    ({"messages": [{"role": "tool", "content": Q}, TURNS[1]]}, ["'tool' comes first"]),
    ({"messages": [{"role": "User", "content": Q}, TURNS[1]]}, ["unknown role", "'User'"]),
    (calling("看"), ["'messages[1].tool_calls'", "is not JSON"]),
    (calling(7), ["'messages[1].tool_calls'", "a number instead of a list of calls"]),
    (calling([7]), ["'messages[1].tool_calls[0]'", "a number instead of a call"]),
    (calling([{"function": {"arguments": {}}}]), ["'messages[1].tool_calls[0].name'", "is missing"]),
    (calling([{"name": "看", "arguments": "[1]"}]), ["'messages[1].tool_calls[0].arguments'", "not an object"]),
    (calling([CALL], "user"), ["'messages[1].tool_calls'", "only an assistant calls tools"]),
    (calling([CALL], tools="看"), ["'tools'", "is not JSON"]),
    (calling([CALL], tools={"name": "看"}), ["'tools'", "an object instead of a list of tools"]),
    (calling([CALL], tools=["看"]), ["'tools[0]'", "text instead of an object"]),
]

#: (form, a faulty record of it, what the error must say).
FORM_FAULTS: list[tuple[str, Any, list[str]]] = [
    ("alpaca", {"instruction": Q}, ["'output'", "is missing"]),
    ("alpaca", {"instruction": Q, "output": ["甲", "乙"]}, ["'output'", "ranked answers are for DPO"]),
    ("alpaca", {"instruction": Q, "output": {"a": 1}}, ["'output'", "an object instead of text"]),
    ("alpaca", {"instruction": Q, "output": A, "history": "一"}, ["'history'", "text instead of a list"]),
    ("alpaca", {"instruction": Q, "output": A, "history": [["一"]]}, ["'history[0]'"]),
    ("alpaca", {"instruction": Q, "output": A, "history": [["一", ""]]}, ["'history[0][1]'", "empty answer"]),
    ("sharegpt", {"conversations": [{"from": "alien", "value": Q}]}, ["'conversations[0].from'", "'alien'"]),
    ("sharegpt", {"conversations": [{"from": "human", "text": Q}]}, ["'conversations[0].value'", "missing"]),
    ("turns", {"turns": [{"instruction": Q}]}, ["'turns[0].output'", "missing"]),
    ("instances", {"instruction": Q, "instances": []}, ["'instances'"]),
    ("qa", {"question": Q, "answer": ""}, ["'answer'", "empty answer"]),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": Q}, {"from": "function_call", "value": "看"}]},
        ["not JSON"],
    ),
    ("alpaca", {"instruction": Q, "output": A, "tools": "看"}, ["'tools'", "is not JSON"]),
    ("alpaca", {"instruction": None, "output": A}, ["'instruction'", "null instead of text"]),
    ("alpaca", {"instruction": True, "output": A}, ["'instruction'", "a truth value instead of text"]),
    ("qa", {"prompt": Q}, ["no question with an answer"]),
]

#: (a faulty answer with a label, what the error must say); read for KTO.
LABELLED_FAULTS: list[tuple[Any, list[str]]] = [
    ({"prompt": Q, "completion": A, "label": None}, ["'label'", "null instead of true or false"]),
    ({"prompt": Q, "completion": A, "label": 1}, ["'label'", "a number instead of true or false"]),
    ({"prompt": Q, "completion": A, "label": "true"}, ["'label'", "text instead of true or false"]),
    ({"prompt": Q, "completion": "", "label": True}, ["'completion'", "empty answer"]),
    ({"prompt": Q, "completion": None, "label": True}, ["'completion'", "null instead of a list"]),
    ({"prompt": "", "completion": A, "label": True}, ["'prompt'", "is empty"]),
    ({"prompt": 7, "completion": A, "label": True}, ["'prompt'", "a number instead of a list"]),
    ({"prompt": TURNS, "completion": A, "label": False}, ["'completion'", "roles out of order"]),
    ({"completion": A, "label": False}, ["'completion'", "'assistant' comes first"]),
    ({"prompt": Q, "completion": TURNS[0], "label": True}, ["'completion.content'", "out of order"]),
    ({"prompt": Q, "completion": [TURNS[1], TURNS[0]], "label": True}, ["'completion[1].content'", "does not end"]),
    ({"messages": TURNS[:1], "label": True}, ["no answer of an assistant"]),
    ({"messages": [*TURNS, TURNS[0]], "label": True}, ["does not end with the assistant's answer"]),
    ({"text": A, "label": True}, ["fits no known form"]),
    ({"prompt": Q, "completion": A}, ["fits no known form of a preference"]),
]

#: (a faulty preference, what the error must say).
PAIR_FAULTS: list[tuple[Any, list[str]]] = [
    ({"prompt": Q, "chosen": A}, ["'rejected'", "is missing"]),
    ({"prompt": Q, "chosen": "", "rejected": "不"}, ["'chosen'", "empty answer"]),
    ({"prompt": Q, "chosen": A, "rejected": None}, ["'rejected'", "null instead of a list"]),
    ({"prompt": "", "chosen": A, "rejected": "不"}, ["'prompt'", "is empty"]),
    ({"prompt": TURNS, "chosen": A, "rejected": "不"}, ["'chosen'", "roles out of order"]),
    ({"prompt": Q, "chosen": [TURNS[0]], "rejected": "不"}, ["'chosen[0].content'", "roles out of order"]),
    ({"chosen": TURNS, "rejected": [{"role": "user", "content": "别的"}, TURNS[1]]}, ["more than the last answer"]),
    ({"prompt": Q, "chosen": A, "rejected": [TURNS[1], TURNS[0]]}, ["'rejected[1].content'", "does not end"]),
    ({"instruction": Q, "output": [A]}, ["'output'", "two or more answers"]),
    ({"instruction": Q, "output": [A, 7]}, ["'output[1]'", "a number instead of text"]),
    ({"instruction": Q, "output": A}, ["fits no known form of a preference"]),
    ({"prompt": 7.5, "chosen": A, "rejected": "不"}, ["'prompt'", "a number instead of a list"]),
    ({"prompt": [], "chosen": A, "rejected": "不"}, ["'prompt'", "empty list"]),
    ({"prompt": Q, "chosen": {"role": "user", "content": A}, "rejected": "不"}, ["'chosen.content'", "out of order"]),
]
