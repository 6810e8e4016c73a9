"""Answers computed together are those computed alone, whoever joins and leaves meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hanmo.errors import HanmoError
from hanmo.serve.engines import open_engine
from hanmo.serve.sampling import Sampling


@pytest.fixture(scope="module")
def batched(tiny_model_dir):
    engine = open_engine(tiny_model_dir, device="cpu", threads=1, parallel=4)
    assert engine.parallel == 4
    yield engine
    engine.close()


def whole(engine, prompt, sampling):
    deltas = list(engine.stream(prompt, sampling))
    return "".join(delta.text for delta in deltas), deltas[-1].tokens, deltas[-1].finish


CASES = [
    ("小猫", Sampling(temperature=0, max_tokens=40)),
    ("春天到了，花园里的花都开了。小明和小红一起去公园玩。" * 3, Sampling(temperature=0, max_tokens=9)),
    ("", Sampling(seed=3, temperature=1.2, max_tokens=30)),
    ("花园", Sampling(temperature=0, max_tokens=25, repetition_penalty=1.2, frequency_penalty=0.3)),
    ("他们看见一只白色的小猫", Sampling(seed=9, top_k=5, max_tokens=60, stop=("了",))),
    ("今天", Sampling(temperature=0)),
    ("a", Sampling(temperature=0, max_tokens=1)),
    ("The cat", Sampling(temperature=0, max_tokens=33)),
]


def test_together_is_as_alone(batched, transformers_engine):
    prompts = [batched.encode(text) for text, _ in CASES]
    alone = [whole(transformers_engine, prompt, one) for prompt, (_, one) in zip(prompts, CASES, strict=True)]
    for order in (range(len(CASES)), reversed(range(len(CASES)))):
        order = list(order)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda n: whole(batched, prompts[n], CASES[n][1]), order))
        assert found == [alone[n] for n in order]


def test_a_prompt_is_read_in_parts_between_the_others_tokens(tiny_model_dir, transformers_engine):
    from hanmo.serve.engines.transformers import TransformersEngine

    engine = open_engine(tiny_model_dir, device="cpu", threads=1, parallel=2)
    assert isinstance(engine, TransformersEngine) and engine._batcher is not None
    engine._batcher._part = 7
    prompt = engine.encode("春天到了，花园里的花都开了。" * 4)
    greedy = Sampling(temperature=0, max_tokens=30)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda p: whole(engine, p, greedy), [engine.encode("小猫"), prompt]))
    assert both == [whole(transformers_engine, p, greedy) for p in (engine.encode("小猫"), prompt)]
    engine.close()


def test_who_leaves_makes_room_and_the_others_go_on(batched, transformers_engine):
    prompt = batched.encode("小猫")
    greedy = Sampling(temperature=0)
    expected = whole(transformers_engine, prompt, greedy)
    with ThreadPoolExecutor(1) as pool:
        stays = pool.submit(whole, batched, prompt, greedy)
        for _ in range(3):
            left = batched.stream(batched.encode("花园里"), Sampling())
            next(left)
            left.close()
            cancel = threading.Event()
            cancel.set()
            assert list(batched.stream(prompt, greedy, cancel=cancel))[-1].finish == "cancelled"
        assert stays.result(30) == expected
    end = time.monotonic() + 10
    while batched._batcher._rows and time.monotonic() < end:
        time.sleep(0.01)
    assert not batched._batcher._rows and batched._batcher._cache is None


def test_a_failure_ends_those_under_way_and_not_the_next(batched, monkeypatch):
    batcher = batched._batcher
    forward = batcher._forward
    monkeypatch.setattr(batcher, "_forward", lambda *a, **k: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(HanmoError, match="out of memory"):
        list(batched.stream(batched.encode("小猫"), Sampling(max_tokens=5)))
    monkeypatch.setattr(batcher, "_forward", forward)
    assert list(batched.stream(batched.encode("小猫"), Sampling(max_tokens=5)))[-1].tokens <= 5


def test_vectors_are_computed_between_two_steps(batched, transformers_engine):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(whole, batched, batched.encode("小猫"), Sampling(temperature=0))
        assert batched.embed(["春天"], "mean") == transformers_engine.embed(["春天"], "mean")
