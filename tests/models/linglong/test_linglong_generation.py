"""Generation: with and without a cache, in a batch and alone, with pinyin, to the left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.models.linglong.generation import complete, pinyin_of_rows, pinyin_reader, reverse

PROMPTS = [[3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32, 38], [27, 18], [31, 41, 5, 9, 2, 6]]
GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": None}


def greedy(model: Any, stream: list[int], count: int, pinyin_of: Any = None) -> list[int]:
    """Without transformers' generation: all of the text through the model for every token."""
    ids = list(stream)
    for _ in range(count):
        pinyin = None if pinyin_of is None else torch.tensor([pinyin_of(ids)])
        ids.append(int(model(torch.tensor([ids]), pinyin_ids=pinyin).logits[0, -1].argmax()))
    return ids[len(stream) :]


def pinyin_of(ids: list[int]) -> list[int]:
    """A toy rule of left context: what a token sounds like depends on the one before."""
    return [(token + (ids[place - 1] if place else 0)) % 20 for place, token in enumerate(ids)]


@pytest.mark.parametrize("mode", ["dense", "sparse"])
@pytest.mark.parametrize("pinyin", [False, True])
def test_greedy_tokens_are_the_same_with_and_without_cache_and_in_batches(
    make: Callable[..., Any], mode: str, pinyin: bool
) -> None:
    model = make(attn_mode=mode, use_pinyin=pinyin)
    rule = pinyin_of if pinyin else None
    with torch.no_grad():
        wanted = [greedy(model, [10, *prompt], 24, rule) for prompt in PROMPTS]
    assert len({tuple(new) for new in wanted}) == len(wanted) and all(len(set(new)) > 4 for new in wanted)
    for cache in (True, False):
        options = {**GREEDY, "max_new_tokens": 24, "use_cache": cache, "pinyin_of": rule}
        assert complete(model, PROMPTS, **options) == wanted
        assert complete(model, PROMPTS[:1], **options) == wanted[:1]


def test_a_cache_of_fixed_size_and_beams(make: Callable[..., Any]) -> None:
    model = make(attn_mode="sparse", use_pinyin=True)
    options = {**GREEDY, "max_new_tokens": 20, "pinyin_of": pinyin_of}
    wanted = complete(model, PROMPTS, **options)
    assert complete(model, PROMPTS, cache_implementation="static", disable_compile=True, **options) == wanted
    beams = {**options, "num_beams": 3, "max_new_tokens": 12}
    assert complete(model, PROMPTS, **beams) == complete(model, PROMPTS, use_cache=False, **beams)


def test_a_longer_piece_behind_a_cache(make: Callable[..., Any]) -> None:
    model = make(attn_mode="sparse")
    ids = torch.randint(0, 50, (2, 40))
    with torch.no_grad():
        wanted = model(ids).logits
        first = model(ids[:, :19], use_cache=True)
        second = model(ids[:, 19:], past_key_values=first.past_key_values, use_cache=True)
    found = torch.cat([first.logits, second.logits], 1)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_generate_itself_takes_the_pinyin_rule(make: Callable[..., Any]) -> None:
    model = make(use_pinyin=True)
    ids = torch.tensor([PROMPTS[0]])
    found = model.generate(ids, max_new_tokens=8, pinyin_of=pinyin_of, pad_token_id=0, **GREEDY)
    with torch.no_grad():
        assert found[0, len(PROMPTS[0]) :].tolist() == greedy(model, PROMPTS[0], 8, pinyin_of)
    with pytest.raises(ValueError, match="give pinyin_ids"):
        model.generate(ids, max_new_tokens=2, pad_token_id=0)
    with pytest.raises(ValueError, match="give pinyin_of"):
        model.generate(ids, max_new_tokens=2, pinyin_ids=ids, pad_token_id=0)
    with pytest.raises(HanmoError, match="pinyin_reader"):
        complete(model, PROMPTS, max_new_tokens=2)


