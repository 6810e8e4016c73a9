"""The unified model: who sees whom in each of its three modes, packed rows, its cache, generation, and its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, DynamicCache

from hanmo.models import hidden
from hanmo.models.attention import BLOCK, PRODUCTS
from hanmo.models.loss import IGNORE
from hanmo.models.parts import modules_of
from hanmo.models.unified.config import UnifiedConfig
from hanmo.models.unified.layers import rotary
from hanmo.models.unified.masks import additive, segments, targets, visible
from hanmo.models.unified.model import UnifiedForMaskedLM
from hanmo.pretrain.steps.stack import Stack
from hanmo.tokenizer import load

VOCABULARY = 192


def make(vocab_size: int = VOCABULARY, **other: object) -> UnifiedForMaskedLM:
    """A small model whose weights are so large that no two tokens are equally good."""
    torch.manual_seed(3)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    model = UnifiedForMaskedLM(UnifiedConfig(vocab_size=vocab_size, **(shape | other))).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def model() -> UnifiedForMaskedLM:
    return make()


def row(length: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: UnifiedForMaskedLM, ids: Tensor, **given: object) -> Tensor:
    return model(input_ids=ids, **given).logits


# Types by mode: all 0, all 1, and a prefix of both parts; and any mixture, for which the rule holds as well.
MODES = st.integers(2, 10).flatmap(
    lambda n: st.one_of(
        st.just([0] * n),
        st.just([1] * n),
        st.integers(1, n - 1).map(lambda prefix: [0] * prefix + [1] * (n - prefix)),
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
    )
)


@settings(max_examples=50)
@given(types=MODES, place=st.integers(0, 9), other=st.integers(1, VOCABULARY - 1), seed=st.integers(0, 99))
def test_what_may_not_be_seen_never_changes_anything(types: list[int], place: int, other: int, seed: int) -> None:
    """A token's place is seen by just those queries that the rule, written here as loops, lets see it."""
    model, place = _shared(), place % len(types)
    ids = row(len(types), seed)
    changed = ids.clone()
    changed[0, place] = other if other != ids[0, place] else other % (VOCABULARY - 1) + 1
    given_types = torch.tensor([types])
    one, two = (logits(model, each, token_type_ids=given_types)[0] for each in (ids, changed))
    for query in range(len(types)):
        if sum(types[: place + 1]) <= sum(types[: query + 1]):
            assert not torch.equal(one[query], two[query]), "what may be seen is seen"
        else:
            assert torch.equal(one[query], two[query])


_MADE: list[UnifiedForMaskedLM] = []


def _shared() -> UnifiedForMaskedLM:
    """One model for all examples of a property."""
    if not _MADE:
        _MADE.append(make())
    return _MADE[0]


def test_the_rule() -> None:
    both, causal = torch.zeros(1, 3), torch.ones(1, 3)
    assert visible(both).all() and torch.equal(visible(causal)[0], torch.ones(3, 3).tril().bool())
    prefix = visible(torch.tensor([[0, 0, 1, 1]]))[0].int().tolist()
    assert prefix == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    # Two documents, each with a prefix of one: the sum of types runs on, and only within a document is it compared.
    packed = visible(torch.tensor([[0, 1, 0, 1]]), torch.tensor([[0, 0, 1, 1]]))[0].int().tolist()
    assert packed == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_positions_that_begin_anew_are_documents() -> None:
    assert segments(torch.tensor([[0, 1, 2, 0, 0, 1], [4, 5, 6, 7, 8, 9]])).tolist() == [[1, 1, 1, 2, 3, 3], [1] * 6]


def test_without_types_it_reads_both_ways_as_with_zeros(model: UnifiedForMaskedLM) -> None:
    ids = row(7)
    torch.testing.assert_close(logits(model, ids), logits(model, ids, token_type_ids=torch.zeros_like(ids)))


def test_only_distances_matter(model: UnifiedForMaskedLM) -> None:
    """Rotary positions: a document that begins at 100 has the logits of one that begins at 0."""
    ids, ones = row(9), torch.ones(1, 9, dtype=torch.long)
    moved = logits(model, ids, token_type_ids=ones, position_ids=torch.arange(100, 109)[None])
    torch.testing.assert_close(moved, logits(model, ids, token_type_ids=ones), atol=2e-4, rtol=1e-4)


LENGTHS = [5, 1, 8, 4]
DOCUMENT_TYPES = [[0] * 5, [1], [1] * 8, [0, 0, 1, 1]]


