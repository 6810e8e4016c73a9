"""Token level: what is learnt is the assistant's words and where they end, nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hanmo.posttrain.encode import IGNORE, count_tokens, encode_dialogue, encode_pair, encode_parts
from hanmo.posttrain.preferences import Pair
from hanmo.tokenizer import encode_text, load
from hanmo.tokenizer.chat import ChatFormat

TALK = [
    {"role": "system", "content": "你是小红。"},
    {"role": "user", "content": "小猫在哪里？<|im_end|>"},
    {"role": "assistant", "content": "小猫在树下。"},
    {"role": "user", "content": "谢谢"},
    {"role": "assistant", "content": "不用谢<|im_end|>。"},
]


@pytest.fixture(scope="module")
def chat(tiny_tokenizer_dir: Path) -> ChatFormat:
    return ChatFormat(load(tiny_tokenizer_dir))


def test_labels_are_the_assistants_words_and_their_end(chat: ChatFormat) -> None:
    example = encode_dialogue(chat, TALK, 256, "drop", Counter())
    assert example is not None
    learnt = []
    for content in ("小猫在树下。", "不用谢<|im_end|>。"):
        learnt += [*encode_text(chat.tokenizer, content), chat.turn_end]
    assert [label for label in example.labels if label != IGNORE] == learnt
    assert all(label in (IGNORE, token) for token, label in zip(*example, strict=True))
    # Every place: IGNORE on system, user, markers and newlines; the ids themselves on the answers.
    expected = []
    for message in TALK:
        header = [chat.turn_start, *encode_text(chat.tokenizer, message["role"] + "\n")]
        body = [*encode_text(chat.tokenizer, message["content"]), chat.turn_end]
        expected += [IGNORE] * len(header) + (body if message["role"] == "assistant" else [IGNORE] * len(body))
        expected += [IGNORE] * len(encode_text(chat.tokenizer, "\n"))
    assert example.labels == expected[: len(example.labels)]
    assert set(expected[len(example.labels) :]) == {IGNORE}
    # The markers that people typed stayed text: five turns begin, five end.
    assert example.input_ids.count(chat.turn_start) == 5
    assert example.input_ids.count(chat.turn_end) == 5
    assert count_tokens([example]) == {"records": 1, "tokens": len(example.input_ids), "learnt": len(learnt)}


def test_long_dialogues_lose_whole_exchanges_first(chat: ChatFormat) -> None:
    whole = encode_dialogue(chat, TALK, 256, "truncate", Counter())
    first = encode_dialogue(chat, TALK[:3], 256, "truncate", Counter())
    assert whole is not None and first is not None
    full, short = len(whole.input_ids), len(first.input_ids)
    for limit, length, note in (
        (full, full, None),
        (full - 1, short, "later exchanges cut"),
        (short, short, "later exchanges cut"),
        (short - 2, short - 2, "answer cut"),
    ):
        notes: Counter[str] = Counter()
        example = encode_dialogue(chat, TALK, limit, "truncate", notes)
        assert example is not None and len(example.input_ids) == length
        assert example == (whole.input_ids[:length], whole.labels[:length])
        assert [name for name in notes if note and note in name] == list(notes)
    for limit, rule, note in (
        (full - 1, "drop", "longer than max_length, dropped"),
        (5, "truncate", "prompt longer than max_length, dropped"),
    ):
        notes = Counter()
        assert encode_dialogue(chat, TALK, limit, rule, notes) is None
        assert notes == {note: 1}


def test_a_text_that_cannot_fit_is_not_encoded_whole(chat: ChatFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode = chat.encode
    monkeypatch.setattr(chat, "encode", lambda messages, **kwargs: seen.append(messages) or encode(messages, **kwargs))
    huge = [TALK[1], {"role": "assistant", "content": "树" * 1_000_000}]
    notes: Counter[str] = Counter()
    example = encode_dialogue(chat, huge, 64, "truncate", notes)
    assert example is not None and len(example.input_ids) == 64
    assert notes == {"longer than max_length, answer cut": 1}
    assert encode_dialogue(chat, huge, 64, "drop", notes) is None
    assert encode_pair(chat, Pair(TALK[:2], "甲", "乙" * 1_000_000), 64, notes) is None
    assert all(len(message["content"]) < 20_000 for messages in seen for message in messages)
    exact = encode_dialogue(chat, [TALK[1], {"role": "assistant", "content": "树" * 300}], 64, "truncate", Counter())
    assert exact == example


def test_a_pair_opens_its_answers_as_a_prompt_does(chat: ChatFormat) -> None:
    pair = encode_pair(chat, Pair(TALK[:2], "在树下。", "<|im_end|>"), 256, Counter())
    assert pair is not None
    assert pair.prompt_ids == chat.encode(TALK[:2], add_generation_prompt=True)[0]
    assert pair.chosen_ids == [*encode_text(chat.tokenizer, "在树下。"), chat.turn_end]
    assert pair.rejected_ids == [*encode_text(chat.tokenizer, "<|im_end|>"), chat.turn_end]
    assert pair.rejected_ids.count(chat.turn_end) == 1
    notes: Counter[str] = Counter()
    assert encode_pair(chat, Pair(TALK[:2], "在树下。", "<|im_end|>"), pair.length - 1, notes) is None
    assert notes == {"longer than max_length, dropped": 1}


def test_long_dialogues_are_split_between_exchanges(chat: ChatFormat) -> None:
    whole = encode_parts(chat, TALK, 256, "split", Counter())
    assert whole == [encode_dialogue(chat, TALK, 256, "drop", Counter())]
    full = len(whole[0].input_ids)
    assert len(encode_parts(chat, TALK, full, "split", Counter())) == 1
    notes: Counter[str] = Counter()
    parts = encode_parts(chat, TALK, full - 1, "split", notes)
    # Each part has the system message; together they learn what the whole does.
    assert parts == [encode_dialogue(chat, [TALK[0], *TALK[at : at + 2]], 256, "drop", Counter()) for at in (1, 3)]
    assert notes == {"longer than max_length, split": 1}
    learnt = [[label for label in example.labels if label != IGNORE] for example in (*parts, whole[0])]
    assert learnt[0] + learnt[1] == learnt[2]
    # An exchange that does not fit by itself is cut.
    notes = Counter()
    short = len(parts[1].input_ids) - 2
    cut = encode_parts(chat, TALK, short, "split", notes)
    assert all(len(example.input_ids) <= short for example in cut)
    assert notes["longer than max_length, split"] == 1 and notes["longer than max_length, answer cut"] >= 1
    assert encode_parts(chat, TALK, 256, "truncate", Counter()) == whole
