"""Conversations to token ids, for any engine, and the cutting of a history that has grown too long.

Models of ours speak the format of `hanmo.tokenizer.chat.ChatFormat` and go through that very object. A foreign model
brings a Jinja template; it is rendered in a sandbox, and whatever the people wrote is kept from forming special tokens
there too.
"""

from __future__ import annotations

import bisect
import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hanmo.errors import HanmoError
from hanmo.tokenizer.chat import CHAT_TEMPLATE, Message, calls_text, check_message, tools_text

#: Stand around literal special tokens while a foreign template is rendered; noncharacters, so no text holds them.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_LITERAL = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


def is_ours(template: str | None) -> bool:
    """Whether a saved chat template is the house's own."""
    return template is not None and template.strip() == CHAT_TEMPLATE.strip()


class ForeignTemplate:
    """Renders conversations by a model's own Jinja template.

    Args:
        template: the Jinja source, as saved with the model.
        variables: what templates expect beside the messages (`bos_token`, `eos_token`).
        specials: the texts of all special tokens; those are taken literally inside messages.
        encode: text, parse special tokens? -> ids.
    """

    def __init__(
        self,
        template: str,
        variables: dict[str, str],
        specials: Sequence[str],
        encode: Callable[[str, bool], list[int]],
    ) -> None:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            self._template = environment.from_string(template)
        except jinja2.TemplateError as error:
            raise HanmoError(f"the model's chat template is not valid Jinja: {error}") from None
        self._variables = variables
        self._specials = sorted({s for s in specials if s}, key=len, reverse=True)
        self._encode = encode

    def encode(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        """Ids of a conversation up to where the assistant's answer begins.

        Raises:
            HanmoError: a bad message, or the template refuses the conversation.
        """
        marked = []
        for index, message in enumerate(messages):
            check_message(message, f"message {index + 1}")
            marked.append(self._marked(message))
        told = {"tools": self._marked(list(tools))} if tools else {}
        try:
            text = self._template.render(messages=marked, add_generation_prompt=True, **told, **self._variables)
        except Exception as error:
            raise HanmoError(f"the model's chat template refuses this conversation: {error}") from None
        ids: list[int] = []
        for place, part in enumerate(_LITERAL.split(text)):
            if part:
                ids += self._encode(self._specials[int(part)], False) if place % 2 else self._encode(part, True)
        return ids

    def _marked(self, value: Any) -> Any:
        """`value` with every text in it marked."""
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, Mapping):
            return {name: self._marked(one) for name, one in value.items()}
        return [self._marked(one) for one in value] if isinstance(value, list) else value

    def _mark(self, content: str) -> str:
        content = content.replace(_OPEN, "").replace(_CLOSE, "")
        if not self._specials:
            return content
        pattern = "|".join(map(re.escape, self._specials))
        return re.sub(pattern, lambda hit: f"{_OPEN}{self._specials.index(hit[0])}{_CLOSE}", content)


def _raise(message: str) -> Any:
    raise ValueError(message)


def in_house(messages: Sequence[Message], tools: Sequence[Any]) -> list[Message]:
    """A conversation with tools and their calls as the plain messages that the house's template makes of it."""
    found: list[Message] = []
    for message in messages:
        calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
        content = message.get("content")
        if calls:
            content = calls_text(content or "", [(call["name"], call.get("arguments", {})) for call in calls])
        found.append({"role": message.get("role"), "content": content})
    if tools:
        said = tools_text(tools)
        if found and found[0]["role"] == "system":
            found[0] = {"role": "system", "content": f"{found[0]['content']}\n\n{said}"}
        else:
            found.insert(0, {"role": "system", "content": said})
    return found


def fit_history(
    messages: Sequence[Message], encode: Callable[[Sequence[Message]], list[int]], context: int, reserve: int
) -> tuple[list[Message], list[int], int]:
    """Drop the oldest turns until the conversation leaves room for an answer.

    Args:
        messages: the conversation; system messages at its head are always kept.
        encode: messages -> ids.
        context: tokens the model can hold.
        reserve: tokens wanted for the answer; the last question is kept even when less than this remains.

    Returns:
        The messages kept, their ids, and how many messages were dropped.

    Raises:
        HanmoError: the last question alone does not fit.
    """
    head = next((i for i, message in enumerate(messages) if message.get("role") != "system"), len(messages))
    # A turn begins at a question: whole turns go, never a question without its answer. Only so many encodings as a
    # binary search needs, for a client may send thousands of short turns.
    starts = [head, *(i for i in range(head + 1, len(messages)) if messages[i].get("role") == "user")]
    tried: dict[int, tuple[list[Message], list[int]]] = {}

    def length(start: int) -> int:
        kept = [*messages[:head], *messages[start:]]
        tried[start] = kept, encode(kept)
        return len(tried[start][1])

    if length(head) <= context - reserve:
        return *tried[head], 0
    place = bisect.bisect_left(starts, -(context - reserve), key=lambda start: -length(start))
    start = starts[min(place, len(starts) - 1)]
    if start not in tried:
        length(start)
    kept, ids = tried[start]
    if len(ids) >= context:
        raise too_long(len(ids), context)
    return kept, ids, start - head


class PromptTooLong(HanmoError):
    """The prompt fills the model's context."""


def too_long(tokens: int, context: int) -> PromptTooLong:
    """The one error for a prompt that leaves no room for an answer."""
    return PromptTooLong(
        f"the prompt has {tokens} tokens, but the model's context is {context} tokens, answer included; "
        "shorten the prompt"
    )