@pytest.mark.parametrize("told_by", ["segments", "positions"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", PRODUCTS])
def test_packed_documents_are_as_alone(attention: str, told_by: str) -> None:
    """Logits and loss of four documents of different modes in one row: those of each alone."""
    model = make()
    model.set_attn_implementation(attention)
    documents = [row(length, seed) for seed, length in enumerate(LENGTHS)]
    types = [torch.tensor([kinds]) for kinds in DOCUMENT_TYPES]
    labels = [ids.clone().masked_fill_(torch.arange(ids.shape[1])[None] % 3 == 2, IGNORE) for ids in documents]
    packed = {
        "input_ids": torch.cat(documents, 1),
        "token_type_ids": torch.cat(types, 1),
        "labels": torch.cat(labels, 1),
        "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
    }
    if told_by == "segments":
        packed["segment_ids"] = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))[None]
    with torch.no_grad():
        together = model(**packed)
        alone = [
            model(input_ids=ids, token_type_ids=kinds, labels=wanted, num_items_in_batch=1)
            for ids, kinds, wanted in zip(documents, types, labels, strict=True)
        ]
    every = torch.cat([each.logits for each in alone], 1)
    torch.testing.assert_close(together.logits, every, atol=1e-4, rtol=1e-4)
    pairs = [targets(wanted, kinds) for wanted, kinds in zip(labels, types, strict=True)]
    counted = sum(int((answer != IGNORE).sum()) for pair in pairs for answer in pair)
    assert counted == 4 + 0 + 5 + 3  # what opens a causal document is answered by none
    assert float(together.loss) * counted == pytest.approx(sum(float(each.loss) for each in alone), rel=1e-4)


def test_layers_run_in_a_packed_step() -> None:
    """As the steps of pretraining run them: each layer's weights through the first layer, mask and angles given."""

    def call(layer: Any, hidden: Tensor, mask: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        return layer(hidden, attention_mask=mask, position_embeddings=(cosine, sine))

    model, ids = make(), row(sum(LENGTHS))
    types = torch.tensor([[kind for kinds in DOCUMENT_TYPES for kind in kinds]])
    segment = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))[None]
    position = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    own = logits(model, ids, token_type_ids=types, segment_ids=segment, position_ids=position)
    for recompute in (False, True):
        stack = Stack(model.bert.encoder.layer, call, torch.float32, compiled=False, recompute=recompute)
        with torch.no_grad():
            mask = additive(visible(types, segment), torch.float32)
            found = stack(model.bert.embeddings(ids, types), mask, *rotary(position, 16, 10000.0, torch.float32))
            torch.testing.assert_close(model.lm_head(model.bert.encoder.ln(found)), own, atol=1e-4, rtol=1e-4)


def test_products_look_ahead_where_the_model_does() -> None:
    """Rows longer than a block of queries: no key behind it may be left out."""
    model, ids = make(num_hidden_layers=1), row(BLOCK + 9)
    theirs = logits(model, ids)
    model.set_attn_implementation(PRODUCTS)
    torch.testing.assert_close(logits(model, ids), theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_labels_are_answered_in_place_or_by_the_token_before(model: UnifiedForMaskedLM) -> None:
    ids = row(6)
    found = logits(model, ids)[0].log_softmax(-1)
    masked = torch.full_like(ids, IGNORE)
    masked[0, 2] = 7
    loss = model(input_ids=ids, labels=masked).loss
    assert float(loss) == pytest.approx(-float(found[2, 7]), rel=1e-5)
    ones = torch.ones_like(ids)
    causal = logits(model, ids, token_type_ids=ones)[0]
    loss = model(input_ids=ids, token_type_ids=ones, labels=ids).loss
    assert float(loss) == pytest.approx(float(F.cross_entropy(causal[:-1], ids[0, 1:])), rel=1e-5)
    here, behind = targets(torch.arange(1, 6)[None], torch.tensor([[0, 0, 1, 1, 0]]))
    assert here.tolist() == [[1, 2, IGNORE, IGNORE, 5]]
    assert behind.tolist() == [[IGNORE, 3, 4, IGNORE, IGNORE]]


def test_gradients_reach_everything(model: UnifiedForMaskedLM) -> None:
    model = make().train()
    ids = row(8)
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    model(input_ids=ids, token_type_ids=types, labels=ids).loss.backward()
    # The same shift of all scores of a query changes nothing: the key's bias has the gradient 0, but for rounding.
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


PROMPTS = [3, 7, 5]


def written(model: UnifiedForMaskedLM, ids: Tensor, length: int = 9, **given: object) -> list[list[int]]:
    found = model.generate(ids, max_new_tokens=length, do_sample=False, **given)  # type: ignore[operator]
    return found[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize(("attention", "prefix"), [("sdpa", 0), ("sdpa", None), ("eager", 1), (PRODUCTS, 0)])
def test_what_is_written_with_a_cache_without_and_in_a_batch(attention: str, prefix: int | None) -> None:
    """Greedy tokens agree, for prompts of type 0 (a prefix), of type 1, and where types are not said."""
    model = make()
    model.set_attn_implementation(attention)
    rows = [row(length, seed) for seed, length in enumerate(PROMPTS)]

    def types(ids: Tensor) -> dict[str, Tensor]:
        return {} if prefix is None else {"token_type_ids": torch.full_like(ids, prefix)}

    alone = [written(model, ids, use_cache=False, **types(ids))[0] for ids in rows]
    assert [written(model, ids, **types(ids))[0] for ids in rows] == alone
    longest = max(PROMPTS)
    batch = torch.cat([F.pad(ids, (longest - ids.shape[1], 0)) for ids in rows])
    mask = torch.cat([F.pad(torch.ones_like(ids), (longest - ids.shape[1], 0)) for ids in rows])
    for cached in (True, False):
        assert written(model, batch, attention_mask=mask, use_cache=cached, **types(batch)) == alone
    static = {"cache_implementation": "static", "disable_compile": True}
    assert written(model, batch, attention_mask=mask, **static, **types(batch)) == alone


def test_types_that_are_not_said_are_1_and_a_prefix_is_another_text(model: UnifiedForMaskedLM) -> None:
    ids = row(8, 5)
    ones, zeros = torch.ones_like(ids), torch.zeros_like(ids)
    assert written(model, ids) == written(model, ids, token_type_ids=ones)
    prefix = written(model, ids, token_type_ids=zeros)
    assert prefix != written(model, ids)
    # Step by step, by the model alone: what is written is of type 1 behind a prefix, too.
    for token in prefix[0]:
        assert int(logits(model, ids, token_type_ids=zeros)[0, -1].argmax()) == token
        ids, zeros = torch.cat([ids, torch.tensor([[token]])], 1), F.pad(zeros, (0, 1), value=1)


def test_sampling_and_beams(model: UnifiedForMaskedLM) -> None:
    ids = torch.cat([row(5), row(5, 1)])
    torch.manual_seed(0)
    assert model.generate(ids, max_new_tokens=6, do_sample=True, num_return_sequences=2).shape == (4, 11)
    beams = [
        written(model, ids, num_beams=3, use_cache=cached, token_type_ids=torch.zeros_like(ids))
        for cached in (True, False)
    ]
    assert beams[0] == beams[1]


def test_a_text_in_pieces_through_a_cache(model: UnifiedForMaskedLM) -> None:
    """A prefix, three tokens at once and one more: the positions go on where the cache ends."""
    ids, types = row(9), torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1]])
    whole = logits(model, ids, token_type_ids=types)
    cache = DynamicCache()
    pieces = [
        logits(model, ids[:, part], token_type_ids=types[:, part], past_key_values=cache)
        for part in (slice(0, 5), slice(5, 8), slice(8, 9))
    ]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=1e-4)


