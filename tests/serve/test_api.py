from __future__ import annotations

import json
import socket
import threading

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.serve.sampling import Sampling

JSON = {"content-type": "application/json"}
HELLO = [{"role": "user", "content": "你好，小猫"}]


@pytest.fixture(scope="module", params=["transformers", "llamacpp"])
def real(request, run_server):
    """A server over each real engine; the engine itself outlives it."""
    engine = request.getfixturevalue(f"{request.param}_engine")
    close, engine.close = engine.close, lambda: None
    with run_server(engine) as server:
        yield server
    engine.close = close


def client(server, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=20)


def post(server, path: str = "chat/completions", **body) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=20)


def error(response: httpx.Response) -> dict:
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}, body
    return body["error"]


# ---- the official client against both engines ----


def test_streamed_and_whole_answers_agree(real):
    api = client(real)
    ask = {"model": real.engine.name, "messages": HELLO, "temperature": 0, "max_tokens": 40}
    whole = api.chat.completions.create(**ask)
    chunks = list(api.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and text and "\ufffd" not in text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 40
    assert whole.usage.prompt_tokens == len(real.engine.encode_chat(HELLO))
    direct = real.engine.stream(real.engine.encode_chat(HELLO), Sampling(temperature=0, max_tokens=40))
    assert text == "".join(delta.text for delta in direct)


def test_completions_continue_texts(real):
    api = client(real)
    ask = {"model": real.engine.name, "temperature": 0}
    both = api.completions.create(**ask, prompt=["小猫", "花园"], max_tokens=12)
    assert [choice.index for choice in both.choices] == [0, 1] and both.usage.completion_tokens == 24
    one = api.completions.create(**ask, prompt=real.engine.encode("花园"), max_tokens=12)
    assert one.choices[0].text == both.choices[1].text
    streamed = api.completions.create(**ask, prompt="花园", stream=True)
    pieces = [chunk.choices[0] for chunk in streamed]
    assert "".join(piece.text for piece in pieces).startswith(one.choices[0].text)
    assert pieces[-1].finish_reason == "length"
    assert api.completions.create(**ask, prompt="花园").usage.completion_tokens == 16


def test_seeds_repeat_and_several_answers_differ(real):
    api = client(real)
    ask = {"model": real.engine.name, "messages": HELLO, "temperature": 1.5, "max_tokens": 20, "seed": 3}
    first, second = (api.chat.completions.create(**ask, n=3) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices] and len(set(texts)) == 3


def test_stop_strings_end_an_answer_and_never_leak(real):
    api = client(real)
    ask = {"model": real.engine.name, "messages": HELLO, "temperature": 0, "max_tokens": 60}
    whole = api.chat.completions.create(**ask).choices[0].message.content
    stop = whole[7:10]
    cut = api.chat.completions.create(**ask, stop=[stop, "不会出现的"]).choices[0]
    assert cut.message.content == whole[: whole.index(stop)] and cut.finish_reason == "stop"
    chunks = list(api.chat.completions.create(**ask, stop=stop, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == cut.message.content
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_an_answer_ends_at_the_context_and_a_prompt_beyond_it_is_refused(real):
    api = client(real)
    room = real.engine.context
    answer = api.completions.create(
        model=real.engine.name, prompt=[40] * (room - 3), max_tokens=99, temperature=0, frequency_penalty=0.1
    )
    assert answer.usage.completion_tokens <= 3
    with pytest.raises(openai.BadRequestError) as caught:
        api.completions.create(model=real.engine.name, prompt=[40] * room)
    assert caught.value.code == "context_length_exceeded" and str(room) in caught.value.message
    long = [{"role": "user", "content": "长" * room}]
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(model=real.engine.name, messages=long, stream=True)


def test_models_are_listed_and_others_unknown(real):
    api = client(real)
    (model,) = api.models.list().data
    assert model.id == real.engine.name == api.models.retrieve(model.id).id
    with pytest.raises(openai.NotFoundError) as caught:
        api.chat.completions.create(model="gpt-9", messages=HELLO)
    assert caught.value.code == "model_not_found"


def test_a_long_history_is_cut_where_the_client_allows_it(real):
    turn = [{"role": "user", "content": "小猫" * 10}, {"role": "assistant", "content": "好" * 10}]
    messages = [{"role": "system", "content": "短"}, *turn * 12, *HELLO]
    assert error(post(real, messages=messages))["code"] == "context_length_exceeded"
    answer = post(real, messages=messages, truncation="auto", max_tokens=4)
    assert answer.status_code == 200 and answer.json()["dropped_messages"] > 0


# ---- bad requests (any engine) ----


@pytest.fixture(scope="module")
def plain(run_server, scripted):
    with run_server(scripted(b"ok"), max_body=5000) as server:
        yield server


BAD = [
    ({"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role"),
    ({"messages": []}, "messages"),
    ({}, "messages"),
    ({"messages": HELLO, "temperature": -1}, "temperature"),
    ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
    ({"messages": HELLO, "max_tokens": "many"}, "max_tokens"),
    ({"messages": HELLO, "stop": ["a"] * 99}, "stop"),
    ({"messages": HELLO, "n": 1000}, "n"),
    ({"messages": [{"role": "user"}]}, "messages.0"),
    ({"messages": [{"role": "user", "content": "half \ud800"}]}, "messages.0.content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content.0.type",
    ),
    ({"messages": HELLO, "top_logprobs": 3}, None),
    ({"messages": HELLO, "logprobs": True, "top_logprobs": 99}, "top_logprobs"),
    ({"messages": HELLO, "suffix": "x"}, None),
    ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools.0.function"),
    ({"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
    ({"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": HELLO, "response_format": {"type": "json_schema"}}, "response_format"),
    ({"messages": HELLO, "grammar": 'root ::= "a"'}, "grammar"),
    ({"messages": HELLO, "logit_bias": {"x": 1}}, "logit_bias.x"),
    ({"messages": HELLO, "logit_bias": {"999999": 1}}, "logit_bias"),
    (
        {"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]}]},
        "messages.0",
    ),
]


@pytest.mark.parametrize(("body", "param"), BAD)
def test_a_bad_field_is_named(plain, body, param):
    # json.dumps spells half a surrogate pair as \ud800, which is legal JSON.
    content = json.dumps(body).encode()
    response = httpx.post(f"{plain.url}/v1/chat/completions", content=content, headers=JSON)
    assert response.status_code == 400 and error(response)["param"] == param


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"{", 400, "not JSON"),
        (b'{"messages": "\xff"}', 400, "body"),
        (b"[1]", 400, "JSON object"),
        (b"[" * 4000, 400, ""),
        (b'{"messages": "' + b"x" * 6000 + b'"}', 413, "larger than 5000"),
    ],
)
def test_a_bad_body_is_refused(plain, content, status, says):
    response = httpx.post(f"{plain.url}/v1/chat/completions", content=content, headers=JSON)
    assert response.status_code == status and says in error(response)["message"]


def test_a_body_without_an_end_is_cut_off(plain):
    def endless():
        while True:
            yield b"x" * 1000

    response = httpx.post(f"{plain.url}/v1/completions", content=endless())
    assert response.status_code == 413


def test_forms_and_unknown_addresses_are_refused(plain):
    assert "content-type" in error(httpx.post(f"{plain.url}/v1/completions", data={"prompt": "x"}))["message"]
    assert error(httpx.get(f"{plain.url}/v2"))["type"] == "invalid_request_error"
    assert httpx.get(f"{plain.url}/v1/chat/completions").status_code == 405
    assert error(post(plain, "completions", prompt=[9999]))["param"] == "prompt"


def test_unknown_fields_and_forms_of_content_are_taken_as_openai_does(plain):
    parts = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
    talk = [{"role": "developer", "content": "s"}, {"role": "assistant", "content": None}]
    response = post(plain, messages=[*talk, {"role": "user", "content": parts, "name": "z"}], user="u", zzz=1)
    assert response.json()["choices"][0]["message"]["content"] == "ok"
    assert plain.engine.served[-1] == "s\n\n你好\n"


def test_half_characters_never_reach_the_client(run_server, scripted):
    with run_server(scripted("墨".encode()[:2] + "翰墨".encode() + b"\xff\xe5")) as server:
        assert post(server, messages=HELLO).json()["choices"][0]["message"]["content"] == "翰墨"
        stream = client(server).chat.completions.create(model="scripted", messages=HELLO, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "翰墨"


simple = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    simple, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "boss"])},
        optional={"content": st.text(max_size=8) | anything, "name": anything},
    ),
    max_size=4,
)
fields = ["temperature", "top_p", "top_k", "max_tokens", "n", "seed", "stop", "stream", "stream_options", "model"]
bodies = st.fixed_dictionaries(
    {}, optional={"messages": messages | anything, "prompt": anything, **dict.fromkeys(fields, anything)}
)


