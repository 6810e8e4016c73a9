"""The line in front of an engine: one answer at a time, a bounded number waiting, everyone free to leave.

Engines compute in one thread of their own, so the event loop never waits for a token. A job whose client has left is
taken out of the line at once, or ends after the token being computed.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from hanmo.errors import HanmoError
from hanmo.serve.engines.base import Delta, Engine
from hanmo.serve.sampling import Sampling


class Busy(HanmoError):
    """The line is full."""


class EngineFailure(HanmoError):
    """The engine could not go on with an answer (out of memory, damaged weights)."""


@dataclass(eq=False)
class Job:
    """Answers to some prompts, in order; answer i of prompt p has the number `p * count + i`.

    Attributes:
        prompts: ids of each prompt.
        sampling: for all of them.
        count: answers to each prompt.
    """

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    count: int = 1
    cancelled: threading.Event = field(default_factory=threading.Event)
    events: asyncio.Queue[tuple[int, Delta] | BaseException | None] = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def tell(self, event: tuple[int, Delta] | BaseException | None) -> None:
        """Hand an event to the waiting coroutine; None says that all is done. Called from the engine's thread."""
        # The loop is closed when the server stops while a token is being computed.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class Worker:
    """Runs jobs on one engine, first come, first served.

    Args:
        engine: is used by this worker's thread alone, but for encoding.
        waiting: so many jobs may stand in line behind the one being answered.
    """

    def __init__(self, engine: Engine, waiting: int = 16) -> None:
        self.engine = engine
        self._most = waiting
        self._line: collections.deque[Job] = collections.deque()
        self._current: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"engine {engine.name}", daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        """Jobs being answered: 0 or 1."""
        return int(self._current is not None)

    @property
    def waiting(self) -> int:
        """Jobs in line."""
        return len(self._line)

    @property
    def alive(self) -> bool:
        """Whether the worker still takes jobs."""
        return self._thread.is_alive() and not self._closed

    def submit(self, job: Job) -> None:
        """Put a job in line.

        Raises:
            Busy: the line is full, or the server is stopping.
        """
        with self._changed:
            if not self.alive:
                raise Busy("the server is stopping")
            if len(self._line) + self.active > self._most:
                raise Busy(f"the model is answering and {len(self._line)} more requests are waiting; try again later")
            self._line.append(job)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job any more. May be called at any time, more than once."""
        job.cancelled.set()
        with self._changed, contextlib.suppress(ValueError):
            self._line.remove(job)

    async def answers(self, job: Job) -> AsyncIterator[tuple[int, Delta]]:
        """Yield (number of the answer, delta) of a submitted job; leaving early cancels it.

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
        """Cancel everything, wait for the engine's thread and free the engine."""
        with self._changed:
            self._closed = True
            for job in [*self._line, *([self._current] if self._current else [])]:
                job.cancelled.set()
            self._changed.notify_all()
        self._thread.join()
        self.engine.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._line and not self._closed:
                    self._changed.wait()
                if not self._line:
                    return
                self._current = job = self._line.popleft()
            try:
                self._answer(job)
                job.tell(None)
            except HanmoError as error:
                job.tell(EngineFailure(str(error)))
            except BaseException as error:
                job.tell(error)
            finally:
                with self._changed:
                    self._current = None
                    self._changed.notify_all()

    def _answer(self, job: Job) -> None:
        for place, prompt in enumerate(job.prompts):
            for index in range(job.count):
                number = place * job.count + index
                for delta in self.engine.stream(prompt, job.sampling, cancel=job.cancelled, index=number):
                    job.tell((number, delta))