def test_what_a_cache_cannot_do_is_said(model: UnifiedForMaskedLM) -> None:
    ids, cache = row(4), DynamicCache()
    model(input_ids=ids, past_key_values=cache)
    with pytest.raises(ValueError, match="behind a cache the first token must be of type 1"):
        model(input_ids=ids, token_type_ids=torch.zeros_like(ids), past_key_values=cache)
    with pytest.raises(ValueError, match="packed into a row cannot go on from a cache"):
        model(input_ids=ids, segment_ids=torch.zeros_like(ids), past_key_values=cache)
    with pytest.raises(ValueError, match="give input_ids or inputs_embeds"):
        model()


def test_padding_on_either_side_changes_nothing(model: UnifiedForMaskedLM) -> None:
    ids, mask = row(6), torch.ones(1, 6, dtype=torch.long)
    plain = logits(model, ids)
    for left, right in ((3, 0), (0, 3), (2, 1)):
        padded = logits(model, F.pad(ids, (left, right)), attention_mask=F.pad(mask, (left, right)))
        assert torch.isfinite(padded).all()
        torch.testing.assert_close(padded[:, left : left + 6], plain, atol=1e-4, rtol=1e-4)


def test_a_folder_of_it(model: UnifiedForMaskedLM, tmp_path: Path) -> None:
    """Saved and loaded by transformers' own auto classes: bits, names, and the head that is the embedding."""
    model.save_pretrained(tmp_path)
    ids = row(6)
    for auto in (AutoModelForMaskedLM, AutoModelForCausalLM):
        again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert isinstance(again, UnifiedForMaskedLM) and not any(info[kind] for kind in info)
        assert again.lm_head.weight is again.bert.embeddings.word_embeddings.weight
        ones = torch.ones_like(ids)
        assert torch.equal(logits(again.eval(), ids, token_type_ids=ones), logits(model, ids, token_type_ids=ones))
        # Types that are not said are those of what was asked for.
        untold = ones if auto is AutoModelForCausalLM else 0 * ones
        assert torch.equal(logits(again, ids), logits(model, ids, token_type_ids=untold))
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.layer_norm_eps, config.rope_theta) == ("hanmo_unified", 1e-12, 10000.0)


def test_its_parts_have_names_and_states(model: UnifiedForMaskedLM, tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    """`hanmo model hidden` and freezing speak of the same parts as elsewhere."""
    model = make(vocab_size=448)
    model.save_pretrained(tmp_path)
    tokenizer = load(tiny_tokenizer_dir)
    tokenizer.save_pretrained(tmp_path)
    found = hidden(tmp_path, ["春天到了"], ["embeddings", "layers.1", "norm", "head"])
    ids = found["ids"]
    torch.testing.assert_close(found["head"][0], logits(model, ids)[0])
    assert found["norm"].shape == found["layers.1"].shape == found["embeddings"].shape == (1, ids.shape[1], 64)
    assert "layers.0.mlp" in modules_of(model) and "layers.0.attention" in modules_of(model)
