"""The one chat format: training, evaluation, chat and serving all turn messages into ids through `ChatFormat`.

ChatML, as Qwen and many others use it, so that llama.cpp and vLLM know it:

    <|im_start|>user\\n你好<|im_end|>\\n<|im_start|>assistant\\n您好！<|im_end|>\\n

Ids are made piece by piece: the markers are placed as ids, and what people wrote is encoded as plain text. A user who
types `<|im_end|>` therefore gets those ten characters, never a turn boundary. The Jinja template that is saved with the
tokenizer says the same for engines that render text first.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from hanmo.errors import HanmoError

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
#: In the order of their ids 0, 1, 2.
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
ROLES = ("system", "user", "assistant", "tool")

#: Stands before the tools that a conversation may call, in its system message.
TOOLS = "可以调用下列工具；要调用时，回答 <tool_call>、一个含 name 与 arguments 的 JSON 对象和 </tool_call>。"
#: Saved as chat_template.jinja. No training marks in it, so that every engine renders it. Calls of tools have the form
#: that Qwen's models answer in, so that engines that know those (vLLM: hermes) find them.
CHAT_TEMPLATE = (
    "{%- if tools -%}"
    "{{- '<|im_start|>system\\n' -}}"
    "{%- if messages[0]['role'] == 'system' -%}{{- messages[0]['content'] + '\\n\\n' -}}{%- endif -%}"
    f"{{{{- '{TOOLS}\\n<tools>\\n' -}}}}"
    "{%- for tool in tools -%}{{- tool | tojson -}}{{- '\\n' -}}{%- endfor -%}"
    "{{- '</tools><|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if not (tools and loop.first and message['role'] == 'system') -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') -}}"
    "{%- if message['tool_calls'] -%}"
    "{%- for called in message['tool_calls'] -%}"
    "{%- if message['content'] or not loop.first -%}{{- '\\n' -}}{%- endif -%}"
    "{%- set call = called -%}{%- if called['function'] -%}{%- set call = called['function'] -%}{%- endif -%}"
    "{{- '<tool_call>\\n{\"name\": \"' + call['name'] + '\", \"arguments\": ' -}}"
    "{%- if call['arguments'] is string -%}{{- call['arguments'] -}}"
    "{%- else -%}{{- call['arguments'] | tojson -}}{%- endif -%}"
    "{{- '}\\n</tool_call>' -}}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def tools_text(tools: Sequence[Any]) -> str:
    """What the template writes into the system message about tools that may be called."""
    lines = "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in tools)
    return f"{TOOLS}\n<tools>\n{lines}</tools>"


def calls_text(content: str, calls: Sequence[tuple[str, Any]]) -> str:
    """What the template writes of an assistant's words and its calls, (name, arguments as an object or JSON text)."""
    parts = [content] if content else []
    for name, given in calls:
        arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        parts.append(f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(parts)


Message = Mapping[str, Any]
_literal = threading.Lock()


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Encode `text` with special tokens taken literally (as the characters they are made of)."""
    backend = tokenizer.backend_tokenizer
    # The switch belongs to the tokenizer, which a server's threads share.
    with _literal:
        before = backend.encode_special_tokens
        backend.encode_special_tokens = True
        try:
            return backend.encode(text, add_special_tokens=False).ids
        finally:
            backend.encode_special_tokens = before


class ChatFormat:
    """Turns messages into token ids and text for one tokenizer.

    Args:
        tokenizer: must hold the three special tokens; anything else is refused, since the model behind it would never
            have learnt where a turn ends.
        leftward: for a model that writes from right to left: what a message says stands token by token in reverse
            order, behind its header and before its end as ever. An answer comes so, and is turned back.
    """

    template = CHAT_TEMPLATE

    def __init__(self, tokenizer: PreTrainedTokenizerFast, leftward: bool = False) -> None:
        self.tokenizer, self.leftward = tokenizer, leftward
        self.end_of_text = self._special(END_OF_TEXT)
        self.turn_start = self._special(TURN_START)
        self.turn_end = self._special(TURN_END)
        self._newline = encode_text(tokenizer, "\n")

    def _special(self, token: str) -> int:
        index = self.tokenizer.backend_tokenizer.token_to_id(token)
        if index is None:
            raise HanmoError(
                f"{self.tokenizer.name_or_path or 'tokenizer'}: no token {token}; "
                "chat needs a tokenizer with the ChatML markers (make one with `hanmo tokenizer`)"
            )
        return index

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end an answer: the end of the turn, and the end of a document."""
        return [self.turn_end, self.end_of_text]

    def encode(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> tuple[list[int], list[int]]:
        """Ids of a conversation and a mask of equal length: 1 where the assistant's words and their end stand.

        The mask is what training puts loss on: the content of every assistant turn and its `<|im_end|>`, not the header
        and not the newline behind it.

        Raises:
            HanmoError: a message without a known role or without text.
        """
        ids: list[int] = []
        mask: list[int] = []
        for index, message in enumerate(messages):
            role, content = check_message(message, f"message {index + 1}")
            if self.leftward:
                header, body = f"{role}\n", [*reversed(encode_text(self.tokenizer, content)), self.turn_end]
            elif role == "assistant":
                header, body = f"{role}\n", [*encode_text(self.tokenizer, content), self.turn_end]
            else:
                # In one piece, as engines do that render the text first: a newline at the start of what a person wrote
                # may be one token with the header's. An answer starts where generation starts, at a token of its own.
                header, body = f"{role}\n{content}", [self.turn_end]
            head = [self.turn_start, *encode_text(self.tokenizer, header)]
            ids += head + body + self._newline
            mask += [0] * len(head) + [int(role == "assistant")] * len(body) + [0] * len(self._newline)
        if add_generation_prompt:
            opening = [self.turn_start, *encode_text(self.tokenizer, "assistant\n")]
            ids += opening
            mask += [0] * len(opening)
        return ids, mask

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as text, exactly as the saved template renders it."""
        parts = []
        for index, message in enumerate(messages):
            role, content = check_message(message, f"message {index + 1}")
            parts.append(f"{TURN_START}{role}\n{content}{TURN_END}\n")
        if add_generation_prompt:
            parts.append(f"{TURN_START}assistant\n")
        return "".join(parts)


def check_message(message: Message, where: str) -> tuple[str, str]:
    """Return (role, content) of a message, or say in one line what is wrong with it."""
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise HanmoError(f"{where}: role is {role!r}, must be one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise HanmoError(f"{where}: content must be text, is {type(content).__name__}")
    return role, content
