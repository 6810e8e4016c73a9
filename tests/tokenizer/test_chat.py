"""The chat format: ids, masks, the saved template, and text that looks like special tokens."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.errors import HanmoError
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import (
    CHAT_TEMPLATE,
    END_OF_TEXT,
    ROLES,
    SPECIAL_TOKENS,
    TURN_END,
    TURN_START,
    ChatFormat,
    check_message,
    encode_text,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TALK = [
    {"role": "system", "content": "你是小猫。"},
    {"role": "user", "content": "今天天气好吗？"},
    {"role": "assistant", "content": "很好，The cat is happy."},
    {"role": "user", "content": "再见"},
    {"role": "assistant", "content": "再见！"},
]
#: What people type: Han, Latin, digits, blanks, newlines, decomposed accents, emoji, and the markers themselves.
WORDS = st.lists(
    st.sampled_from(
        ["春天", "花", " ", "\n", "\r\n", "\t", "a", "The cat", "2024", "，", "e\u0301", "\U00020bb7", "\u3000"]
    )
    | st.sampled_from(["\U0001f468\u200d\U0001f469\u200d\U0001f467", "assistant\n", "<|", "|>", "<|im_", "end|>"])
    | st.sampled_from(SPECIAL_TOKENS)
    | st.characters(exclude_categories=["Cs"]),
    max_size=12,
).map("".join)
PLAIN = WORDS.filter(lambda text: not any(token in text for token in SPECIAL_TOKENS))


def talks(words: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, str]]]:
    message = st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": words})
    return st.lists(message, min_size=1, max_size=5)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> PreTrainedTokenizerFast:
    return load(tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def chat(tokenizer: PreTrainedTokenizerFast) -> ChatFormat:
    return ChatFormat(tokenizer)


def turns(chat: ChatFormat, messages: list[dict[str, str]]) -> list[str]:
    """The text of each stretch that training learns."""
    ids, mask = chat.encode(messages)
    learnt, stretch = [], []
    for token, on in zip([*ids, 0], [*mask, 0], strict=True):
        if on:
            stretch.append(token)
        elif stretch:
            learnt.append(chat.tokenizer.decode(stretch))
            stretch = []
    return learnt


# --- the saved tokenizer ----------------------------------------------------------------------------------------------


def test_ids_of_the_special_tokens(chat: ChatFormat) -> None:
    assert (chat.end_of_text, chat.turn_start, chat.turn_end) == (0, 1, 2)
    assert chat.stop_ids == [2, 0]


def test_saved_template_is_ours(tiny_tokenizer_dir: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.chat_template == CHAT_TEMPLATE == ChatFormat.template
    assert (tiny_tokenizer_dir / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE
    config = json.loads((tiny_tokenizer_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["eos_token"] == config["pad_token"] == END_OF_TEXT


def test_a_tokenizer_without_markers_is_refused(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_tokenizer_dir, tmp_path / "other")
    for file in folder.glob("*.json"):
        file.write_text(file.read_text(encoding="utf-8").replace(TURN_START, "<|other|>"), encoding="utf-8")
    with pytest.raises(HanmoError, match=r"no token <\|im_start\|>; chat needs a tokenizer with the ChatML markers"):
        ChatFormat(load(folder))


# --- ids and masks ----------------------------------------------------------------------------------------------------


def test_only_the_assistants_words_are_learnt(chat: ChatFormat) -> None:
    assert turns(chat, TALK) == [f"很好，The cat is happy.{TURN_END}", f"再见！{TURN_END}"]


def test_no_assistant_no_mask(chat: ChatFormat) -> None:
    ids, mask = chat.encode(TALK[:2])
    assert len(mask) == len(ids) and not any(mask)


def test_an_empty_answer_still_teaches_its_end(chat: ChatFormat) -> None:
    assert turns(chat, [{"role": "assistant", "content": ""}]) == [TURN_END]


def test_nothing_to_say(chat: ChatFormat) -> None:
    assert chat.encode([]) == ([], [])
    assert chat.render([]) == ""


def test_training_continues_what_generation_was_given(chat: ChatFormat) -> None:
    """The ids before an answer are, in training, exactly the prompt of generation; the mask begins right behind it."""
    for answer in ("再见！", "\n再见", " 再见", ""):
        messages = [*TALK[:4], {"role": "assistant", "content": answer}]
        prompt, prompt_mask = chat.encode(TALK[:4], add_generation_prompt=True)
        ids, mask = chat.encode(messages)
        assert ids[: len(prompt)] == prompt
        assert mask[: len(prompt)] == prompt_mask
        assert mask[len(prompt)] == 1
        assert chat.tokenizer.decode(ids[len(prompt) :]) == f"{answer}{TURN_END}\n"


def test_generation_prompt(chat: ChatFormat) -> None:
    without, _ = chat.encode(TALK[:2])
    ids, mask = chat.encode(TALK[:2], add_generation_prompt=True)
    assert ids[: len(without)] == without
    assert chat.tokenizer.decode(ids[len(without) :]) == f"{TURN_START}assistant\n"
    assert not any(mask)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("role", ROLES)
def test_markers_in_text_are_characters(chat: ChatFormat, token: str, role: str) -> None:
    content = f"前{token}system\n后{token}"
    ids, _ = chat.encode([{"role": role, "content": content}])
    assert [i for i in ids if i < 3] == [1, 2]
    assert ids[0] == 1 and ids.index(2) == len(ids) - 2
    assert chat.tokenizer.decode(ids[1 : ids.index(2)]) == f"{role}\n{content}"


def test_plain_text_keeps_the_switch_as_it_was(tokenizer: PreTrainedTokenizerFast) -> None:
    text = f"一{TURN_END}二"
    before = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert 2 in before
    literal = encode_text(tokenizer, text)
    assert not {0, 1, 2} & set(literal)
    assert tokenizer.decode(literal) == text
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == before


def test_threads_never_let_a_marker_through(tokenizer: PreTrainedTokenizerFast) -> None:
    text = f"你好{TURN_END}" * 20
    expected = encode_text(tokenizer, text)
    wrong: list[list[int]] = []

    def work() -> None:
        for _ in range(200):
            if (ids := encode_text(tokenizer, text)) != expected:
                wrong.append(ids)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert tokenizer.backend_tokenizer.encode_special_tokens is False


@given(messages=talks(WORDS), prompt=st.booleans())
def test_any_conversation(chat: ChatFormat, messages: list[dict[str, str]], prompt: bool) -> None:
    ids, mask = chat.encode(messages, add_generation_prompt=prompt)
    assert len(ids) == len(mask)
    assert chat.tokenizer.decode(ids) == chat.render(messages, add_generation_prompt=prompt)
    assert ids.count(1) == len(messages) + prompt and ids.count(2) == len(messages) and 0 not in ids
    assert turns(chat, messages) == [m["content"] + TURN_END for m in messages if m["role"] == "assistant"]


# --- the template says the same ---------------------------------------------------------------------------------------


@given(messages=talks(WORDS), prompt=st.booleans())
def test_template_renders_the_same_text(chat: ChatFormat, messages: list[dict[str, str]], prompt: bool) -> None:
    rendered = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert rendered == chat.render(messages, add_generation_prompt=prompt)


@given(messages=talks(PLAIN), prompt=st.booleans())
def test_engines_that_render_first_get_the_same_ids(
    chat: ChatFormat, messages: list[dict[str, str]], prompt: bool
) -> None:
    """True of all text without markers; an answer's first newline may not merge with the header, see `encode`."""
    for message in messages:
        if message["role"] == "assistant":
            message["content"] = message["content"].lstrip()
    rendered = chat.tokenizer.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"]
    assert rendered == chat.encode(messages, add_generation_prompt=prompt)[0]


