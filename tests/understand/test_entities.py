"""Tags, spans and the chain over tags, against enumeration."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hanmo.understand.entities import CRF, ends_of, entities_of, spans_between, spans_of, tag_names, tags_of

KINDS = ["LOC", "PER"]


@st.composite
def entities(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, str]]]:
    """A length, and entities in it that do not overlap."""
    at, found = 0, []
    for width, gap, kind in draw(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.sampled_from(KINDS)))):
        found.append((at + gap, at + gap + width, kind))
        at += gap + width
    return at + draw(st.integers(0, 2)), found


@given(entities())
def test_entities_come_back_from_tags_and_from_ends(drawn: tuple[int, list[tuple[int, int, str]]]) -> None:
    length, there = drawn
    offsets = [(0, 0), *((place, place + 1) for place in range(length)), (0, 0)]
    names = tag_names(KINDS)
    tags, lost = tags_of(there, offsets, names)
    assert lost == 0 and entities_of(tags, offsets, names) == there
    marks, lost = ends_of(there, offsets, KINDS)
    logits = torch.full((len(offsets), 4), -1.0)
    for token, column in marks:
        logits[token, column] = 1.0
    assert lost == 0 and spans_between(logits[:, :2], logits[:, 2:], offsets, KINDS) == sorted(there)


def test_what_tokens_cannot_tell_is_counted() -> None:
    offsets = [(0, 2), (2, 3), (3, 4)]
    names = tag_names(KINDS)
    assert tags_of([(1, 3, "PER"), (2, 4, "LOC"), (3, 4, "PER")], offsets, names) == ([0, 1, 2], 2)
    assert ends_of([(1, 3, "PER"), (2, 4, "LOC"), (3, 4, "PER")], offsets, KINDS)[1] == 1


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-PER I-PER O", [(0, 2, "PER")]),
        ("B-PER M-PER E-PER S-LOC", [(0, 3, "PER"), (3, 4, "LOC")]),
        ("I-PER I-PER B-PER", [(0, 2, "PER"), (2, 3, "PER")]),
        ("B-PER I-LOC O", [(0, 1, "PER"), (1, 2, "LOC")]),
        ("E-PER E-PER", [(0, 1, "PER"), (1, 2, "PER")]),
    ],
)
def test_schemes(tags: str, spans: list[tuple[int, int, str]]) -> None:
    words = tags.split()
    notes: Counter[str] = Counter()
    assert list(spans_of(words, [1] * len(words), notes)) == spans
    assert notes["tag that continues nothing"] == {"I-PER I-PER B-PER": 1, "B-PER I-LOC O": 1, "E-PER E-PER": 2}.get(
        tags, 0
    )


def test_the_chain_equals_enumeration() -> None:
    torch.manual_seed(0)
    crf, tags, lengths = CRF(3), 3, [4, 2]
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    emissions = torch.randn(2, 4, tags)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    gold = torch.randint(0, tags, (2, 4))

    def value(row: int, path: tuple[int, ...]) -> torch.Tensor:
        total = crf.first[path[0]] + crf.last[path[-1]]
        total = total + sum(emissions[row, place, tag] for place, tag in enumerate(path))
        return total + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))

    expected, best = torch.zeros(()), []
    for row, length in enumerate(lengths):
        paths = list(itertools.product(range(tags), repeat=length))
        scores = torch.stack([value(row, path) for path in paths])
        expected = expected + scores.logsumexp(0) - value(row, tuple(gold[row, :length].tolist()))
        best.append(list(paths[int(scores.argmax())]))
    torch.testing.assert_close(crf.loss(emissions, gold, mask), expected / sum(lengths))
    assert crf.decode(emissions, mask) == best
