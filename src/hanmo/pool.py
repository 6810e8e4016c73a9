"""Worker processes for the stages that turn files into files: small, and sure of what happens when a process dies.

A stage cuts its work into tasks that each read some files and write some others, whole or not at all. `run_tasks` gives
them to worker processes and hands the results back in the order in which they finish. Three things are asked of it that
neither `multiprocessing.Pool` nor datatrove's `LocalPipelineExecutor` (which is built on a Pool) gives:

* a worker that is killed (out of memory, say) is one clear error. A Pool waits for the lost task for ever;
* a worker whose parent is killed ends at once, so that the next try never meets the last one's writers;
* the start method is "spawn" everywhere, so that Linux, macOS and Windows run the same thing.

Which tasks are already done is the stage's own knowledge (it leaves them out), since only the stage knows whether its
settings have changed meanwhile.

`run_phase` is what stages call: it runs the tasks of one phase that are left, wherever the settings say.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from hanmo.console import progress
from hanmo.errors import HanmoError, describe_os_error
from hanmo.remote import existing
from hanmo.stage import Settings, setting

Task = TypeVar("Task")
Result = TypeVar("Result")

#: One worker is one core: libraries with threads of their own are told so before they are imported.
ONE_THREAD = {
    "RAYON_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class WorkerSettings(Settings):
    """Who does the tasks of a stage; nothing of it changes the result."""

    workers: int = setting(
        0, "worker processes; 0: one per processor (with Ray: of the cluster)", ge=0, affects="speed"
    )
    executor: Literal["local", "ray", "slurm"] = setting(
        "local",
        "who does the tasks: processes of this machine, a Ray cluster, or (written by `hanmo slurm`) array jobs",
        affects="speed",
    )
    ray_address: str = setting(
        "",
        "the Ray cluster: host:port, ray://host:port, or auto for the one that runs on this machine; empty: one of its "
        "own, on this machine. All its machines must see the same files",
        affects="speed",
    )


class Phased(Protocol):
    """A task of a phase: it is done when the file `done` is there, which it writes last."""

    @property
    def done(self) -> Path: ...


def run_phase(
    title: str,
    function: Callable[[Any], Any],
    tasks: Sequence[Phased],
    settings: WorkerSettings,
    out: Path,
    check: Callable[[Any], None] = lambda _: None,
) -> None:
    """Do those tasks of a phase that are not done yet.

    Args:
        title: what a person sees; also the phase's name in `hanmo slurm`, so of one stage each has its own.
        function, tasks: as `run_tasks` takes them.
        out: the stage's folder.
        check: called with every result as it comes; what it raises stops the stage.

    Raises:
        HanmoError: as `run_tasks` does.
        Waiting: array jobs are to do the tasks, which are written down for them (see `hanmo.slurm`).
    """
    done = existing([task.done for task in tasks])
    left = [task for task in tasks if task.done not in done]
    if left and settings.executor == "slurm":
        from hanmo.slurm import leave

        leave(title, function, left, out)
    with progress() as display:
        bar = display.add_task(title, total=len(tasks), completed=len(tasks) - len(left), info="")
        if settings.executor == "ray":
            from hanmo.cluster import run_on_ray

            results = run_on_ray(function, left, settings.workers, settings.ray_address)
        else:
            results = run_tasks(function, left, settings.workers or cores())
        for _, result in results:
            check(result)
            display.advance(bar)


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def run_tasks(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, Result]]:
    """Yield (task, function(task)) for every task, as they finish.

    Args:
        function: importable by name (it travels to the workers by pickle), as are its tasks and results.
        tasks: handed out in this order.
        workers: processes; 1 (or a single task) runs everything in this process.

    Raises:
        HanmoError: a task raised one, the disk is full, or a worker died. The other workers are stopped first.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        for task in tasks:
            try:
                result = function(task)
            except OSError as error:
                raise _mendable(error) from error
            yield task, result
        return
    crew = _start(function, workers)
    try:
        yield from _hand_out(crew, tasks)
    finally:
        for process, pipe in crew:
            pipe.close()
            process.terminate()
        for process, _ in crew:
            process.join()


def _mendable(error: OSError) -> Exception:
    line = describe_os_error(error)
    return HanmoError(line) if line else error


def _start(function: Callable[..., Any], workers: int) -> list[tuple[Any, Any]]:
    context = multiprocessing.get_context("spawn")
    crew = []
    with _environment(ONE_THREAD):
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(function, theirs), daemon=True)
            process.start()
            theirs.close()
            crew.append((process, ours))
    return crew


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _hand_out(crew: list[tuple[Any, Any]], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    process_of = {pipe: process for process, pipe in crew}
    holding: dict[Any, int] = {}
    todo = iter(range(len(tasks)))

    def give(pipe: Any) -> None:
        index = next(todo, None)
        if index is not None:
            try:
                pipe.send(tasks[index])
            except OSError:
                raise _died(process_of[pipe]) from None
            holding[pipe] = index

    for _, pipe in crew:
        give(pipe)
    while holding:
        for pipe in connection.wait(list(holding)):
            try:
                kind, value = pipe.recv()  # type: ignore[union-attr]
            except (EOFError, OSError):
                raise _died(process_of[pipe]) from None
            if kind == "error":
                raise value
            index = holding.pop(pipe)
            give(pipe)
            yield tasks[index], value


def _died(process: Any) -> HanmoError:
    process.join(10)
    code = process.exitcode
    cause = f"signal {-code}" if isinstance(code, int) and code < 0 else f"exit code {code}"
    return HanmoError(
        f"a worker process died ({cause}), perhaps for want of memory: "
        "run the same command again (it goes on where it was), with fewer `workers` if it dies again"
    )


def _work(function: Callable[[Any], Any], pipe: Any) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(answer_of(function, task))
        except OSError:
            return


def answer_of(function: Callable[[Any], Any], task: Any) -> tuple[str, Any]:
    """("result", what the task gave) or ("error", the exception to raise where the stage runs)."""
    try:
        return "result", function(task)
    except HanmoError as error:
        return "error", error
    except BaseException as error:  # every fault must reach the stage, which decides
        line = describe_os_error(error) if isinstance(error, Exception) else None
        return "error", HanmoError(line) if line else RuntimeError(f"in a worker:\n{traceback.format_exc()}")


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
