"""The line in front of an engine: as many answers at once as it computes, a bounded number waiting, all free to leave.

Engines compute in threads of their own, so the event loop never waits for a token. A job whose client has left is
taken out of the line at once, or ends after the token being computed.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hanmo.errors import HanmoError
from hanmo.serve.engines.base import Delta, Engine, EngineDown, Unable
from hanmo.serve.sampling import Sampling, SamplingError


class Busy(HanmoError):
    """The line is full."""


class EngineFailure(HanmoError):
    """The engine could not go on with an answer (out of memory, damaged weights)."""


@dataclass(eq=False)
class Work(ABC):
    """Something that an engine is asked to do, in `parts` that may be done at once."""

    cancelled: threading.Event = field(default_factory=threading.Event, kw_only=True)
    events: asyncio.Queue[tuple[int, Any] | BaseException | None] = field(default_factory=asyncio.Queue, kw_only=True)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, kw_only=True)
    #: When the first part began, by `time.monotonic`.
    began: float | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def parts(self) -> int:
        """How many there are."""

    @abstractmethod
    def do(self, engine: Any, number: int) -> Iterator[Any]:
        """Do one part; called in one of the engine's threads."""

    def tell(self, event: tuple[int, Any] | BaseException | None) -> None:
        """Hand an event to the waiting coroutine; None says that all is done. Called from the engine's thread."""
        # The loop is closed when the server stops while a token is being computed.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


@dataclass(eq=False)
class Job(Work):
    """Answers to some prompts, in order; answer i of prompt p has the number `p * count + i`.

    Attributes:
        prompts: ids of each prompt.
        sampling: for all of them.
        count: answers to each prompt.
    """

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    count: int = 1

    @property
    def parts(self) -> int:
        return len(self.prompts) * self.count

    def do(self, engine: Engine, number: int) -> Iterator[Delta]:
        prompt = self.prompts[number // self.count]
        return engine.stream(prompt, self.sampling, cancel=self.cancelled, index=number)


@dataclass(eq=False)
class Call(Work):
    """One call of a method, with one result."""

    function: Callable[[], Any]

    @property
    def parts(self) -> int:
        return 1

    def do(self, engine: Any, number: int) -> Iterator[Any]:
        yield self.function()


class Served(Protocol):
    """What a worker asks of what it works on: an engine, or a reader."""

    name: str
    parallel: int

    @property
    def ready(self) -> bool:
        """Whether it can be asked now."""
        ...

    def close(self) -> None:
        """Free its memory."""
        ...


class Worker:
    """Runs jobs on one engine, first come, first served, as many answers at once as the engine computes.

    Args:
        engine: is used by this worker's threads alone, but for encoding.
        waiting: so many jobs may stand in line behind those being answered.
    """

    def __init__(self, engine: Served, waiting: int = 16) -> None:
        self.engine = engine
        self._most = waiting
        #: Jobs whose first answer has not begun, and the answers of all jobs that have not: (job, number).
        self._unbegun: set[Work] = set()
        self._line: collections.deque[tuple[Work, int]] = collections.deque()
        #: Answers of each job that are still to be ended.
        self._left: dict[Work, int] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"engine {engine.name} {number}", daemon=True)
            for number in range(engine.parallel)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def active(self) -> int:
        """Jobs being answered."""
        return len(self._left) - len(self._unbegun)

    @property
    def waiting(self) -> int:
        """Jobs in line."""
        return len(self._unbegun)

    @property
    def alive(self) -> bool:
        """Whether the worker still takes jobs."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def submit(self, job: Work) -> None:
        """Put a job in line.

        Raises:
            Busy: the line is full, or the server is stopping.
            EngineDown: the engine is not there at the moment.
        """
        with self._changed:
            if not self.alive:
                raise Busy("the server is stopping")
            if not self.engine.ready:
                raise EngineDown(f"{self.engine.name} is being started again; try again in a moment")
            if len(self._left) >= self._most + self.engine.parallel:
                raise Busy(f"the model is answering and {self.waiting} more requests are waiting; try again later")
            self._unbegun.add(job)
            self._left[job] = job.parts
            self._line.extend((job, number) for number in range(self._left[job]))
            self._changed.notify_all()

    def cancel(self, job: Work) -> None:
        """Nobody waits for this job any more. May be called at any time, more than once."""
        job.cancelled.set()
        with self._changed:
            self._drop(job)

    def _drop(self, job: Work) -> None:
        """Take what has not begun of a job out of the line."""
        if job in self._left:
            kept = [item for item in self._line if item[0] is not job]
            self._left[job] -= len(self._line) - len(kept)
            self._line = collections.deque(kept)
            self._unbegun.discard(job)
            if not self._left[job]:
                del self._left[job]

    async def answers(self, job: Work) -> AsyncIterator[tuple[int, Any]]:
        """Yield (number of the part, what it gave) of a submitted job; of answers `Delta`s. Leaving early cancels it.

        Raises:
            Exception: what the engine raised.
        """
        try:
            while (event := await job.events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.cancel(job)

    def close(self) -> None:
        """Cancel everything, wait for the engine's threads and free the engine."""
        with self._changed:
            self._closed = True
            for job in self._left:
                job.cancelled.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self.engine.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._line and not self._closed:
                    self._changed.wait()
                if not self._line:
                    return
                job, number = self._line.popleft()
                self._unbegun.discard(job)
                job.began = job.began or time.monotonic()
            try:
                for result in job.do(self.engine, number):
                    job.tell((number, result))
            except (EngineDown, SamplingError, Unable) as error:
                job.tell(error)
            except HanmoError as error:
                # What a reader complains of is the text that it was given.
                job.tell(error if isinstance(job, Call) else EngineFailure(str(error)))
            except BaseException as error:
                job.tell(error)
            finally:
                with self._changed:
                    self._left[job] -= 1
                    if done := not self._left[job]:
                        del self._left[job]
                    self._changed.notify_all()
                if done:
                    job.tell(None)
