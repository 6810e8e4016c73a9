"""Tools: what the model is told of them, and calls taken out of its answers."""

from __future__ import annotations

import itertools
import json

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.serve.prompt import ForeignTemplate, in_house
from hanmo.serve.tools import CallSplitter

TOOLS = [{"type": "function", "function": {"name": "查天气", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "查天气", "arguments": {"城市": "北京"}}\n</tool_call>'
TALK = [
    {"role": "user", "content": "北京冷吗"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "id": "a", "function": {"name": "查天气", "arguments": '{"城市": "北京"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "3度"},
]


def split(pieces: list[str]) -> tuple[str, list[dict]]:
    splitter = CallSplitter()
    found = [part for piece in pieces for part in splitter.push(piece)] + [splitter.flush()]
    text = "".join(part for part in found if isinstance(part, str))
    return text, [part["function"] for part in found if isinstance(part, dict)]


@given(st.lists(st.integers(0, 120), max_size=8))
def test_calls_are_found_however_the_answer_is_cut(cuts):
    answer = f"好。{CALL}\n{CALL}<tool_ca"
    places = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    text, calls = split([answer[a:b] for a, b in itertools.pairwise(places)])
    assert text == "好。\n<tool_ca" and [call["name"] for call in calls] == ["查天气", "查天气"]
    assert json.loads(calls[0]["arguments"]) == {"城市": "北京"}


@pytest.mark.parametrize(
    "text",
    ["<tool_call>不是</tool_call>", "<tool_call>[1]</tool_call>", '<tool_call>{"name": 3}</tool_call>', "<tool_call>"],
)
def test_what_is_no_call_stays_text(text):
    assert split([text]) == (text, [])


def test_the_house_is_told_as_its_template_says(tiny_model_dir, transformers_engine):
    """Ids with tools are those of the saved template, rendered by transformers."""
    from hanmo.tokenizer import load

    for messages in (TALK, [{"role": "system", "content": "短"}, *TALK]):
        plain = [{**m, "content": m["content"] or ""} for m in messages]
        text = load(tiny_model_dir).apply_chat_template(plain, tools=TOOLS, tokenize=False, add_generation_prompt=True)
        ids = transformers_engine.encode_chat(messages, TOOLS)
        again = "".join(transformers_engine.piece(token).decode("latin-1") for token in ids).encode("latin-1").decode()
        assert again == text
    assert in_house(TALK[:1], []) == TALK[:1]


def test_foreign_templates_get_tools_and_calls_with_special_tokens_taken_literally():
    template = (
        "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
        "{% for c in m.tool_calls or [] %}({{ c.function.name }}){% endfor %}{% endfor %}"
    )
    seen: list[tuple[str, bool]] = []
    foreign = ForeignTemplate(template, {}, ["<|x|>"], lambda text, special: seen.append((text, special)) or [1])
    bad = [{"type": "function", "function": {"name": "a<|x|>"}}]
    talk = [TALK[0], {**TALK[1], "content": "", "tool_calls": bad}]
    foreign.encode(talk, TOOLS)
    assert "查天气" in seen[0][0] and ("<|x|>", False) in seen and not any("<|x|>" in t for t, s in seen if s)


@pytest.fixture(scope="module")
def server(run_server, scripted):
    with run_server(scripted(f"好。\n{CALL}".encode())) as server:
        yield server


def test_the_openai_client_gets_calls_whole_and_streamed(server):
    api = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20)
    ask = {"model": "scripted", "messages": TALK, "tools": TOOLS}
    choice = api.chat.completions.create(**ask).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "好。"
    (call,) = choice.message.tool_calls
    assert call.function.name == "查天气" and json.loads(call.function.arguments) == {"城市": "北京"} and call.id
    chunks = [chunk.choices[0] for chunk in api.chat.completions.create(**ask, stream=True)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "好。\n"
    (called,) = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert called.index == 0 and called.function.name == "查天气" and chunks[-1].finish_reason == "tool_calls"
    # Nobody asked for tools: it is text.
    plain = api.chat.completions.create(model="scripted", messages=TALK[:1]).choices[0]
    assert plain.message.content.endswith(CALL) and not plain.message.tool_calls and plain.finish_reason == "stop"
    none = api.chat.completions.create(**ask, tool_choice="none").choices[0]
    assert none.message.content.endswith(CALL)


def test_calls_of_an_answer_that_is_cut_off_stay_text(server):
    answer = httpx.post(
        f"{server.url}/v1/chat/completions",
        json={"messages": TALK[:1], "tools": TOOLS, "stop": ["arguments"]},
        timeout=20,
    ).json()["choices"][0]
    assert answer["finish_reason"] == "stop" and answer["message"]["content"].endswith('"查天气", "')
