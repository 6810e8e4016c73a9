"""vLLM as an engine, started and attached: a stand-in speaks its interface; `make parity` has the real one."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import vllm_stand_in
from vllm_stand_in import STATE

from hanmo.errors import HanmoError
from hanmo.serve.engines import open_engine
from hanmo.serve.engines.base import EngineDown, Unable
from hanmo.serve.engines.vllm import _SAMPLE, ARGUMENTS_VARIABLE, KEY_VARIABLE, VARIABLE
from hanmo.serve.sampling import Sampling, SamplingError, seed_of

HELLO = [{"role": "user", "content": "小猫花园"}]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("vllm") / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAND_IN_LOG", str(path))
        yield path


def requests(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


# ---- attached ----


@pytest.fixture(scope="module")
def running(log, tiny_model_dir, transformers_engine):
    ids = transformers_engine._words.tokenizer.backend_tokenizer.encode(_SAMPLE, add_special_tokens=False).ids
    STATE.update(name="theirs", root="/models/x", key="k-1", ids=ids)
    server = ThreadingHTTPServer(("127.0.0.1", 0), vllm_stand_in.VllmHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, f"http://127.0.0.1:{server.server_port}/v1")
        patch.setenv(KEY_VARIABLE, "k-1")
        yield server
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def engine(running, tiny_model_dir):
    engine = open_engine(tiny_model_dir, kind="vllm", parallel=2)
    yield engine
    engine.close()


def test_ids_go_there_and_text_is_made_here(engine, transformers_engine, log):
    assert engine.context == 64  # theirs, which is less than the model's
    assert engine.encode("小猫") == transformers_engine.encode("小猫")
    prompt = engine.encode_chat(HELLO)
    assert prompt == transformers_engine.encode_chat(HELLO)
    settings = Sampling(temperature=0.5, top_p=0.0, top_k=3, min_p=0.1, seed=9, max_tokens=20, logit_bias=((5, -1.0),))
    (answer,) = engine.complete([prompt], settings, first=1)
    assert answer.text == transformers_engine.decode(prompt[-3:])
    assert (answer.prompt_tokens, answer.completion_tokens, answer.finish) == (len(prompt), 4, "stop")
    asked = requests(log)[-1]
    assert asked["model"] == "theirs" and asked["prompt"] == prompt and asked["max_tokens"] == 20
    assert asked["seed"] == seed_of(9, 1) and asked["stop_token_ids"] == sorted(transformers_engine.stop_ids)
    assert asked["top_p"] > 0 and asked["min_p"] == 0.1 and asked["logit_bias"]["5"] == -1.0
    # The rows that only pad the embedding are never drawn.
    rows = json.loads((Path(transformers_engine._words.tokenizer.name_or_path) / "config.json").read_text())[
        "vocab_size"
    ]
    assert set(asked["logit_bias"]) == {"5", *map(str, range(engine.vocab_size, rows))}
    assert engine.complete([prompt], Sampling(max_tokens=2))[0].finish == "length"
    (cut,) = engine.complete([prompt], Sampling(stop=(answer.text[1],)))
    assert cut.text == answer.text[0] and cut.finish == "stop"
    (ended,) = engine.complete([prompt], Sampling(seed=5))
    assert ended.text == answer.text and ended.finish == "stop"


def test_log_probabilities_are_told(engine):
    prompt = engine.encode("小猫在花园里abc")
    told = [one for delta in engine.stream(prompt, Sampling(logprobs=1)) for one in delta.scored]
    assert [one.piece for one in told] == [engine.piece(token) for token in prompt[-3:]]
    assert {one.logprob for one in told} == {-0.5}
    assert told[0].top == ((engine.piece(prompt[-3]), -0.5),)


def test_what_goes_wrong_there_is_said(engine):
    prompt = engine.encode("小猫在花园里abc")
    with pytest.raises(SamplingError, match=r"response_format: vLLM cannot use it \(no such grammar\)"):
        engine.complete([prompt], Sampling(json_schema="{}"))
    with pytest.raises(SamplingError, match="grammar: vLLM"):
        engine.complete([prompt], Sampling(grammar="x"))
    with pytest.raises(HanmoError, match=r"500: no memory"):
        engine.complete([prompt], Sampling(seed=3))
    with pytest.raises(HanmoError, match="does not tell the ids"):
        engine.complete([prompt], Sampling(seed=4))
    with pytest.raises(Unable, match="--engine transformers"):
        engine.embed(["a"], "mean")


def test_who_leaves_frees_the_place(engine, log, until):
    for _ in range(3):  # more than it has places
        stream = engine.stream(engine.encode("小猫在花园里abc"), Sampling(seed=1))
        next(iter(stream))
        stream.close()
    cancel = threading.Event()
    finishes = []
    for delta in engine.stream(engine.encode("小猫在花园里abc"), Sampling(seed=1), cancel=cancel):
        finishes.append(delta.finish)
        cancel.set()
    assert finishes[-1] == "cancelled"
    until(lambda: log.read_text().splitlines().count("left 1") == 4)


def test_it_serves_through_our_api_until_it_is_gone(engine, run_server, until, monkeypatch):
    monkeypatch.setattr(engine, "close", lambda: None)
    with run_server(engine) as server:
        ask = lambda: httpx.post(f"{server.url}/v1/chat/completions", json={"messages": HELLO}, timeout=10)  # noqa: E731
        assert ask().json()["choices"][0]["finish_reason"] == "stop"
        monkeypatch.setattr("hanmo.serve.engines.attached._LOOKS", (0.02, 0.02))
        STATE["gone"] = True
        engine.process._down()  # as a request does that finds nobody
        until(lambda: not engine.ready)
        answer = ask()
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_down"
        STATE["gone"] = False
        until(lambda: engine.ready)
        assert ask().status_code == 200


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"ids": [1, 2]}, "serves 'theirs', whose tokenizer is not that of"),
        ({"key": "other"}, "Invalid API Key"),
        ({"gone": True}, "nobody answers at"),
    ],
)
def test_a_vllm_that_is_not_ours_is_one_line(running, tiny_model_dir, monkeypatch, change, line):
    for name, value in change.items():
        monkeypatch.setitem(STATE, name, value)
    with pytest.raises(HanmoError) as caught:
        open_engine(tiny_model_dir, kind="vllm")
    assert line in str(caught.value) and "\n" not in str(caught.value)


# ---- started ----


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a #! line")
def test_it_is_started_with_what_it_needs_and_again_after_a_crash(log, tiny_model_dir, monkeypatch, until):
    program = log.parent / "vllm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {vllm_stand_in.__file__} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(program))
    monkeypatch.setenv(ARGUMENTS_VARIABLE, "--quantization 'a b'")
    engine = open_engine(tiny_model_dir, kind="vllm", parallel=3, context=100, device="cpu")
    try:
        told = log.read_text().splitlines()[-1]
        assert told.startswith(f"serve {tiny_model_dir} --max-model-len=100 --max-num-seqs=3 ")
        assert "--dtype=float32 --quantization a b --port=" in told and engine.process.address[1] not in told
        prompt = engine.encode("小猫在花园里abc")
        assert engine.complete([prompt], Sampling())[0].finish == "stop"
        with pytest.raises(EngineDown):
            engine.complete([prompt], Sampling(seed=2))
        until(lambda: engine.ready and engine.process.restarts == 1)
        assert engine.complete([prompt], Sampling())[0].finish == "stop"
    finally:
        engine.close()
    assert not engine.ready


def test_what_cannot_be_started_is_one_line(tmp_path, tiny_model_dir, tiny_gguf, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(HanmoError, match=rf"{VARIABLE}=.*none: not a program"):
        open_engine(tiny_model_dir, kind="vllm")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HanmoError, match="vLLM is not there"):
        open_engine(tiny_model_dir, kind="vllm")
    monkeypatch.setenv(VARIABLE, "ftp://x")
    with pytest.raises(HanmoError, match="'ftp://x' is no address"):
        open_engine(tiny_model_dir, kind="vllm")
    with pytest.raises(HanmoError, match="vllm does not run"):
        open_engine(tiny_gguf, kind="vllm")
    with pytest.raises(HanmoError, match="CUDA_VISIBLE_DEVICES"):
        open_engine(tiny_model_dir, kind="vllm", device="mps")
    own = tmp_path / "own"
    shutil.copytree(tiny_model_dir, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "model_type": "hanmo_unified"}))
    with pytest.raises(HanmoError, match="vLLM does not know this class of ours"):
        open_engine(own, kind="vllm")
