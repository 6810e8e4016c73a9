"""Permutations without memory, and the order by shards: one-to-one, seeded, and even."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.files import write_json
from hanmo.tokens import order as order_module
from hanmo.tokens import shuffle
from hanmo.tokens.order import Order
from hanmo.tokens.shards import ShardWriter, Split, open_split, split_of
from hanmo.tokens.shuffle import permutation


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 9))
def test_the_cipher_is_a_permutation(count: int, seed: int) -> None:
    found = permutation(count, (seed, 1), stored=False)(np.arange(count))
    assert np.array_equal(np.sort(found), np.arange(count))
    part = np.arange(count)[::7]
    assert np.array_equal(permutation(count, (seed, 1), stored=False)(part), found[part])


@pytest.mark.parametrize("count", [1000, 1025, 4096])
def test_the_cipher_is_as_even_as_a_drawn_permutation(count: int) -> None:
    """Where the first numbers go, over many keys, and whether neighbours stay together."""
    places = np.array([permutation(count, (seed, 0), stored=False)(np.arange(8)) for seed in range(2000)])
    for column in places.T:
        cells = np.histogram(column, 10, (0, count))[0]
        assert ((cells - 200) ** 2 / 200).sum() < 35  # chi-squared with 9 degrees of freedom; 1 of 17,000 is above
    one = permutation(count, (5, 0), stored=False)(np.arange(count))
    assert abs(np.corrcoef(np.arange(count), one)[0, 1]) < 0.15
    assert (np.abs(np.diff(one)) == 1).sum() < 20


def make(lengths: list[int], **options) -> tuple[np.ndarray, Order]:
    tokens = np.arange(1, sum(lengths) + 1)
    return tokens, Order(split_of(tokens, np.cumsum(lengths)), 8, 3, **options)


def test_blocks_and_the_cipher_keep_every_document_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(1).integers(1, 30, 500).tolist()
    tokens, whole = make(lengths)
    whole_rows = whole.rows(0, 3 * whole.total // 8).targets
    monkeypatch.setattr(shuffle, "BLOCK", 7)
    monkeypatch.setattr(shuffle, "_CHUNK", 21)
    _, cut = make(lengths)
    assert cut.form == 3 and np.array_equal(cut.rows(0, len(whole_rows)).targets, whole_rows)
    monkeypatch.setattr(order_module, "STORED", 10)
    _, other = make(lengths)
    assert other.form == 4
    stream = other.rows(0, 2 * other.total // 8 + 1).targets.reshape(-1)
    for number in range(2):
        assert sorted(stream[number * other.total : (number + 1) * other.total]) == sorted(tokens)
    assert (stream[: other.total] != whole_rows.reshape(-1)[: other.total]).any()


def folder_of(folder: Path, shards: int, documents: int = 6) -> Split:
    """Token shards whose tokens all differ; sources take turns, and shard 0 has only the first."""
    at = 1
    for number in range(shards):
        with ShardWriter(folder / "train", number, 60_000, "abc") as shard:
            lengths = [3 + (number + index) % 5 for index in range(documents)]
            source = [index % 2 * (number > 0) for index in range(documents)]
            shard.write(np.arange(at, at + sum(lengths)), np.cumsum(lengths), lengths, source)
            at += sum(lengths)
    write_json(folder / "tokens.json", {"dtype": "<u2", "sources": ["x", "y"]})
    return open_split(folder, "train")


def test_by_shards_only_a_window_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "WINDOW", 3)
    split = folder_of(tmp_path, 10)
    told: list[tuple[list[str], list[str]]] = []

    def announce(stream: str, now, after) -> None:
        assert stream == ""
        told.append(([s.path.stem for s in now], [s.path.stem for s in after]))

    order = Order(split, 8, 5, shuffle="shards", announce=announce)
    stream = order.rows(0, 2 * order.total // 8 + 1).targets.reshape(-1)
    shard_of = np.repeat(np.arange(10), [len(shard) for shard in split.shards])
    for number in range(2):
        part = stream[number * order.total : (number + 1) * order.total]
        assert sorted(part) == sorted(np.asarray(split.tokens[:]))
        order_of_shards = shard_of[part - 1]
        seen = 0
        for now, _ in told[4 * number : 4 * number + 4]:
            size = sum(len(split.shards[int(name)]) for name in now)
            assert {f"{n:05d}" for n in order_of_shards[seen : seen + size].tolist()} == set(now)
            seen += size
        assert seen == order.total
    assert [set(now) for now, _ in told[1:8]] == [set(after) for _, after in told[:7]]
    assert told[0][0] != told[4][0]
    alone = Order(split, 8, 5, shuffle="shards")
    for row in (40, 3, 17):
        assert np.array_equal(alone.rows(row, 1).targets[0], stream[row * 8 : row * 8 + 8])


def test_documents_of_one_source_are_found_in_all_shards(tmp_path: Path) -> None:
    split = folder_of(tmp_path, 4)
    bases = np.cumsum([0, *map(len, split.shards)])[:-1]
    for source in (None, 0, 1):
        documents = shuffle.Documents(split.shards, bases, source)
        starts, lengths = documents.spans(np.arange(len(documents)))
        kept = np.arange(len(split)) if source is None else np.flatnonzero(split.doc_source == source)
        begin = np.concatenate([[0], split.doc_ends[:-1]])
        assert starts.tolist() == begin[kept].tolist()
        assert lengths.tolist() == (split.doc_ends - begin)[kept].tolist()
        assert documents.tokens == lengths.sum()
