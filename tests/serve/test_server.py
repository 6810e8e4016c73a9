"""`serve` as a process: it says where it listens, answers, and stops when it is asked to."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import openai
import pytest

from hanmo.errors import HanmoError
from hanmo.serve import serve
from hanmo.serve.listen import bind

pytestmark = pytest.mark.usefixtures("warm_stages")

CODE = "import sys; from hanmo.serve import serve; serve(sys.argv[1], port=0, device='cpu', threads=1)"


def start(model) -> tuple[subprocess.Popen[str], str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CODE, str(model)],
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={name: value for name, value in os.environ.items() if name != "HANMO_API_KEY"},
    )
    watchdog = threading.Timer(60, child.kill)
    watchdog.start()
    assert child.stderr is not None
    line = child.stderr.readline()
    watchdog.cancel()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line
    return child, found[0]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in the POSIX way")
def test_a_server_process_answers_and_stops_gently(tiny_gguf):
    child, url = start(tiny_gguf)
    try:
        api = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2, timeout=20)
        ask = {"model": "tiny", "messages": [{"role": "user", "content": "你好"}]}
        stream = api.chat.completions.create(**ask, stream=True, max_tokens=60)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        child.send_signal(signal.SIGINT)
        assert child.wait(15) == 0
        assert "Traceback" not in child.stderr.read()  # type: ignore[union-attr]
    finally:
        child.kill()
        child.wait()


def test_a_taken_port_is_one_line_and_said_before_the_model_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(HanmoError, match=f"port {port} .*--port"):
            serve(tmp_path / "no-model", port=port)
        assert time.monotonic() - began < 20


def test_other_hosts_need_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("HANMO_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.5"):
        with pytest.raises(HanmoError, match="API key"):
            serve(tmp_path, host=host)
    with pytest.raises(HanmoError, match="no such address"):
        bind("no such host", 0)
    with pytest.raises(HanmoError, match="port 70000"):
        bind("127.0.0.1", 70000)
