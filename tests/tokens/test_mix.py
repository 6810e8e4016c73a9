"""A mix of sources: exact shares, caps and passes, whatever order its rows are asked for in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.errors import HanmoError
from hanmo.tokens.mix import Mix, MixSource, mix_sources
from hanmo.tokens.order import Order
from hanmo.tokens.shards import Split, split_of

CONTEXT = 8


def split_with(documents: list[tuple[int, int]]) -> tuple[Split, np.ndarray, np.ndarray]:
    """A split of documents (source, tokens), with all its tokens (numbered from 1, so that they differ) and for each
    token its source; no document ends in 0 here, so that tokens tell documents."""
    lengths = [length for _, length in documents]
    source = np.array([source for source, _ in documents])
    tokens = np.arange(1, sum(lengths) + 1)
    return split_of(tokens, np.cumsum(lengths), source, ["a", "b", "c"]), tokens, np.repeat(source, lengths)


def mixed(documents: list[tuple[int, int]], seed: int, **wanted) -> tuple[Order, np.ndarray, np.ndarray]:
    split, tokens, of_source = split_with(documents)
    sizes = {name: int((of_source == index).sum()) for index, name in enumerate(split.sources)}
    given = {"weights": None, "max_epochs": None, "temperature": 1.0, "where": "here", **wanted}
    sources = mix_sources({name: size for name, size in sizes.items() if size}, **given)
    place = {name: index for index, name in enumerate(split.sources)}
    sources = [MixSource(place[s.name], s.name, s.tokens, s.share, s.cap) for s in sources]
    return Order(split, CONTEXT, seed, mix=Mix(sources, CONTEXT, seed)), tokens, of_source


corpora = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30)), min_size=1, max_size=25)


@settings(max_examples=80, deadline=None)
@given(corpora, st.integers(0, 9), st.data())
def test_every_document_once_a_pass_of_its_source(documents, seed: int, data) -> None:
    """Also where a source ends in the middle of a row and another fills it up."""
    present = sorted({"abc"[source] for source, _ in documents})
    caps = data.draw(st.dictionaries(st.sampled_from(present), st.sampled_from([0.3, 1, 2, 2.5])))
    order, tokens, of_source = mixed(documents, seed, max_epochs=caps)
    assert order.mix is not None
    wanted = 4 * len(tokens) // CONTEXT
    count = wanted if order.mix.limit is None else min(wanted, order.mix.limit)
    targets = order.rows(0, count).targets.reshape(-1)
    taken = order.mix.taken(count)
    for source in order.mix.sources:
        mine = targets[of_source[targets - 1] == source.index]
        assert len(mine) == taken[source.name]
        assert source.cap is None or len(mine) <= source.cap == max(1, round(caps[source.name] * source.tokens))
        for start in range(0, len(mine), source.tokens):
            part = mine[start : start + source.tokens]
            assert len(set(part)) == len(part)
            if len(part) == source.tokens:
                assert sorted(part) == sorted(tokens[of_source == source.index])
    if order.mix.limit is not None:
        # With all sources capped, hardly anything is left in the end: less than a row each.
        if count == order.mix.limit:
            assert all(s.cap is not None and s.cap - taken[s.name] < 2 * CONTEXT for s in order.mix.sources)
        with pytest.raises(HanmoError, match="raise max_epochs"):
            order.rows(order.mix.limit, 1)


@settings(max_examples=60, deadline=None)
@given(corpora, st.integers(0, 9), st.integers(0, 60), st.integers(1, 9), st.sampled_from([None, {"a": 1.5}]))
def test_rows_do_not_depend_on_how_they_are_asked_for(documents, seed: int, first: int, count: int, caps) -> None:
    if (caps and all(source == 0 for source, _ in documents)) or not any(source == 0 for source, _ in documents):
        caps = None
    order, _, _ = mixed(documents, seed, max_epochs=caps)
    together = order.rows(0, first + count)
    fresh, _, _ = mixed(documents, seed, max_epochs=caps)
    for index in reversed(range(first, first + count)):
        alone = fresh.rows(index, 1)
        for name in ("inputs", "targets", "position", "segment"):
            assert (getattr(alone, name)[0] == getattr(together, name)[index]).all()


def test_a_row_is_of_one_source_and_goes_on_where_its_last_one_ended() -> None:
    documents = [(number % 3, 5 + number % 7) for number in range(90)]
    order, _, of_source = mixed(documents, 1, weights={"a": 1, "b": 1})
    rows = order.rows(0, 200)
    assert all(len(set(of_source[row - 1])) == 1 for row in rows.targets)
    assert set(of_source[rows.targets.reshape(-1) - 1]) == {0, 1}
    alone, _, _ = mixed(documents, 1, weights={"b": 1})
    mine = rows.targets[of_source[rows.targets[:, 0] - 1] == 1]
    assert (alone.rows(0, len(mine)).targets == mine).all()  # its own order does not depend on the others


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.integers(0, 99), st.integers(0, 10**9), st.integers(1, 600)
)
def test_the_shares_hold_in_every_stretch(shares: list[float], seed: int, first: int, count: int) -> None:
    total = sum(shares)
    mix = Mix([MixSource(i, f"s{i}", 1000, s / total, None) for i, s in enumerate(shares)], CONTEXT, seed)
    found = Counter(parts[0][0] for parts in mix.rows(first, count))
    for index, share in enumerate(shares):
        assert abs(found[index] - count * share / total) <= 2 * len(shares)
        assert abs(mix.taken(first)[f"s{index}"] - first * CONTEXT * share / total) <= 2 * len(shares) * CONTEXT + 9


def test_turns_do_not_come_at_regular_beats() -> None:
    mix = Mix([MixSource(0, "a", 9, 0.5, None), MixSource(1, "b", 9, 0.5, None)], CONTEXT, 1)
    turns = [parts[0][0] for parts in mix.rows(0, 1000)]
    gaps = Counter(np.diff(np.flatnonzero(np.array(turns) == 0)).tolist())
    assert set(gaps) >= {1, 2, 3} and max(gaps) < 5
    other = Mix(mix.sources, CONTEXT, 2)
    assert [parts[0][0] for parts in other.rows(0, 1000)] != turns


def test_the_share_of_a_source_that_has_ended_goes_to_the_others_in_proportion() -> None:
    sources = [
        MixSource(0, "law", 100, 0.5, 400),
        MixSource(1, "news", 10**6, 0.3, None),
        MixSource(2, "novels", 10**6, 0.2, None),
    ]
    mix = Mix(sources, 10, 3)
    rows = [parts[0][0] for parts in mix.rows(0, 1080)]
    assert Counter(rows[:80]) == pytest.approx({0: 40, 1: 24, 2: 16}, abs=2)
    assert Counter(rows[80:]) == pytest.approx({1: 600, 2: 400}, abs=4)
    assert mix.taken(1080)["law"] == 400


@pytest.mark.parametrize(("temperature", "shares"), [(1.0, (0.9, 0.1)), (0.5, (0.75, 0.25)), (0.0, (0.5, 0.5))])
def test_temperature(temperature: float, shares: tuple[float, float]) -> None:
    for weights in (None, {"a": 9.0, "b": 1.0}):
        tokens = {"a": 900, "b": 100} if weights is None else {"a": 5, "b": 5}
        found = mix_sources(tokens, weights, None, temperature, "here")
        assert tuple(source.share for source in found) == pytest.approx(shares)


def test_wrong_names_and_empty_sources_are_one_line() -> None:
    tokens = {"news": 10, "law": 10, "none": 0}
    with pytest.raises(HanmoError, match=r"mix\.weights: x has no source 'nwes'; did you mean 'news'\? \(its sources"):
        mix_sources(tokens, {"nwes": 1}, None, 1, "x")
    with pytest.raises(HanmoError, match=r"mix\.max_epochs: x has no source 'book'"):
        mix_sources(tokens, None, {"book": 1}, 1, "x")
    with pytest.raises(HanmoError, match="source 'none' of x has no training text"):
        mix_sources(tokens, {"news": 1, "none": 1}, None, 1, "x")
    with pytest.raises(HanmoError, match="none of the sources"):
        mix_sources(tokens, {"news": 0}, None, 1, "x")
    assert [source.name for source in mix_sources(tokens, {"law": 2}, 3, 1, "x")] == ["law"]