@pytest.fixture(scope="module")
def fuzzer():
    with httpx.Client(timeout=20) as session:
        yield session


@given(body=bodies, path=st.sampled_from(["completions", "chat/completions"]))
@settings(max_examples=150, deadline=None)
def test_no_body_makes_the_server_fail(plain, fuzzer, body, path):
    response = fuzzer.post(f"{plain.url}/v1/{path}", content=json.dumps(body), headers=JSON)
    assert response.status_code in (200, 400, 404)
    if response.status_code != 200:
        error(response)


# ---- who may come in ----


def test_a_key_is_needed_where_one_is_set(run_server, scripted):
    with run_server(scripted(), api_key="geheim") as server:
        assert client(server, "geheim").models.list().data
        for key in ("falsch", "geheim2", "墨"):
            response = httpx.get(f"{server.url}/v1/models", headers={b"authorization": f"Bearer {key}".encode()})
            assert response.status_code == 401 and error(response)["code"] == "invalid_api_key"
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(server.url).status_code == 200


def test_other_web_pages_cannot_reach_a_server_without_a_key(run_server, scripted):
    with run_server(scripted(), only_loopback=True) as server:
        get = lambda **headers: httpx.get(f"{server.url}/v1/models", headers=headers)  # noqa: E731
        assert get(Host="evil.example").status_code == 403
        assert get(Origin="https://evil.example").status_code == 403
        assert get(Origin="null").status_code == 403
        assert get(Host="[::").status_code == get(Origin="http://[").status_code == 403
        assert get(Origin=server.url).status_code == 200
        assert get(Host="localhost:99").status_code == 200
        assert not any(name.startswith("access-control") for name in get().headers)


