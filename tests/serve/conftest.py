"""Engines for the tests of serving: the real ones on a tiny random model, and one that says what it is told to say."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hanmo.serve.engines.base import Engine, TokenEngine
from hanmo.serve.text import Utf8Stream


class ScriptedEngine(TokenEngine):
    """Tokens are bytes; the answer to a prompt is what `script` makes of its text, then the stop id 256.

    Attributes:
        delay: seconds before each token.
        started: set when an answer begins; finished: counts answers whose generator was left or exhausted.
        served, samplings: what was asked for, in order.
    """

    def __init__(self, script: Callable[[str], bytes] | bytes = b"ok", *, delay: float = 0.0, context: int = 4096):
        super().__init__()
        self.name, self.context, self.vocab_size = "scripted", context, 257
        self.stop_ids, self.can_chat = frozenset({256}), True
        self._script = script if callable(script) else lambda _: script
        self.delay = delay
        self.started = threading.Event()
        self.finished = 0
        self.served: list[str] = []
        self.samplings: list[Any] = []

    def encode(self, text: str) -> list[int]:
        return list(text.encode()) or [10]

    def encode_chat(self, messages: Sequence[Any], tools: Sequence[Any] = ()) -> list[int]:
        return list("".join(f"{message['content']}\n" for message in messages).encode())

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b"<end>"

    def detokenizer(self) -> Any:
        characters = Utf8Stream()

        class Bytes:
            def push(self, token: int) -> str:
                return characters.push(bytes([token]))

        return Bytes()

    def tokens(self, prompt, sampling, cancel, index=0) -> Iterator[int]:
        text = bytes(prompt).decode()
        self.served.append(text)
        self.samplings.append(sampling)
        self.started.set()
        try:
            for token in [*self._script(text), 256]:
                if self.delay:
                    time.sleep(self.delay)
                yield token
        finally:
            self.finished += 1


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedEngine]:
    return ScriptedEngine


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The tiny model as an F32 .gguf file."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (the extra [gguf])")
    from hanmo.convert.gguf import convert_gguf

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    convert_gguf(tiny_model_dir, path, "f32")
    return path


@pytest.fixture(scope="session")
def transformers_engine(tiny_model_dir: Path) -> Iterator[Engine]:
    from hanmo.serve.engines import open_engine

    engine = open_engine(tiny_model_dir, device="cpu", threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def llamacpp_engine(tiny_gguf: Path) -> Iterator[Engine]:
    from hanmo.serve.engines import open_engine

    engine = open_engine(tiny_gguf, device="cpu", threads=1)
    yield engine
    engine.close()


@pytest.fixture(params=["transformers", "llamacpp"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each real engine in turn."""
    return request.getfixturevalue(f"{request.param}_engine")


class Running:
    """A server in a thread: `url`, `engine`, `worker`."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        import uvicorn

        from hanmo.serve.api import create_app
        from hanmo.serve.listen import bind
        from hanmo.serve.models import Models

        self.engine = engine
        self.models = engine if isinstance(engine, Models) else Models.holding(engine, options.pop("waiting", 16))
        app = create_app(self.models, **options)
        self.worker = next(iter(self.models.workers.values()), None)
        self._listener = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="session")
def run_server() -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """`with run_server(engine, **options) as server:` serves on a free loopback port."""

    @contextlib.contextmanager
    def start(engine: Engine, **options: Any) -> Iterator[Running]:
        server = Running(engine, **options)
        try:
            yield server
        finally:
            server.close()

    return start


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for something to become true, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(name="until", scope="session")
def until_fixture() -> Callable[..., None]:
    return until
