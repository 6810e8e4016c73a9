"""What a client may send, in OpenAI's words.

Fields we do not know are ignored, as OpenAI's own server does. Fields we know but cannot honour (`logprobs`, tools,
JSON schemas) are refused: an answer that looks as if they had been heeded would be a wrong answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hanmo.serve.sampling import LIMITS, Sampling
from hanmo.serve.text import whole_text

_MOST_ANSWERS = 16
#: What OpenAI's completions give when nobody says how much they want.
_COMPLETION_TOKENS = 16
#: Known fields that no engine here honours yet -> the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}


def _whole(text: str) -> str:
    if not whole_text(text):
        raise ValueError("holds half of a surrogate pair, which is not a character")
    return text


def _limited(name: str) -> Any:
    least, greatest = LIMITS[name]
    return Field(default=None, ge=least, le=greatest)


Text = Annotated[str, AfterValidator(_whole)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class StreamOptions(_Model):
    """How to stream."""

    include_usage: bool | None = Field(None, description="send a last chunk that counts the tokens")


class GenerationRequest(_Model):
    """What both endpoints take."""

    model: Text | None = Field(None, description="as listed by /v1/models; may be left out")
    max_tokens: int | None = _limited("max_tokens")
    temperature: float | None = _limited("temperature")
    top_p: float | None = _limited("top_p")
    top_k: int | None = _limited("top_k")
    min_p: float | None = _limited("min_p")
    repetition_penalty: float | None = _limited("repetition_penalty")
    presence_penalty: float | None = _limited("presence_penalty")
    frequency_penalty: float | None = _limited("frequency_penalty")
    seed: int | None = _limited("seed")
    stop: Text | list[Text] | None = None
    n: int | None = Field(None, ge=1, le=_MOST_ANSWERS, description="answers to each prompt")
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        for name, harmless in _REFUSED.items():
            value = data.get(name) if isinstance(data, dict) else None
            if value is not None and not any(value == ok and type(value) is type(ok) for ok in harmless):
                raise ValueError(f"`{name}` is not supported by this server")
        return data

    def sampling(self, defaults: Sampling, **more: Any) -> Sampling:
        """The request's settings over the server's defaults.

        Raises:
            SamplingError: `stop` is no good (all else was checked when parsing).
        """
        chosen = {name: value for name in LIMITS if (value := getattr(self, name)) is not None}
        if self.stop is not None:
            chosen["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        base = {name: getattr(defaults, name) for name in Sampling.__dataclass_fields__}
        return Sampling(**{**base, **more, **chosen})

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with a count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(_Model):
    """A piece of a message; we read text only."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Model):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("content is missing")
        return self

    def plain(self) -> dict[str, str]:
        """As the chat formats take it."""
        parts = self.content or ""
        content = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = _limited("max_tokens")
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description='"auto" drops the oldest turns of a conversation that is too long, instead of refusing it'
    )

    def sampling(self, defaults: Sampling, **more: Any) -> Sampling:
        if self.max_completion_tokens is not None:
            more["max_tokens"] = self.max_completion_tokens
        return super().sampling(defaults, **more)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: Text | Tokens | Annotated[list[Text] | list[Tokens], Field(min_length=1, max_length=_MOST_ANSWERS)]

    def sampling(self, defaults: Sampling, **more: Any) -> Sampling:
        return super().sampling(defaults, max_tokens=_COMPLETION_TOKENS, **more)

    def prompts(self) -> list[str | list[int]]:
        """One or more prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]
