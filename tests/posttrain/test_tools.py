"""Calls of tools in records stand in the dialogue as the saved chat template renders them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import AutoTokenizer

from hanmo.posttrain.forms import dialogues_of
from hanmo.posttrain.settings import FileRule
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import ChatFormat

TOOLS = [{"type": "function", "function": {"name": "看", "parameters": {"type": "object"}}}, {"name": "听"}]
ASK = {"role": "user", "content": "小猫在哪里？"}
ANSWER = {"role": "assistant", "content": "在树下。"}
RESULT = {"role": "tool", "content": '{"处": "树"}'}
CALL = {"type": "function", "id": "1", "function": {"name": "看", "arguments": {"处": "园", "a": 1}}}
SPOKEN = {"role": "assistant", "content": "我看看。", "tool_calls": [CALL, {"name": "听", "arguments": "{}"}]}
SILENT = {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("opening", [[], [{"role": "system", "content": "你是小红。"}]])
@pytest.mark.parametrize("called", [SPOKEN, SILENT])
def test_records_with_tools_read_as_the_template_renders_them(
    tools: Any, opening: Any, called: Any, tiny_tokenizer_dir: Any
) -> None:
    messages = [*opening, ASK, called, RESULT, ANSWER]
    record = {"messages": messages} | ({"tools": tools} if tools else {})
    (dialogue,) = dialogues_of(record, "messages", FileRule(), Counter())
    ours = ChatFormat(load(tiny_tokenizer_dir)).render(dialogue)
    theirs = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    assert theirs.apply_chat_template(messages, tools=tools, tokenize=False) == ours
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(ChatFormat.template)
    assert plain.render(messages=dialogue, add_generation_prompt=False) == ours
    assert ours.count("<tool_call>") == len(called["tool_calls"]) + bool(tools)


def test_sharegpts_calls_and_tools_in_text_are_the_same() -> None:
    one = {"messages": [ASK, SILENT, RESULT, ANSWER], "tools": TOOLS}
    other = {
        "conversations": [
            {"from": "human", "value": ASK["content"]},
            {"from": "function_call", "value": '{"name": "看", "arguments": {"处": "园", "a": 1}}'},
            {"from": "observation", "value": RESULT["content"]},
            {"from": "gpt", "value": ANSWER["content"]},
        ],
        "tools": '[{"type": "function", "function": {"name": "看", "parameters": {"type": "object"}}}, {"name": "听"}]',
    }
    notes: Counter[str] = Counter()
    assert dialogues_of(one, "messages", FileRule(), notes) == dialogues_of(other, "sharegpt", FileRule(), notes)
    assert not notes
    bare = dialogues_of({**other, "tools": "[]"}, "sharegpt", FileRule(), notes)
    assert bare[0][0]["role"] == "user"