def test_the_page_is_served_with_a_policy_and_fetches_nothing_foreign(plain):
    page = httpx.get(plain.url)
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("page.js", "client.js", "words.js", "page.css", "seal.svg"):
        file = httpx.get(f"{plain.url}/page/{name}")
        assert file.status_code == 200
        assert "http" not in file.text.replace("http://www.w3.org/2000/svg", "")
    assert httpx.get(f"{plain.url}/page/../api.py").status_code == 404


# ---- many clients, leaving clients, failing engines ----


def test_a_client_that_leaves_frees_its_place(run_server, scripted, until):
    engine = scripted(b"x" * 100_000, delay=0.005, context=200_000)
    with run_server(engine, waiting=2) as server:
        stream = client(server).chat.completions.create(model="scripted", messages=HELLO, stream=True)
        next(iter(stream))
        # Another waits in line for a whole answer, over a bare socket, and goes away.
        body = json.dumps({"messages": HELLO}).encode()
        waiting = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        waiting.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        until(lambda: server.worker.waiting == 1)
        waiting.close()
        until(lambda: server.worker.waiting == 0)
        assert server.worker.active == 1 and engine.finished == 0
        stream.close()
        until(lambda: server.worker.active == 0)
        assert engine.finished == 1 and len(engine.served) == 1
        engine._script = lambda _: b"next"
        assert post(server, messages=HELLO).json()["choices"][0]["message"]["content"] == "next"


def test_more_than_the_line_holds_are_refused_at_once(run_server, scripted, until):
    go_on = threading.Event()
    engine = scripted(lambda _: b"done" if go_on.wait(20) else b"late")
    with run_server(engine, waiting=1) as server:
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(post(server, messages=HELLO))) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: server.worker.active + server.worker.waiting == 2)
        refused = post(server, messages=HELLO)
        assert refused.status_code == 503 and error(refused)["code"] == "overloaded" and refused.headers["retry-after"]
        assert httpx.get(f"{server.url}/health").json()["waiting"] == 1
        go_on.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]


def test_a_failing_engine_answers_500_and_goes_on(run_server, scripted):
    def script(prompt: str) -> bytes:
        if "bad" in prompt:
            raise ZeroDivisionError("boom")
        return b"fine"

    with run_server(scripted(script)) as server:
        bad = [{"role": "user", "content": "bad"}]
        response = post(server, messages=bad)
        assert response.status_code == 500 and "boom" not in error(response)["message"]
        with pytest.raises(openai.APIError, match="failed"):
            list(client(server).chat.completions.create(model="scripted", messages=bad, stream=True))
        assert post(server, messages=HELLO).json()["choices"][0]["message"]["content"] == "fine"


def test_stopping_ends_answers_in_progress(run_server, scripted, until):
    engine = scripted(b"x" * 100_000, delay=0.005, context=200_000)
    with run_server(engine) as server:
        stream = iter(client(server).chat.completions.create(model="scripted", messages=HELLO, stream=True))
        next(stream)
    assert engine.finished == 1
