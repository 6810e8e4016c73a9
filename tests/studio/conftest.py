"""A folder of runs for the studio's tests: one that is done and full of hostile text, one at work, and other things."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from at_work import begun, log

from fabricate import fabricate


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A run as a demo leaves it."""
    folder = tmp_path_factory.mktemp("finished") / "demo"
    fabricate(folder, tiny_tokenizer_dir)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """A folder of runs: "demo", which is done, one that works, a folder of notes, and a link out of it."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(finished, root / "demo")
    log(begun(root / "新 run #1" / "base"), 5)
    (root / "notes").mkdir()
    (root / "notes" / "todo.txt").write_text("not a run")
    outside = begun(tmp_path_factory.mktemp("outside") / "secret" / "base")
    (root / "linked").symlink_to(outside.parent, target_is_directory=True)
    return root


@pytest.fixture(scope="session")
def run_studio() -> Callable[..., contextlib.AbstractContextManager[str]]:
    """`with run_studio(folder, **options) as url:` shows a folder on a free loopback port."""
    import uvicorn

    from hanmo.serve.listen import bind
    from hanmo.studio.app import create_app

    @contextlib.contextmanager
    def start(folder: Path, **options) -> Iterator[str]:
        listener = bind("127.0.0.1", 0)
        app = create_app(folder, **options)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        end = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)

    return start
