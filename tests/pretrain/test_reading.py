"""How models read their documents: from right to left, with pinyin, and by the one rule that generation has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hanmo.errors import HanmoError
from hanmo.models.linglong.generation import Readings, pinyin_reader, reverse
from hanmo.pretrain.objectives.reading import Reading
from hanmo.tokens.order import Order
from hanmo.tokens.shards import Split, Tokens, split_of

#: Three documents, of which one is empty but for its end.
TEXTS = [[5, 6, 7, 8, 0], [0], [9, 10, 0]]


def split(texts: list[list[int]] = TEXTS) -> Split:
    """A split of these documents."""
    flat = np.array([token for text in texts for token in text], np.uint16)
    return split_of(flat, np.cumsum([len(text) for text in texts]), sources=["a"])


def test_documents_turn_round_and_their_ends_stay() -> None:
    turned = Reading(backward=True).turned(split())
    assert [turned.document(n).tolist() for n in range(3)] == [[8, 7, 6, 5, 0], [0], [10, 9, 0]]
    assert [turned.document(n).tolist() for n in range(3)] == [reverse(text, eos=0) for text in TEXTS]
    assert turned.doc_ends.tolist() == [5, 6, 9] and turned.shards[0].amounts == {0: (3, 9)}
    assert Reading().turned(turned) is turned


def test_any_stretch_is_that_of_the_whole() -> None:
    tokens = Reading(backward=True).turned(split()).tokens
    whole = tokens[:]
    for start in range(10):
        for stop in range(start, 10):
            assert np.array_equal(tokens[start:stop], whole[start:stop])
    assert tokens[3] == 5


def test_rows_of_a_backward_model_are_those_of_turned_documents() -> None:
    texts = [[*range(10 * n + 1, 10 * n + 3 + n), 0] for n in range(9)]
    ours = Order(Reading(backward=True).turned(split(texts)), 8, seed=3).rows(0, 12)
    plain = Order(split([reverse(text, eos=0) for text in texts]), 8, seed=3).rows(0, 12)
    for name in ("inputs", "targets", "position", "segment"):
        assert np.array_equal(getattr(ours, name), getattr(plain, name)), name


def test_rows_have_the_pinyin_of_their_inputs() -> None:
    texts = [[*range(10 * n + 1, 10 * n + 3 + n), 0] for n in range(9)]
    flat = split(texts)
    # As if the reading of a token were its number, less that of special ones.
    order = Order(flat, 8, seed=3, pinyin=Tokens([flat.tokens[:].astype(np.uint16)]))
    rows = order.rows(0, 12)
    assert rows.pinyin is not None and np.array_equal(rows.pinyin, rows.inputs)
    assert Order(flat, 8, seed=3).rows(0, 2).pinyin is None


def test_presets_and_folders_say_how_they_read(tmp_path: Path) -> None:
    assert Reading.of("linglong-1m-backward", None) == Reading(backward=True)
    assert Reading.of("linglong-318m-pinyin", None) == Reading(pinyin=True)
    assert Reading.of("hanmo-1m", None) == Reading()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "linglong", "backward": True}), "utf-8")
    assert Reading.of("hanmo-1m", tmp_path) == Reading(backward=True)  # the folder counts
    config.write_text(json.dumps({"backward": True, "use_pinyin": True}), "utf-8")
    with pytest.raises(HanmoError, match="train one of the two"):
        Reading.of("hanmo-1m", tmp_path)


def test_training_and_generation_read_pinyin_alike(tmp_path: Path) -> None:
    from hanmo.tokenizer import encode_text, load
    from hanmo.tokenizer.forms import pinyin

    pinyin.build(["银行行长在重庆的银行里行走。" * 4], 530, tmp_path)
    tokenizer = load(tmp_path)
    documents = [[*encode_text(tokenizer, text), 0] for text in ("银行行长", "重庆银行，行走。", "行")]
    flat, ends = np.concatenate(documents), np.cumsum([len(ids) for ids in documents])
    trained = pinyin.Reader(tmp_path).documents(flat, ends)
    pinyin_of, start = pinyin_reader(tmp_path), 0
    for document, end in zip(documents, ends.tolist(), strict=True):
        # As a row has it: the end of the document before opens it, and every token's id is that of what stands there.
        for length in range(1, len(document) + 1):
            fed = [0, *document[:length]]
            assert pinyin_of(fed) == [pinyin.SPECIAL, *trained[start : start + length].tolist()]
        start = end


def test_what_grows_is_read_once() -> None:
    class Counting:
        pushed = 0

        def reset(self) -> None:
            pass

        def push(self, token: int) -> int:
            Counting.pushed += 1
            return token + 1

    readings = Readings(Counting())  # type: ignore[arg-type]
    assert readings([1, 2]) == [2, 3] and readings([1, 2, 3]) == [2, 3, 4] and Counting.pushed == 3
    assert readings([1, 5]) == [2, 6] and Counting.pushed == 5


def test_tokens_without_pinyin_are_one_line() -> None:
    unknown = Split([], ["a"])
    with pytest.raises(HanmoError, match="these tokens have none; encode the corpus"):
        Reading(pinyin=True).readings(unknown, "runs/tokens")
    assert Reading().readings(unknown, "runs/tokens") is None
