from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hanmo.errors import HanmoError
from hanmo.serve.sampler import Sampler
from hanmo.serve.sampling import Sampling, SamplingError

LOGITS = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32))


def draws(sampling: Sampling, count: int = 400, logits: np.ndarray = LOGITS, prompt=()) -> Counter:
    sampler = Sampler(sampling, prompt, len(logits))
    return Counter(sampler(logits) for _ in range(count))


def test_zero_temperature_takes_the_likeliest():
    assert draws(Sampling(temperature=0)) == {0: 400}


def test_rows_beyond_the_vocabulary_are_never_drawn():
    sampler = Sampler(Sampling(temperature=0), [], 3)
    assert sampler(np.array([0.0, 1.0, 0.5, 9.0], dtype=np.float32)) == 1


def test_shares_follow_the_probabilities():
    shares = draws(Sampling(temperature=1, top_p=1, seed=1), 8000)
    assert shares[0] == pytest.approx(4000, abs=250) and shares[3] == pytest.approx(1000, abs=150)


def test_filters_keep_what_they_should():
    assert set(draws(Sampling(temperature=1, top_p=1, top_k=2, seed=1))) == {0, 1}
    assert set(draws(Sampling(temperature=1, top_p=0.7, seed=1))) == {0, 1}
    assert set(draws(Sampling(temperature=1, top_p=0, seed=1))) == {0}
    assert set(draws(Sampling(temperature=1, top_p=1, min_p=0.4, seed=1))) == {0, 1}
    assert set(draws(Sampling(temperature=1, top_p=1, top_k=3, min_p=0.3, seed=1))) == {0, 1}


def test_the_shortlist_of_top_p_equals_a_full_sort():
    random = np.random.default_rng(0)
    weights = random.random(5000)
    for top_p in (0.01, 0.5, 0.999):
        order = np.argsort(-weights, kind="stable")
        expected = order[: int(np.searchsorted(np.cumsum(weights[order]), top_p * weights.sum())) + 1]
        assert set(Sampler._nucleus(weights, top_p)) == set(expected)


def test_a_seed_repeats_and_answers_differ():
    sampling = Sampling(temperature=1, top_p=1, seed=5)
    flat = np.zeros(1000, dtype=np.float32)

    def sequence(index: int) -> list[int]:
        sampler = Sampler(sampling, [], 1000, index)
        return [sampler(flat) for _ in range(5)]

    assert sequence(0) == sequence(0) != sequence(1)


def test_penalties():
    logits = np.array([1.0, 0.9, -1.0], dtype=np.float32)
    assert draws(Sampling(temperature=0, repetition_penalty=2.0), 1, logits, prompt=[0]) == {1: 1}
    assert draws(Sampling(temperature=0, presence_penalty=0.5), 2, logits) == {0: 1, 1: 1}
    assert draws(Sampling(temperature=0, frequency_penalty=1.0), 3, logits) in ({0: 2, 1: 1}, {0: 1, 1: 1, 2: 1})
    assert np.array_equal(logits, np.array([1.0, 0.9, -1.0], dtype=np.float32))


def test_damaged_weights_are_said_to_be_damaged():
    for sampling in (Sampling(temperature=0), Sampling(seed=1)):
        with pytest.raises(HanmoError, match="not finite"):
            Sampler(sampling, [], 2)(np.array([np.nan, 1.0], dtype=np.float32))


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1), ("top_p", 1.5), ("max_tokens", 0), ("top_k", 2.5), ("seed", "x"), ("stop", ("",))],
)
def test_bad_settings_name_their_field(field, value):
    with pytest.raises(SamplingError, match=field):
        Sampling(**{field: value})


def test_settings_change_by_text():
    sampling = Sampling()
    assert sampling.changed("temperature", "0.3").temperature == 0.3
    assert sampling.changed("seed", "7").changed("seed", "off").seed is None
    assert sampling.changed("stop", "\\n").stop == ("\n",)
    with pytest.raises(SamplingError, match="did you mean 'temperature'"):
        sampling.changed("temprature", "1")
    with pytest.raises(SamplingError, match="must be a number"):
        sampling.changed("top_k", "many")
