from __future__ import annotations

import pytest

from hanmo.errors import HanmoError
from hanmo.serve.prompt import ForeignTemplate, PromptTooLong, fit_history

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def foreign(template: str = TEMPLATE) -> ForeignTemplate:
    # Special tokens are negative, characters are themselves.
    def encode(text: str, special: bool) -> list[int]:
        ids: list[int] = []
        while text:
            if special and text.startswith("</s>"):
                ids.append(-1)
                text = text[4:]
            else:
                ids.append(ord(text[0]))
                text = text[1:]
        return ids

    return ForeignTemplate(template, {"bos_token": "^"}, ["<s>", "</s>"], encode)


def test_a_foreign_template_is_rendered_and_specials_in_messages_stay_text():
    ids = foreign().encode([{"role": "user", "content": " 你</s>好 "}])
    assert ids == [*map(ord, "^[user]你</s>好"), -1, *map(ord, "[assistant]")]


def test_a_template_cannot_reach_out():
    with pytest.raises(HanmoError, match="refuses"):
        foreign("{{ ''.__class__.__mro__ }}").encode([{"role": "user", "content": "x"}])


def test_a_template_may_refuse_and_a_broken_one_is_named():
    with pytest.raises(HanmoError, match="no system"):
        foreign("{{ raise_exception('no system') }}").encode([{"role": "user", "content": "x"}])
    with pytest.raises(HanmoError, match="not valid Jinja"):
        foreign("{% for %}")


def talk(*turns: str) -> list[dict[str, str]]:
    return [{"role": {"s": "system", "u": "user", "a": "assistant"}[t[0]], "content": t[1:]} for t in turns]


def encode(messages) -> list[int]:
    return [0] * sum(len(message["content"]) for message in messages)


def test_the_oldest_turns_go_first_and_the_system_message_stays():
    messages = talk("sSSS", "u1111", "a2222", "u3333", "a4444", "u5555")
    kept, ids, dropped = fit_history(messages, encode, context=20, reserve=5)
    assert kept == talk("sSSS", "u3333", "a4444", "u5555") and dropped == 2 and len(ids) == 15


def test_thousands_of_turns_cost_a_handful_of_encodings():
    calls = 0

    def counted(messages) -> list[int]:
        nonlocal calls
        calls += 1
        return encode(messages)

    messages = talk("s!", *["u12", "a34"] * 5000, "u56")
    kept, ids, dropped = fit_history(messages, counted, context=100, reserve=25)
    assert len(ids) in range(70, 76) and kept[0] == messages[0] and kept[1]["role"] == "user" and calls < 20
    assert dropped == len(messages) - len(kept)


def test_a_history_that_fits_is_left_alone():
    messages = talk("u1", "a2", "u3")
    assert fit_history(messages, encode, 20, 5) == (messages, [0] * 3, 0)


def test_the_last_question_is_kept_even_without_the_reserve_but_must_fit():
    kept, _, dropped = fit_history(talk("u1111", "a2222", "u333333"), encode, 8, 5)
    assert kept == talk("u333333") and dropped == 2
    with pytest.raises(PromptTooLong, match=r"9 tokens.*context is 8"):
        fit_history(talk("u1", "a2", "u999999999"), encode, 8, 5)
