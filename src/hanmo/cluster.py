"""The tasks of a stage on a Ray cluster, by the contract of `hanmo.pool.run_tasks`.

datatrove's RayPipelineExecutor was considered and not taken: it runs a multiprocessing Pool in an actor, which waits
for ever for a task whose process was killed, and its record of finished tasks knows nothing of settings. Here a task is
a remote function; Ray itself starts it again elsewhere when its worker or its machine dies, which is safe since a
task's files appear whole, and are the same whoever writes them.

All machines of the cluster need this package (and its version), and must see the files under the same names: a shared
file system, or inputs and outputs in object storage with `HANMO_CACHE` on a shared file system.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.pool import ONE_THREAD, Result, Task, answer_of, cores

#: How often Ray starts a task again whose worker or machine died.
RETRIES = 3


def run_on_ray(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, address: str
) -> Iterator[tuple[Task, Result]]:
    """Yield (task, function(task)) for every task, as they finish.

    Args:
        function: of a module that the cluster's machines have.
        workers: tasks at a time; 0: as many as the cluster has processors, which may change meanwhile.
        address: see `WorkerSettings.ray_address`.

    Raises:
        HanmoError: no such cluster, a task raised one, or a task's worker died again and again.
    """
    if not tasks:
        return
    ray = need("ray", "ray")
    if not ray.is_initialized():  # one phase follows another, and joining takes seconds
        _join(ray, workers, address)
    try:
        yield from _hand_out(ray, function, tasks, workers, address)
    except BaseException:
        ray.shutdown()  # ends what is still under way for us; a cluster that was there before stays
        raise


def _join(ray: Any, workers: int, address: str) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        options["address"] = address
    else:
        # "local" never joins a cluster that happens to run here.
        options |= {"address": "local", "num_cpus": workers or cores(), "include_dashboard": False}
    try:
        if address not in ("", "auto"):
            _knock(address.removeprefix("ray://"))  # Ray itself would try for minutes
        ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise HanmoError(
            f"no Ray cluster at ray_address '{address}' ({reason:.200}); start one with `ray start --head`, leave "
            "ray_address empty for one on this machine, or set RAY_AUTH_MODE and RAY_AUTH_TOKEN if it asks for a token"
        ) from None


def _knock(address: str) -> None:
    """Raise an OSError (or a ValueError) where nobody listens at host:port."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


def _hand_out(
    ray: Any, function: Callable[..., Any], tasks: Sequence[Any], workers: int, address: str
) -> Iterator[tuple[Any, Any]]:
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_work)
    todo = iter(range(len(tasks)))
    holding: dict[Any, int] = {}
    head = "" if address.startswith("ray://") else ray.get_runtime_context().gcs_address
    while True:
        try:
            if head:
                _knock(head)  # without it, Ray waits a minute and then ends this process
        except OSError as error:
            raise HanmoError(
                f"the Ray cluster's head at {head} is gone ({error}): start it, then run the same command again (it "
                "goes on where it was)"
            ) from None
        # No more than can run: a task travels with all the names it needs, and a fault ends the others soon.
        room = (workers or max(1, int(ray.cluster_resources().get("CPU", 1)))) - len(holding)
        for index in islice(todo, max(0, room)):
            holding[remote.remote(function.__module__, function.__qualname__, tasks[index])] = index
        if not holding:
            return
        ready, _ = ray.wait(list(holding), num_returns=1, timeout=10)
        for reference in ready:
            index = holding.pop(reference)
            try:
                kind, value = ray.get(reference)
            except ray.exceptions.RayError as error:
                raise _lost(error) from None
            if kind == "error":
                raise value
            yield tasks[index], value


def _work(module: str, name: str, task: Any) -> tuple[str, Any]:
    """One task on a worker of the cluster."""
    os.environ.update(ONE_THREAD)
    return answer_of(getattr(importlib.import_module(module), name), task)


def _lost(error: Exception) -> Exception:
    reason = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return HanmoError(
        f"a task was lost on the Ray cluster {RETRIES + 1} times, perhaps for want of memory or of the package there "
        f"({type(error).__name__}: {reason:.300}): run the same command again (it goes on where it was)"
    )
