"""What is counted and put down about requests, and the bounds that end them."""

from __future__ import annotations

import json
import logging

import httpx
import openai
import pytest

from hanmo.errors import HanmoError
from hanmo.serve.journal import write_to

HELLO = [{"role": "user", "content": "秘密"}]


@pytest.fixture
def journal(tmp_path):
    """Lines of the log, as they are at the moment."""
    path = tmp_path / "requests.jsonl"
    write_to(str(path))
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    write_to("off")
    logging.getLogger("hanmo.serve.requests").setLevel(logging.NOTSET)


def post(server, path: str = "chat/completions", **body) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=20)


def test_a_request_is_a_line_without_what_was_said(run_server, scripted, journal, until):
    with run_server(scripted("回答".encode())) as server:
        answer = post(server, messages=HELLO)
        list(client(server).chat.completions.create(model="scripted", messages=HELLO, stream=True))
        post(server, messages=[])
        httpx.get(f"{server.url}/秘密")
        until(lambda: len(journal()) == 4)
    whole, streamed, bad, lost = journal()
    assert whole["id"] == answer.headers["x-request-id"] != streamed["id"]
    for line in (whole, streamed):
        assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/chat/completions", 200)
        assert line["model"] == "scripted" and line["finish"] == ["stop"]
        assert line["prompt_tokens"] == len("秘密\n".encode()) and line["completion_tokens"] == 7
        assert 0 <= line["waited"] <= line["first_token"] <= line["seconds"]
    assert bad["status"] == 400 and lost["path"] == "other" and lost["status"] == 404
    assert "秘密" not in json.dumps(journal(), ensure_ascii=False) and "回答" not in str(journal())


def test_text_is_put_down_where_that_is_asked_for(run_server, scripted, journal, until):
    with run_server(scripted("回答".encode()), log_text=True) as server:
        post(server, messages=HELLO)
        until(lambda: journal())
    (line,) = journal()
    assert line["asked"]["messages"][0]["content"] == "秘密" and line["answered"] == ["回答"]


def test_who_left_and_what_failed_is_put_down(run_server, scripted, journal, until):
    engine = scripted(b"x" * 100_000, delay=0.005, context=200_000)
    with run_server(engine) as server:
        stream = client(server).chat.completions.create(model="scripted", messages=HELLO, stream=True)
        next(iter(stream))
        stream.close()
        until(lambda: len(journal()) == 1)
        assert journal()[0]["finish"] == [None] and journal()[0]["completion_tokens"] > 0
        engine._script = lambda _: (_ for _ in ()).throw(HanmoError("out of memory"))
        with pytest.raises(openai.APIError, match="out of memory"):
            list(client(server).chat.completions.create(model="scripted", messages=HELLO, stream=True))
        until(lambda: len(journal()) == 2)
        assert journal()[1]["error"] == 500


def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20)


def test_counts_are_told_to_prometheus(run_server, scripted):
    from prometheus_client.parser import text_string_to_metric_families

    with run_server(scripted(b"ok")) as server:
        for _ in range(3):
            post(server, messages=HELLO)
        post(server, messages=[])
        answer = httpx.get(f"{server.url}/metrics")
        found = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
    chat = "/v1/chat/completions"
    assert found["hanmo_requests_total", chat, "200"] == 3 and found["hanmo_requests_total", chat, "400"] == 1
    assert found["hanmo_tokens_total", "completion", "scripted"] == 9
    assert found["hanmo_tokens_total", "prompt", "scripted"] == 21
    assert found["hanmo_first_token_seconds_count", "scripted"] == found["hanmo_waited_seconds_count", "scripted"] == 3
    assert found["hanmo_active", "scripted"] == found["hanmo_waiting", "scripted"] == 0
    assert found["hanmo_loaded", "scripted"] == found["hanmo_ready", "scripted"] == 1
    assert found["hanmo_model_loads_total",] == 1 and found["hanmo_model_unloads_total",] == 0


def test_counts_need_the_key(run_server, scripted):
    with run_server(scripted(), api_key="geheim") as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/metrics", headers={"authorization": "Bearer geheim"}).status_code == 200


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(HanmoError, match="cannot be written"):
        write_to(str(tmp_path / "none" / "log"))


# ---- bounds ----


def test_an_endless_answer_ends_when_patience_does(run_server, scripted, until):
    engine = scripted(b"x" * 100_000, delay=0.005, context=200_000)
    with run_server(engine, patience=0.3) as server:
        answer = post(server, messages=HELLO)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        with pytest.raises(openai.APIError, match="longer than"):
            list(client(server).chat.completions.create(model="scripted", messages=HELLO, stream=True))
        until(lambda: server.worker.active == 0)
        assert engine.finished == 2
        engine._script = lambda _: b"next"
        assert post(server, messages=HELLO).json()["choices"][0]["message"]["content"] == "next"


def test_waiting_in_line_counts(run_server, scripted, until):
    engine = scripted(b"x" * 100_000, delay=0.005, context=200_000)
    with run_server(engine, patience=1.0) as server:
        stream = client(server).chat.completions.create(model="scripted", messages=HELLO, stream=True)
        next(iter(stream))
        assert post(server, messages=HELLO).status_code == 504
        stream.close()


def test_ten_megabytes_and_a_prompt_that_is_too_long_are_refused(run_server, scripted, tiny_gguf, llamacpp_engine):
    with run_server(scripted()) as server:
        assert post(server, messages=[{"role": "user", "content": "长" * 3_500_000}]).status_code == 413
    close, llamacpp_engine.close = llamacpp_engine.close, lambda: None
    with run_server(llamacpp_engine) as server:
        answer = post(server, "completions", prompt="长" * 300_000)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
    llamacpp_engine.close = close


def test_many_clients_get_an_answer_or_an_honest_no(run_server, scripted):
    """A short form of benchmarks/serving.py load."""
    import concurrent.futures

    engine = scripted(b"ok" * 20, delay=0.0005)
    with run_server(engine, waiting=8) as server:

        def ask(number: int) -> set[int]:
            found = set()
            with httpx.Client(timeout=30) as session:
                for turn in range(3):
                    body = {"messages": HELLO, "stream": (number + turn) % 2 == 0}
                    answer = session.post(f"{server.url}/v1/chat/completions", json=body)
                    found.add(answer.status_code)
                    if answer.status_code == 200:
                        assert answer.text.count("o") >= 20 and ("[DONE]" in answer.text) == body["stream"]
                    else:
                        assert answer.headers["retry-after"]
            return found

        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            statuses = set().union(*pool.map(ask, range(64)))
        assert statuses == {200, 503}
        assert server.worker.active == server.worker.waiting == 0
