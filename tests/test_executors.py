"""The same recipe on worker processes and on a real Ray cluster of two nodes; killed, and gone on with."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanmo.errors import HanmoError
from hanmo.pool import WorkerSettings, run_phase
from scaling import digests, environment, finished, hanmo, kill_when, must, project, watch

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL as POSIX has it"),
    pytest.mark.usefixtures("warm_stages"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("scaled"))


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """An undisturbed run on worker processes."""
    out = recipe.parent / "whole"
    must(hanmo(recipe, "run", recipe, "--out", out, "text.workers=2", "tokens.workers=2"))
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, each with a scheduler and workers of its own, that share this machine."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip('needs Ray: pip install "hanmo[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        # The workers must find the functions of this file; and the cluster is nobody else's.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        from ray.cluster_utils import Cluster  # reads these when it is imported

        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        found.add_node(num_cpus=1)
        yield found
        found.shutdown()


def on(executor: str, request: pytest.FixtureRequest) -> list[str]:
    """The settings that put both stages on an executor."""
    if executor == "local":
        return ["text.workers=2", "tokens.workers=2"]
    address = request.getfixturevalue("cluster").address
    return [f"{stage}.{key}" for stage in ("text", "tokens") for key in ("executor=ray", f"ray_address={address}")]


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_after_a_kill_only_unfinished_tasks_are_done(
    recipe: Path, whole: Path, executor: str, request: pytest.FixtureRequest
) -> None:
    out = recipe.parent / f"killed-{executor}"
    command = [sys.executable, "-m", "hanmo", "run", str(recipe), "--out", str(out), *on(executor, request)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment(recipe), stderr=subprocess.DEVNULL, start_new_session=True)

    gathered = kill_when(start(), out, "gather", 5)
    assert not finished(out, "deal")
    dealt = kill_when(start(), out, "deal", 5)
    assert gathered.items() <= finished(out, "gather").items()
    assert len(finished(out, "gather")) > len(gathered) >= 5
    if executor == "ray":  # a machine goes, and its workers and tasks with it
        node = request.getfixturevalue("cluster").add_node(num_cpus=1)
    again = start()
    if executor == "ray":
        while len(finished(out, "deal")) <= len(dealt):
            assert again.poll() is None
        request.getfixturevalue("cluster").remove_node(node, allow_graceful=False)
    seen = watch(again, out, "deal")
    assert dealt.items() <= seen.items() and len(seen) > len(dealt) >= 5
    assert digests(out) == digests(whole)


def test_the_tokens_that_are_there_are_not_made_again(recipe: Path, whole: Path, request: Any) -> None:
    out = recipe.parent / "tokens"
    shutil.copytree(whole, out)
    (out / "tokens" / "manifest.json").unlink()
    before = finished(out, "encode")
    for path in list(before)[::2]:
        Path(path).unlink()
    must(hanmo(recipe, "run", recipe, "--out", out, *on("ray", request)))
    after = finished(out, "encode")
    assert {path for path in before if before[path] != after[path]} == set(list(before)[::2])
    assert digests(out) == digests(whole)


class Task:
    """A task whose file is never there."""

    done = Path("/nowhere/to/be/found")

    def __init__(self, number: int) -> None:
        self.number = number


def fail(task: Task) -> int:
    if task.number == 3:
        raise HanmoError("file.jsonl:3: the third one")
    return task.number


def die(task: Task) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task.number


@pytest.fixture
def on_ray(cluster: Any) -> Iterator[WorkerSettings]:
    import ray

    yield WorkerSettings(executor="ray", ray_address=cluster.address)
    ray.shutdown()


def test_a_task_s_fault_is_the_line_it_raised(on_ray: WorkerSettings, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match=r"^file.jsonl:3: the third one$"):
        run_phase("failing", fail, [Task(number) for number in range(6)], on_ray, tmp_path)


def test_a_worker_that_always_dies_is_one_line(on_ray: WorkerSettings, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="a task was lost on the Ray cluster 4 times") as caught:
        run_phase("dying", die, [Task(1)], on_ray, tmp_path)
    assert "\n" not in str(caught.value)


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='needs Ray: pip install "hanmo[ray]"')
    nobody = WorkerSettings(executor="ray", ray_address="127.0.0.1:1")
    with pytest.raises(HanmoError, match=r"no Ray cluster at ray_address '127.0.0.1:1'") as caught:
        run_phase("alone", fail, [Task(1)], nobody, tmp_path)
    assert "\n" not in str(caught.value)