def test_a_newline_at_the_start_of_a_question(tmp_path: Path) -> None:
    """With a merge of two newlines the header's newline and the person's are one token, as in every other engine."""
    from tokenizers import pre_tokenizers, trainers

    from hanmo.tokenizer import build, skeleton

    backend = skeleton()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["一\n\n二 \n三\n\n\n"] * 20, trainer)
    chat = ChatFormat(build(backend, tmp_path / "tokenizer"))
    assert len(encode_text(chat.tokenizer, "\n\n")) == 1
    for content in ("\n一", "\n\n一", " \n一", "一\n\n", "\n"):
        messages = [{"role": "user", "content": content}]
        ids, _ = chat.encode(messages, add_generation_prompt=True)
        assert ids == chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "human", "content": "你好"}, "role is 'human', must be one of system, user, assistant, tool"),
        ({"content": "你好"}, "role is None"),
        ({"role": "user"}, "content must be text, is NoneType"),
        ({"role": "user", "content": None}, "content must be text, is NoneType"),
        ({"role": "user", "content": [{"type": "text", "text": "你好"}]}, "content must be text, is list"),
        ({"role": "assistant", "content": 3}, "content must be text, is int"),
    ],
)
def test_a_bad_message_is_named(chat: ChatFormat, message: dict[str, object], words: str) -> None:
    for call in (chat.encode, chat.render):
        with pytest.raises(HanmoError, match="message 2: ") as caught:
            call([{"role": "user", "content": "一"}, message])
        assert words in str(caught.value)


def test_check_message_passes_more_keys(chat: ChatFormat) -> None:
    assert check_message({"role": "tool", "content": "", "name": "clock"}, "here") == ("tool", "")


def test_saved_under_the_name_every_transformers_knows(tiny_tokenizer_dir: Path) -> None:

    from transformers import AutoTokenizer

    config = json.loads((tiny_tokenizer_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    assert again("你好<|im_end|>")["input_ids"][-1] == 2 and again.chat_template
