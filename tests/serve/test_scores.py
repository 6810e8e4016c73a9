"""Log probabilities, biases, and answers held to a schema, over the real engines."""

from __future__ import annotations

import json
import math
import threading

import httpx
import openai
import pytest

from hanmo.serve.engines import open_engine
from hanmo.serve.engines.binary import find_llama_server
from hanmo.serve.sampling import Sampling

GREEDY = Sampling(temperature=0, max_tokens=30, logprobs=2)
HELLO = [{"role": "user", "content": "你好"}]


@pytest.fixture(scope="module")
def server(transformers_engine, run_server):
    close, transformers_engine.close = transformers_engine.close, lambda: None
    with run_server(transformers_engine) as server:
        yield server
    transformers_engine.close = close


@pytest.fixture(scope="module")
def api(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20)


def scored(engine, prompt, sampling):
    deltas = list(engine.stream(prompt, sampling))
    return deltas, [one for delta in deltas for one in delta.scored]


def test_log_probabilities_are_the_models_own(tiny_model_dir, transformers_engine):
    import torch
    from transformers import AutoModelForCausalLM

    prompt = transformers_engine.encode("小猫")
    deltas, tokens = scored(transformers_engine, prompt, GREEDY)
    assert len(tokens) == deltas[-1].tokens == 30
    assert b"".join(one.piece for one in tokens).decode("utf-8", "ignore") == "".join(d.text for d in deltas)
    ids = list(transformers_engine.tokens(prompt, Sampling(temperature=0), threading.Event()))[:30]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(tiny_model_dir)(torch.tensor([[*prompt, *ids]])).logits[0]
    expected = logits[len(prompt) - 1 : -1, : transformers_engine.vocab_size].log_softmax(-1)
    for one, row, token in zip(tokens, expected, ids, strict=True):
        assert one.piece == transformers_engine.piece(token)
        assert one.logprob == pytest.approx(float(row[token]), abs=1e-3)
        assert [value for _, value in one.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-3)
        assert one.top[0][0] == one.piece  # greedy


def test_penalties_and_biases_change_the_draw_and_not_what_is_told(engine):
    prompt = engine.encode("小猫")
    _, plain = scored(engine, prompt, Sampling(temperature=0, max_tokens=1, logprobs=3))
    best = next(t for t in range(engine.vocab_size) if engine.piece(t) == plain[0].piece)
    second = next(t for t in range(engine.vocab_size) if engine.piece(t) == plain[0].top[1][0])
    _, pushed = scored(
        engine, prompt, Sampling(temperature=0, max_tokens=1, logprobs=3, logit_bias=((best, -100.0), (second, 50.0)))
    )
    assert pushed[0].piece == plain[0].top[1][0]
    assert pushed[0].top == plain[0].top and pushed[0].logprob == plain[0].top[1][1]


def test_tokens_of_a_stop_string_are_not_told(engine):
    prompt = engine.encode("小猫在花园里")
    whole, tokens = scored(engine, prompt, GREEDY)
    text = "".join(delta.text for delta in whole)
    stop = text[6:9]
    assert len(stop) == 3
    cut, told = scored(engine, prompt, Sampling(temperature=0, max_tokens=30, logprobs=0, stop=(stop,)))
    assert cut[-1].finish == "stop"
    kept = b"".join(one.piece for one in told).decode("utf-8", "ignore")
    shown = "".join(delta.text for delta in cut)
    assert shown.startswith(kept) and stop not in kept and len(told) < len(tokens)


