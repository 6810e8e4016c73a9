"""llama.cpp's server as a child: with a stand-in for its faults, and with the real program where there is one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from hanmo.errors import HanmoError
from hanmo.serve.engines import open_engine
from hanmo.serve.engines.base import EngineDown
from hanmo.serve.engines.binary import VARIABLE, find_llama_server
from hanmo.serve.sampling import Sampling

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a #! line")
HELLO = [{"role": "user", "content": "你好"}]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stand-in") / "log"


@pytest.fixture(scope="module")
def stand_in(log: Path) -> Path:
    program = log.parent / "llama-server"
    script = Path(__file__).with_name("llama_stand_in.py")
    program.write_text(f'#!/bin/sh\nexport STAND_IN_LOG={log}\nexec {sys.executable} -S -E {script} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def engine(stand_in: Path, tiny_gguf: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(stand_in))
        engine = open_engine(tiny_gguf, parallel=2, device="cpu", threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def server(engine, run_server):
    close, engine.close = engine.close, lambda: None
    with run_server(engine, waiting=1) as server:
        yield server
    engine.close = close


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines()


def ask(server, seed: int, **body) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json={"messages": HELLO, "seed": seed, **body}, timeout=20)


def test_the_program_is_told_what_it_needs_and_answers(engine, server, log):
    told = lines(log)[0].split()
    value = lambda name: told[told.index(name) + 1]  # noqa: E731
    assert int(value("--ctx-size")) == 2 * engine.context and value("--parallel") == "2" and value("--threads") == "1"
    assert value("--host") == "127.0.0.1" and value("--cache-type-k") == "f32" and "KEY" not in " ".join(told)
    answer = ask(server, 0).json()
    assert answer["choices"][0]["message"]["content"] == "好的。" and answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["usage"]["prompt_tokens"] == len(engine.encode_chat(HELLO))


def test_stop_strings_and_broken_characters_do_not_leak(server):
    answer = ask(server, 4).json()["choices"][0]
    assert answer["message"]["content"] == "墨终止后"
    answer = ask(server, 4, stop=["终止"]).json()["choices"][0]
    assert answer["message"]["content"] == "墨" and answer["finish_reason"] == "stop"


def test_what_it_refuses_is_said(server):
    answer = ask(server, 3)
    assert answer.status_code == 500 and "no such thing" in answer.json()["error"]["message"]


def test_two_at_once_and_who_leaves_frees_the_slot(server, log, until):
    api = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20)
    before = lines(log).count("left")
    streams = [api.chat.completions.create(model="tiny", messages=HELLO, seed=1, stream=True) for _ in range(2)]
    for stream in streams:
        next(iter(stream))
    assert server.worker.active == 2
    third = threading.Thread(target=ask, args=(server, 0))
    third.start()
    until(lambda: server.worker.waiting == 1)
    assert ask(server, 0).status_code == 503
    streams[0].close()
    third.join(10)
    assert not third.is_alive() and server.worker.active == 1
    streams[1].close()
    until(lambda: lines(log).count("left") == before + 2)
    until(lambda: server.worker.active == 0)


def test_a_crash_is_a_503_until_it_is_there_again(engine, server, until):
    before = engine.process.restarts
    answer = ask(server, 2)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert answer.json()["error"]["code"] == "engine_down"
    assert ask(server, 0).status_code == 503
    health = httpx.get(f"{server.url}/health")
    assert health.status_code == 503 and health.json()["status"] == "starting"
    with pytest.raises(EngineDown):
        list(engine.stream([5], Sampling()))
    until(lambda: engine.ready)
    assert engine.process.restarts == before + 1
    assert ask(server, 0).status_code == 200 and httpx.get(f"{server.url}/health").status_code == 200


def test_a_program_that_does_not_start_is_one_line(tmp_path, tiny_gguf, monkeypatch):
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho hm\necho error: no memory\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(program))
    with pytest.raises(HanmoError, match=r"ended while it was starting .*no memory") as caught:
        open_engine(tiny_gguf, parallel=2, device="cpu")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(HanmoError, match=VARIABLE):
        open_engine(tiny_gguf, kind="llama-server", device="cpu")
    with pytest.raises(HanmoError, match="parallel"):
        open_engine(tiny_gguf, parallel=0)


def test_it_does_not_outlive_us(stand_in, tiny_gguf, until):
    code = (
        "import sys; from hanmo.serve.engines import open_engine; from pathlib import Path\n"
        "engine = open_engine(Path(sys.argv[1]), parallel=2, device='cpu'); print('ready', flush=True)\n"
        "sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tiny_gguf)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, VARIABLE: str(stand_in)},
    )
    with parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert any("llama_stand_in" in " ".join(child.cmdline()) for child in children)
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


# ---- the real program ----


@pytest.fixture(scope="module")
def real(tiny_gguf: Path):
    if find_llama_server() is None:
        pytest.skip("llama-server is not there (`hanmo serve --engine llama-server` builds it)")
    engine = open_engine(tiny_gguf, parallel=2, device="cpu", threads=1)
    yield engine
    engine.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 60},
        {"max_tokens": 60, "repetition_penalty": 1.3},
        {},
        {"stop": ("了了",)},
    ],
)
def test_greedy_answers_equal_those_of_llama_cpp_in_this_process(real, llamacpp_engine, settings):
    sampling = Sampling(temperature=0, **settings)
    prompt = real.encode("小猫在花园里")
    assert prompt == llamacpp_engine.encode("小猫在花园里")
    ours, theirs = (list(engine.stream(prompt, sampling)) for engine in (real, llamacpp_engine))
    assert "".join(delta.text for delta in ours) == "".join(delta.text for delta in theirs)
    assert ours[-1].finish == theirs[-1].finish
    if "stop" not in settings:
        assert ours[-1].tokens == theirs[-1].tokens


def test_the_real_one_repeats_a_seed_and_ends_when_cancelled(real):
    prompt = real.encode("小猫")
    draw = lambda index: [  # noqa: E731
        delta.text for delta in real.stream(prompt, Sampling(seed=5, temperature=1.5, max_tokens=20), index=index)
    ]
    assert draw(0) == draw(0) != draw(1)
    cancel = threading.Event()
    pieces = []
    for delta in real.stream(prompt, Sampling(), cancel=cancel):
        pieces.append(delta)
        cancel.set()
    assert pieces[-1].finish == "cancelled" and len(pieces) < 10


def test_the_real_one_comes_back_after_a_crash(real, until):
    program = next(
        child
        for child in psutil.Process().children(recursive=True)
        if child.name().startswith("llama-server") and real.process.address[0].rpartition(":")[2] in child.cmdline()
    )
    program.kill()
    until(lambda: not real.ready)
    until(lambda: real.ready, 30)
    assert list(real.stream(real.encode("小猫"), Sampling(max_tokens=3)))[-1].finish is not None
