"""Engines for the tests of serving: the real ones on a tiny random model, and one that says what it is told to say."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hanmo.serve.engines.base import Engine
from scripted_engine import ScriptedEngine


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