def test_the_openai_client_reads_them(api, server):
    ask = {"model": server.engine.name, "temperature": 0, "max_tokens": 12}
    answer = api.chat.completions.create(**ask, messages=HELLO, logprobs=True, top_logprobs=2).choices[0]
    content = answer.logprobs.content
    assert len(content) == 12 and all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in content)
    assert bytes(b for one in content for b in one.bytes).decode("utf-8", "ignore") == answer.message.content
    chunks = api.chat.completions.create(**ask, messages=HELLO, logprobs=True, top_logprobs=2, stream=True)
    streamed = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert [one.token for one in streamed] == [one.token for one in content]
    old = api.completions.create(**ask, prompt="小猫", logprobs=3).choices[0]
    assert len(old.logprobs.tokens) == len(old.logprobs.token_logprobs) == len(old.logprobs.text_offset) == 12
    assert all(math.isfinite(value) and value <= 0 for value in old.logprobs.token_logprobs)
    assert [max(top, key=top.__getitem__) for top in old.logprobs.top_logprobs] == old.logprobs.tokens
    for token, offset in zip(old.logprobs.tokens, old.logprobs.text_offset, strict=True):
        assert token.startswith("bytes:") or old.text[offset:].startswith(token)
    assert api.completions.create(**ask, prompt="小猫").choices[0].logprobs is None


def test_tokens_go_there_and_back(server):
    post = lambda path, **body: httpx.post(f"{server.url}/v1/{path}", json=body, timeout=20)  # noqa: E731
    found = post("tokenize", prompt="小猫😀").json()
    assert found["tokens"] == server.engine.encode("小猫😀") and found["count"] == len(found["pieces"])
    assert found["pieces"][0] == "<|endoftext|>"
    assert post("detokenize", tokens=found["tokens"]).json() == {"text": "小猫😀"}
    assert post("tokenize", messages=HELLO).json()["tokens"] == server.engine.encode_chat(HELLO)
    assert post("detokenize", tokens=[99999]).status_code == 400
    assert post("tokenize").status_code == post("tokenize", prompt="a", messages=HELLO).status_code == 400


# ---- llama-server, the real program ----


@pytest.fixture(scope="module")
def real(tiny_gguf):
    if find_llama_server() is None:
        pytest.skip("llama-server is not there (`hanmo serve --engine llama-server` builds it)")
    engine = open_engine(tiny_gguf, parallel=2, device="cpu", threads=1)
    yield engine
    engine.close()


def test_llama_server_tells_the_same_as_llama_cpp(real, llamacpp_engine):
    prompt = real.encode("小猫")
    assert scored(real, prompt, GREEDY) == scored(llamacpp_engine, prompt, GREEDY)


def test_llama_server_heeds_biases_and_never_draws_padding(real):
    prompt = real.encode("小猫")
    plain = "".join(delta.text for delta in real.stream(prompt, Sampling(temperature=0, max_tokens=5)))
    first = real.encode(plain[0])[-1]
    biased = Sampling(temperature=0, max_tokens=5, logit_bias=((first, -100.0),))
    assert not "".join(delta.text for delta in real.stream(prompt, biased)).startswith(plain[0])


def test_answers_are_held_to_schemas_and_grammars(real, run_server):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    close, real.close = real.close, lambda: None
    with run_server(real) as server:
        ask = lambda **body: httpx.post(  # noqa: E731
            f"{server.url}/v1/chat/completions", json={"messages": HELLO, "max_tokens": 40, **body}, timeout=20
        )
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answer = ask(response_format=form).json()["choices"][0]
        assert json.loads(answer["message"]["content"])["a"] in (1, 2) and answer["finish_reason"] == "stop"
        answer = ask(grammar='root ::= "好" ("的" | "吧") "。"').json()["choices"][0]
        assert answer["message"]["content"] in ("好的。", "好吧。")
        for bad in (
            {"grammar": "root ::= ("},
            {"response_format": {**form, "json_schema": {"schema": {"$ref": "#/no"}}}},
        ):
            refused = ask(**bad)
            assert refused.status_code == 400 and refused.json()["error"]["param"] == next(iter(bad)), refused.text
        both = ask(response_format={"type": "json_object"}, grammar='root ::= "a"')
        assert both.status_code == 400
        assert ask(response_format={"type": "json_object"}, logprobs=True).status_code == 400
    real.close = close