def test_padding_has_no_pinyin_and_the_rule_sees_text_alone() -> None:
    ids = torch.tensor([[0, 0, 7, 8], [5, 6, 7, 8]])
    asked: list[list[int]] = []

    def rule(tokens: list[int]) -> list[int]:
        asked.append(tokens)
        return [token + 1 for token in tokens]

    found = pinyin_of_rows(rule, ids, torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]))
    assert found.tolist() == [[0, 0, 8, 9], [6, 7, 8, 9]] and asked == [[7, 8], [5, 6, 7, 8]]
    with pytest.raises(ValueError, match="3 ids for 4 tokens"):
        pinyin_of_rows(lambda tokens: [1, 2, 3], ids)


def test_the_tokenizers_pinyin_is_the_rule_of_training_data(tmp_path: Path) -> None:
    from hanmo.tokenizer.forms.pinyin import Reader, build

    tokenizer = build(["银行行长在重庆行走，他说：行！"] * 3, 530, tmp_path)
    rule = pinyin_reader(tmp_path)
    ids = tokenizer.encode("银行行长在重庆行走", add_special_tokens=False).ids
    training = Reader(tmp_path).ids(ids).tolist()
    assert rule(ids) == training
    # What generation asks for, token by token, is what training had.
    assert [rule(ids[: count + 1])[-1] for count in range(len(ids))] == training
    with pytest.raises(HanmoError, match=r"pinyin\.txt"):
        pinyin_reader(tmp_path / "none")


def test_reversing_keeps_what_opens_and_closes() -> None:
    assert reverse([10, 1, 2, 3, 8], bos=10, eos=8) == [10, 3, 2, 1, 8]
    assert reverse([1, 2, 3]) == [3, 2, 1] and reverse([]) == []
    assert reverse([10], bos=10, eos=10) == [10]
    for ids in ([10, 1, 2, 8], [10, 8], [5], [3, 10, 4]):
        assert reverse(reverse(ids, 10, 8), 10, 8) == ids


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_a_backward_model_writes_to_the_left(make: Callable[..., Any], mode: str) -> None:
    model = make(attn_mode=mode, backward=True)
    found = complete(model, PROMPTS, max_new_tokens=20, prefix=[40, 41], suffix=[42, 43, 44], **GREEDY)
    for prompt, new in zip(PROMPTS, found, strict=True):
        # The reversed text, opened by bos: the suffix comes first, its last token foremost.
        stream = [10, 44, 43, 42, *prompt[::-1], 41, 40]
        with torch.no_grad():
            assert new == greedy(model, stream, 20)[::-1]


def test_prefix_suffix_clipping_and_ends(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[list[int]] = []

    def spied(model: Any, answer: list[int]) -> Any:
        def generate(input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
            fed.extend(
                [t for t, there in zip(i, m, strict=True) if there]
                for i, m in zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
            )
            return torch.cat([input_ids, torch.tensor([answer] * len(input_ids))], 1)

        monkeypatch.setattr(model, "generate", generate)
        return model

    options: dict[str, Any] = {"max_new_tokens": 4, "prefix": [40], "suffix": [42]}
    model = spied(make(), [5, 6, 8, 0])
    assert complete(model, [[1, 2], [3]], **options) == [[5, 6], [5, 6]]
    assert fed == [[10, 40, 1, 2, 42], [10, 40, 3, 42]]
    fed.clear()
    complete(model, [list(range(100))], **options)
    assert fed == [[*range(41, 100), 42]]  # 64 places less four: what is nearest to the new tokens stays
    fed.clear()
    model = spied(make(backward=True), [5, 6, 8, 0])
    assert complete(model, [list(range(100))], **options) == [[6, 5]]
    assert fed == [[*range(58, -1, -1), 40]]
    with pytest.raises(HanmoError, match="no room"):
        complete(model, [[1]], max_new_tokens=64)
    assert complete(model, [], max_new_tokens=4) == []
