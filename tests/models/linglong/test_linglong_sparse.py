"""Sparse attention: what a query sees, said once more in plain words, and the grouped form against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hanmo.models.attention import PRODUCTS
from hanmo.models.linglong import sparse
from hanmo.models.linglong.sparse import Dense, Pattern, Places

PATTERN = Pattern(8, 2)


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    return ((scores if mask is None else scores + mask).softmax(-1) @ value).transpose(1, 2)


def places(position: Tensor, segment: Tensor) -> Places:
    return Places(torch.arange(position.shape[1]).expand_as(position), position, segment)


def packed(*rows: list[int], padding: int = 0) -> Places:
    """Rows of documents of these lengths, with padding before them."""
    position = [[0] * padding + [p for length in row for p in range(length)] for row in rows]
    segment = [[-1] * padding + [n for n, length in enumerate(row) for _ in range(length)] for row in rows]
    return places(torch.tensor(position), torch.tensor(segment))


def sees(query: int, key: int) -> bool:
    """The rule, from its description: own block, or the last 2 of 8 columns of an earlier one, never what is behind."""
    if key > query:
        return False
    return key // 8 == query // 8 or key % 8 in (6, 7)


def test_the_rule_pair_by_pair() -> None:
    one = packed([37])
    found = sparse.dense(one, one, PATTERN, torch.float32).mask
    assert found is not None and found.shape == (1, 1, 37, 37)
    wanted = torch.tensor([[sees(q, k) for k in range(37)] for q in range(37)])
    assert torch.equal(found[0, 0] == 0, wanted)


def test_blocks_are_counted_from_the_start_of_each_document() -> None:
    one = packed([5, 20, 12])
    found = sparse.dense(one, one, PATTERN, torch.float32).mask
    assert found is not None
    for start, length in ((0, 5), (5, 20), (25, 12)):
        part = found[0, 0, start : start + length] == 0
        wanted = torch.tensor([[sees(q, k) for k in range(length)] for q in range(length)])
        assert torch.equal(part[:, start : start + length], wanted)
        assert not part[:, :start].any() and not part[:, start + length :].any()


def both_forms(at: Places, grouped: sparse.Blocks, dtype: torch.dtype = torch.float64) -> None:
    """Outputs and gradients of the grouped form equal those of the plain mask."""
    torch.manual_seed(1)
    rows, length = at.position.shape
    reference = sparse.dense(at, at, PATTERN, dtype)
    given = [torch.randn(rows, 3, length, 4, dtype=dtype, requires_grad=True) for _ in range(3)]
    weight = torch.randn(rows, length, 3, 4, dtype=dtype)
    found = []
    for visible in (reference, grouped):
        output = sparse.attend(*given, visible, plain)
        assert output.shape == (rows, length, 3, 4)
        found.append([output, *torch.autograd.grad((output * weight).sum(), given)])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("length", [9, 15, 16, 17, 40, 61])
def test_groups_equal_the_mask_for_any_length(length: int) -> None:
    at = packed([length], [length])
    both_forms(at, sparse.aligned_blocks(length, 2, PATTERN, torch.float64, torch.device("cpu")))
    both_forms(at, sparse.packed_blocks(at, PATTERN, torch.float64))


@pytest.mark.parametrize(
    "at",
    [
        packed([5, 20, 12], [37, 0, 0], [1, 1, 35]),
        packed([7] * 6, [8] * 5 + [2], [42]),
        packed([6, 25], [31, 0], padding=9),
        packed([64, 1], [33, 32], [16, 49]),
    ],
)
def test_groups_equal_the_mask_where_documents_begin_anywhere(at: Places) -> None:
    assert sparse.orderly(at)
    both_forms(at, sparse.packed_blocks(at, PATTERN, torch.float64))


def test_padding_behind_a_text() -> None:
    position = torch.cat([torch.arange(20), torch.full((11,), 19)])[None]
    segment = torch.cat([torch.zeros(20, dtype=torch.int64), torch.full((11,), -1)])[None]
    at = places(position, segment)
    assert sparse.orderly(at)
    both_forms(at, sparse.packed_blocks(at, PATTERN, torch.float64))


def test_orderly_says_no_to_gaps_and_to_documents_that_begin_inside() -> None:
    zeros = torch.zeros(1, 6, dtype=torch.int64)
    assert not sparse.orderly(places(torch.tensor([[3, 4, 5, 6, 7, 8]]), zeros))
    assert not sparse.orderly(places(torch.tensor([[0, 1, 2, 4, 5, 6]]), zeros))
    assert sparse.orderly(places(torch.tensor([[0, 1, 2, 3, 4, 5]]), zeros))


@pytest.mark.parametrize("attention", ["sdpa", "eager", PRODUCTS])
def test_the_model_computes_groups_and_gets_what_the_mask_gives(
    make: Callable[..., Any], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(attn_mode="sparse")
    ids = torch.randint(0, 50, (2, 45))
    model.set_attn_implementation(attention)
    keys: list[int] = []
    attend = sparse.attend

    def watched(query: Tensor, key: Tensor, value: Tensor, visible: Any, function: Any) -> Tensor:
        def counted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            keys.append(k.shape[2])
            return function(q, k, v, mask)

        return attend(query, key, value, visible, counted)

    monkeypatch.setattr("hanmo.models.linglong.modeling.attend", watched)
    found = model(ids).logits
    # The first layer has all 45 keys, the second its 8 and two of each of the five earlier blocks.
    assert keys == [45, 18]
    at = packed([45])
    masks = [sparse.dense(at, at, pattern, torch.float32) for pattern in (None, PATTERN)]
    monkeypatch.setattr(model.transformer, "visible", lambda *_: tuple(masks))
    torch.testing.assert_close(found, model(ids).logits, atol=2e-5, rtol=1e-4)
    assert keys[2:] == [45] * 2
    monkeypatch.setattr(model.transformer, "visible", lambda *_: (masks[0], masks[0]))
    assert (found - model(ids).logits).abs().max() > 0.1  # sparse is not dense


def test_short_rows_need_no_groups(make: Callable[..., Any]) -> None:
    ids = torch.randint(0, 50, (1, 8))
    torch.testing.assert_close(make(attn_mode="sparse")(ids).logits, make(attn_mode="dense")(ids).logits)


def test_a_layer_compiles_as_it_is(make: Callable[..., Any]) -> None:
    model = make(attn_mode="sparse").transformer
    ids = torch.randint(0, 50, (2, 40))
    _, odd = model.visible(None, None, 2, 40, torch.float32)
    assert not isinstance(odd, Dense)
    stream = model.embed(ids, torch.arange(40)[None])
    compiled = torch.compile(model.h[1].forward, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(stream, odd), model.h[1](stream, odd))


@pytest.mark.parametrize("mode", ["dense", "sparse"])
@pytest.mark.parametrize("lengths", [[45, 3, 16], [8, 8, 24, 24], [1, 63]])
def test_a_packed_row_is_its_documents_alone(make: Callable[..., Any], mode: str, lengths: list[int]) -> None:
    model = make(attn_mode=mode).double()
    torch.manual_seed(2)
    documents = [torch.randint(0, 50, (1, length)) for length in lengths]
    alone = sum(
        F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum") for ids in documents if ids.shape[1] > 1
    )
    model.zero_grad()
    alone.backward()  # type: ignore[union-attr]
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    row = torch.cat(documents, 1)
    segment = torch.cat([torch.full((1, n), number) for number, n in enumerate(lengths)], 1)
    position = torch.cat([torch.arange(n)[None] for n in lengths], 1)
    for given in ({"segment_ids": segment, "position_ids": position}, {"segment_ids": segment}):
        model.zero_grad()
        loss = model(row, labels=row, num_items_in_batch=1, **given).loss
        torch.testing.assert_close(loss.double(), alone, rtol=1e-6, atol=1e-6)  # transformers' loss is in fp32
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-5, msg=name)
    # Positions that begin anew say the same to whoever knows no segments.
    torch.testing.assert_close(model(row, position_ids=position).logits, model(row, segment_ids=segment).logits)
