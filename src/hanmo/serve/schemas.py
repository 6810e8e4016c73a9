"""What a client may send, in OpenAI's words.

Fields we do not know are ignored, as OpenAI's own server does. Fields we know but cannot honour (`suffix`, `best_of`)
are refused: an answer that looks as if they had been heeded would be a wrong answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hanmo.serve.sampling import LIMITS, MOST_LOGPROBS, Sampling
from hanmo.serve.text import whole_text

_MOST_ANSWERS = 16
#: What OpenAI's completions give when nobody says how much they want.
_COMPLETION_TOKENS = 16
#: Known fields that no engine here honours yet -> the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
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


class SchemaFormat(_Model):
    """A JSON schema."""

    name: Text | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(_Model):
    """What an answer has to be, for engines that can hold it to that."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise ValueError("json_schema.schema is missing")
        return self

    def schema_text(self) -> str | None:
        """The schema as JSON text, None: any answer will do."""
        if self.type == "text":
            return None
        schema = self.json_schema.schema_ if self.json_schema and self.type == "json_schema" else {"type": "object"}
        return orjson.dumps(schema).decode()


class Request(_Model):
    """What all endpoints take."""

    model: Text | None = Field(None, description="as listed by /v1/models; left out, the first of them")


class GenerationRequest(Request):
    """What both endpoints that write take."""

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
    logit_bias: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None = (
        Field(None, max_length=1024, description="token id -> what is added to its logit")
    )
    response_format: ResponseFormat | None = None
    grammar: Annotated[Text, Field(min_length=1)] | None = Field(None, description="llama.cpp's GBNF")
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
        chosen: dict[str, Any] = {name: value for name in LIMITS if (value := getattr(self, name, None)) is not None}
        if self.stop is not None:
            chosen["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.logit_bias:
            chosen["logit_bias"] = tuple((int(token), bias) for token, bias in self.logit_bias.items())
        if self.response_format is not None:
            chosen["json_schema"] = self.response_format.schema_text()
        if self.grammar is not None:
            chosen["grammar"] = self.grammar
        chosen["logprobs"] = self.alternatives
        base = {name: getattr(defaults, name) for name in Sampling.__dataclass_fields__}
        return Sampling(**{**base, **more, **chosen})

    @property
    def alternatives(self) -> int | None:
        """How many likely tokens shall be told in each place; None: not even the one that was drawn."""
        return None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with a count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(_Model):
    """A piece of a message; we read text only."""

    type: Literal["text"]
    text: Text


class CalledFunction(_Model):
    """What is called, and with what."""

    name: Text
    arguments: Text


class ToolCall(_Model):
    """A call that the assistant made."""

    id: Text | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """As chat templates take it: with the arguments as an object, where they are one."""
        try:
            arguments = orjson.loads(self.function.arguments)
        except orjson.JSONDecodeError:
            arguments = self.function.arguments
        return {"type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class ToolFunction(_Model):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: Annotated[Text, Field(min_length=1)]


class Tool(_Model):
    """A tool that the model may call."""

    type: Literal["function"]
    function: ToolFunction


class ChatMessage(_Model):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    tool_calls: list[ToolCall] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("content is missing")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant's message has tool_calls")
        return self

    def plain(self) -> dict[str, Any]:
        """As the chat formats take it."""
        parts = self.content or ""
        content = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        calls = {"tool_calls": [call.plain() for call in self.tool_calls]} if self.tool_calls else {}
        return {"role": "system" if self.role == "developer" else self.role, "content": content, **calls}


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = _limited("max_tokens")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto"] | None = Field(
        None, description="whether a model calls one is its own choice; no engine here can make it"
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description='"auto" drops the oldest turns of a conversation that is too long, instead of refusing it'
    )

    @model_validator(mode="after")
    def _asks_once(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of, in OpenAI's form."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_none=True) for tool in self.tools or ()]

    def sampling(self, defaults: Sampling, **more: Any) -> Sampling:
        if self.max_completion_tokens is not None:
            more["max_tokens"] = self.max_completion_tokens
        return super().sampling(defaults, **more)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: Text | Tokens | Annotated[list[Text] | list[Tokens], Field(min_length=1, max_length=_MOST_ANSWERS)]
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    def sampling(self, defaults: Sampling, **more: Any) -> Sampling:
        return super().sampling(defaults, max_tokens=_COMPLETION_TOKENS, **more)

    def prompts(self) -> list[str | list[int]]:
        """One or more prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]


class TokenizeRequest(Request):
    """POST /v1/tokenize: a text as it stands, or a conversation with all that the template puts around it."""

    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(Request):
    """POST /v1/detokenize."""

    tokens: Tokens


#: Texts of one request to a model that reads.
_MOST_TEXTS = 256
Texts = (
    Annotated[Text, Field(min_length=1)]
    | Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=1, max_length=_MOST_TEXTS)]
)


def listed(texts: str | list[Any]) -> list[Any]:
    """One text or several, as a list."""
    return [texts] if isinstance(texts, str) else texts


class EmbeddingRequest(Request):
    """POST /v1/embeddings."""

    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = Field(None, description="vectors are as wide as the model")
    pooling: Literal["mean", "last", "first"] | None = Field(
        None, description="of which tokens' states; left out, the mean"
    )


class FillRequest(Request):
    """POST /v1/fill-mask."""

    input: Texts
    top: int | None = Field(None, ge=1, le=100, description="tokens told for each mask; left out, 5")


class ClassifyRequest(Request):
    """POST /v1/classify: texts, or pairs of texts for a task about two."""

    input: (
        Annotated[Text, Field(min_length=1)]
        | Annotated[
            list[Annotated[Text, Field(min_length=1)]]
            | list[Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=2, max_length=2)]],
            Field(min_length=1, max_length=_MOST_TEXTS),
        ]
    )


class EntitiesRequest(Request):
    """POST /v1/entities."""

    input: Texts
