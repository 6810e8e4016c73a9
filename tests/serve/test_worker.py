from __future__ import annotations

import asyncio

import pytest

from hanmo.serve.sampling import Sampling
from hanmo.serve.worker import Busy, EngineFailure, Job, Worker


def play(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


async def text(worker: Worker, job: Job) -> str:
    return "".join([delta.text async for _, delta in worker.answers(job)])


def job(prompt: str = "a", **options) -> Job:
    return Job([list(prompt.encode())], Sampling(), **options)


def test_one_at_a_time_in_order_and_a_full_line_refuses(scripted):
    async def scene():
        engine = scripted(lambda prompt: prompt.encode() * 3, delay=0.01)
        worker = Worker(engine, waiting=2)
        jobs = [job(name) for name in "abc"]
        for one in jobs:
            worker.submit(one)
        with pytest.raises(Busy):
            worker.submit(job("d"))
        assert await asyncio.gather(*(text(worker, one) for one in jobs)) == ["aaa", "bbb", "ccc"]
        assert engine.served == ["a", "b", "c"]
        worker.close()
        with pytest.raises(Busy, match="stopping"):
            worker.submit(job())

    play(scene())


def test_who_leaves_the_line_frees_a_place_and_is_never_computed(scripted, until):
    async def scene():
        engine = scripted(b"x" * 1000, delay=0.005)
        worker = Worker(engine, waiting=1)
        first, second = job("first"), job("second")
        worker.submit(first)
        worker.submit(second)
        with pytest.raises(Busy):
            worker.submit(job("third"))
        worker.cancel(second)
        third = job("third")
        worker.submit(third)
        until(engine.started.is_set)
        worker.cancel(first)
        worker.cancel(third)
        until(lambda: not worker.active and not worker.waiting)
        assert engine.served == ["first"] and engine.finished == 1
        worker.close()

    play(scene())


def test_several_prompts_and_answers_are_numbered(scripted):
    async def scene():
        worker = Worker(scripted(lambda prompt: prompt.encode()))
        both = Job([[97], [98]], Sampling(), count=2)
        worker.submit(both)
        texts = [""] * 4
        async for number, delta in worker.answers(both):
            texts[number] += delta.text
        assert texts == ["a", "a", "b", "b"]
        worker.close()

    play(scene())


def test_a_failing_engine_fails_its_request_and_serves_the_next(scripted):
    def script(prompt: str) -> bytes:
        if prompt == "bad":
            raise ZeroDivisionError("boom")
        return b"fine"

    async def scene():
        from hanmo.errors import HanmoError

        engine = scripted(script)
        worker = Worker(engine)
        worker.submit(broken := job("bad"))
        with pytest.raises(ZeroDivisionError):
            await text(worker, broken)
        engine._script = lambda _: (_ for _ in ()).throw(HanmoError("out of memory"))
        worker.submit(full := job("x"))
        with pytest.raises(EngineFailure, match="out of memory"):
            await text(worker, full)
        engine._script = script
        worker.submit(good := job("good"))
        assert await text(worker, good) == "fine"
        worker.close()

    play(scene())
