"""What an engine is: a model that answers prompts piece by piece.

Most of them (`TokenEngine`) only have to encode text and to yield ids until their context is full; ends, stop strings,
whole characters and counts are done here, once, so that the terminal, the file writer and the server cannot disagree.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hanmo.errors import HanmoError
from hanmo.serve.prompt import too_long
from hanmo.serve.sampler import ScoredToken
from hanmo.serve.sampling import Sampling, SamplingError
from hanmo.serve.text import StopStrings
from hanmo.tokenizer.chat import Message

Finish = Literal["stop", "length", "cancelled"]

#: A model may allow far more than a machine can hold: contexts above this must be asked for.
DEFAULT_CONTEXT = 8192


@dataclass(frozen=True)
class Scored:
    """A token of an answer and how likely it was.

    Attributes:
        piece: its bytes (of a special token, its name's).
        logprob: in nats.
        top: the likeliest tokens in its place, as (piece, log probability).
    """

    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True)
class Delta:
    """A step of an answer: text that may be shown now, tokens drawn so far, and in the last step why it ended.

    `scored` has the tokens of that text, where `Sampling.logprobs` asks for them.
    """

    text: str
    tokens: int
    finish: Finish | None = None
    scored: tuple[Scored, ...] = ()


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: Finish


class Detokenizer(Protocol):
    """Turns one sequence's ids into text."""

    def push(self, token: int) -> str:
        """Take an id and return the characters that are now complete (maybe none)."""
        ...


class EngineDown(HanmoError):
    """The engine is not there at the moment (its process ended, and is being started again)."""


class Unable(HanmoError):
    """The model or its engine cannot do what is asked."""


class Engine(ABC):
    """A loaded model.

    Encoding may be done from any thread, and `parallel` answers may be generated at once, each in a thread of its own.

    Attributes:
        name: what the model is called towards users.
        parallel: so many answers it computes at once.
        context: tokens of prompt and answer together.
        vocab_size: ids below this are tokens.
        stop_ids: ids that end an answer.
        can_chat: whether there is a chat template.
        can_bind: whether it holds an answer to a grammar or a JSON schema.
        can_beam: whether it has a beam search.
        backward: it writes from right to left, what stands before a prompt: ids come from the last to the first, of
            prompts and of answers, and an answer's text is there when it has ended.
    """

    name: str
    parallel: int = 1
    context: int
    vocab_size: int
    stop_ids: frozenset[int]
    can_chat: bool
    can_bind: bool = False
    can_beam: bool = False
    backward: bool = False

    @property
    def ready(self) -> bool:
        """Whether it can answer now; an engine that is not raises `EngineDown`."""
        return True

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text to be continued, behind the token that begins a document where the model has learnt one.

        Never empty.
        """

    @abstractmethod
    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        """Ids of a conversation up to where the assistant's answer begins.

        Args:
            messages: with "role" and "content"; an assistant's may have "tool_calls", in OpenAI's form.
            tools: what may be called, in OpenAI's form; the template tells the model of them.

        Raises:
            HanmoError: a bad message, or a model without a chat template.
        """

    @abstractmethod
    def piece(self, token: int) -> bytes:
        """The bytes of a token; of a special token, its name's."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some ids; special tokens are none."""

    def embed(self, texts: Sequence[str], pooling: str) -> tuple[list[list[float]], int]:
        """A vector for each text, of length 1, and how many tokens all of them have.

        Args:
            texts: each within the context.
            pooling: "mean", "last" or "first": of which tokens' last hidden states.

        Raises:
            Unable: not with this engine.
        """
        raise Unable(f"{self.name}: this engine gives no embeddings; serve the folder by --engine transformers")

    def close(self) -> None:  # noqa: B027 (nothing to free is a fine answer)
        """Free the model's memory."""

    @abstractmethod
    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        cancel: threading.Event | None = None,
        index: int = 0,
    ) -> Iterator[Delta]:
        """Answer a prompt, piece by piece; the last piece, and only it, says why the answer ended.

        Args:
            prompt: ids, fewer than the context holds.
            sampling: how to draw and where to end.
            cancel: set it (from any thread) to end the answer after the token being computed.
            index: which of several answers to the same prompt.

        Raises:
            PromptTooLong: no room for an answer.
            EngineDown: the engine is not there.
        """

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        cancel: threading.Event | None = None,
        first: int = 0,
    ) -> list[Completion]:
        """Answer several prompts; engines that can compute them together do.

        The i-th prompt draws from the random stream `first + i` of the seed.
        """
        answers = []
        for index, prompt in enumerate(prompts, first):
            pieces = list(self.stream(prompt, sampling, cancel=cancel, index=index))
            last = pieces[-1]
            assert last.finish is not None
            text = "".join(piece.text for piece in pieces)
            answers.append(Completion(text, len(prompt), last.tokens, last.finish))
        return answers

    def check(self, sampling: Sampling) -> None:
        """Raise `SamplingError` for what this engine cannot do."""
        if sampling.beams > 1 and not self.can_beam:
            raise SamplingError(
                "beams", f"{self.name}'s engine has no beam search; transformers has (folders, without pinyin)"
            )

    def check_room(self, prompt: Sequence[int]) -> None:
        """Raise `PromptTooLong` when not even one token of an answer fits behind `prompt`."""
        if len(prompt) >= self.context:
            raise too_long(len(prompt), self.context)


class TokenEngine(Engine):
    """An engine that yields ids; `stream` holds its lock, which lets `parallel` of them in, while it runs."""

    def __init__(self) -> None:
        self.lock: threading.Lock | threading.BoundedSemaphore = threading.Lock()

    @abstractmethod
    def detokenizer(self) -> Detokenizer:
        """A fresh detokenizer for one answer."""

    @abstractmethod
    def tokens(
        self, prompt: Sequence[int], sampling: Sampling, cancel: threading.Event, index: int = 0
    ) -> Iterator[int]:
        """Yield drawn ids, without regard to stops, until the context is full, `cancel` is set or the caller leaves."""

    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        cancel: threading.Event | None = None,
        index: int = 0,
    ) -> Iterator[Delta]:
        self.check_room(prompt)
        cancel = cancel or threading.Event()
        answer = self.answer(sampling, len(prompt))
        text = ""
        with self.lock:
            source = self.tokens(prompt, sampling, cancel, index)
            try:
                for token in source:
                    if cancel.is_set():
                        break
                    text = answer.push(token)
                    if answer.finish is not None:
                        break
                    if text:
                        yield Delta(text, answer.tokens, None, answer.scored(len(text)))
            finally:
                source.close()  # type: ignore[attr-defined]
        if answer.finish is None:
            text = answer.end("cancelled" if cancel.is_set() else "length")
        yield Delta(text, answer.tokens, answer.finish, answer.scored(len(text)))

    def decode(self, tokens: Sequence[int]) -> str:
        characters = self.detokenizer()
        return "".join(map(characters.push, tokens))

    def answer(self, sampling: Sampling, prompt_tokens: int) -> AnswerText:
        """What collects the text of an answer."""
        return (LeftwardText if self.backward else AnswerText)(self, sampling, prompt_tokens)


class AnswerText:
    """The text of one answer as its tokens come in: where it ends, and what of it may be shown.

    `tokens` counts what was drawn, the one that ended the answer included; `finish` is set once it has ended.
    """

    def __init__(self, engine: TokenEngine, sampling: Sampling, prompt_tokens: int) -> None:
        self._stop_ids = engine.stop_ids
        self._spell = engine.piece
        self._characters = engine.detokenizer()
        self._stops = StopStrings(sampling.stop)
        room = engine.context - prompt_tokens
        self._most = room if sampling.max_tokens is None else min(room, sampling.max_tokens)
        self.tokens = 0
        self.finish: Finish | None = None
        #: Scored tokens whose text was not shown yet, with the length of all text up to them; None: it is not known
        #: before the character is complete.
        self._unshown: list[tuple[Scored, int | None]] = []
        self._length = self._shown = 0

    def push(self, token: int) -> str:
        """Take a drawn id and return the text that may be shown now."""
        self.tokens += 1
        if token in self._stop_ids:
            return self.end("stop")
        characters = self._characters.push(token)
        if isinstance(token, ScoredToken):
            self._score(token, len(characters))
        text = self._stops.push(characters)
        if self._stops.found is not None:
            self.finish = "stop"
        elif self.tokens >= self._most:
            text += self.end("length")
        return text

    def end(self, finish: Finish) -> str:
        """End the answer and return what was held back."""
        self.finish = finish
        return self._stops.flush()

    def _score(self, token: ScoredToken, characters: int) -> None:
        top = tuple((self._spell(index), logprob) for index, logprob in token.top)
        self._unshown.append((Scored(self._spell(token), token.logprob, top), None))
        if characters:
            self._length += characters
            self._unshown = [(one, self._length if end is None else end) for one, end in self._unshown]

    def scored(self, shown: int) -> tuple[Scored, ...]:
        """The tokens of the next `shown` characters; none of a stop string's."""
        self._shown += shown
        if self.finish is not None and self._stops.found is None:
            found, self._unshown = self._unshown, []
            return tuple(one for one, _ in found)
        number = sum(end is not None and end <= self._shown for _, end in self._unshown)
        found, self._unshown = self._unshown[:number], self._unshown[number:]
        return tuple(one for one, _ in found)


class LeftwardText(AnswerText):
    """The same for an answer whose tokens come from its last to its first: nothing may be shown before it has ended.

    It ends behind a stop string, that is with the text to the right of it.
    """

    def __init__(self, engine: TokenEngine, sampling: Sampling, prompt_tokens: int) -> None:
        super().__init__(engine, sampling, prompt_tokens)
        self._engine, self._stop = engine, sampling.stop
        self._drawn: list[int] = []

    def push(self, token: int) -> str:
        self.tokens += 1
        if token in self._stop_ids:
            return self.end("stop")
        self._drawn.append(token)
        if self._stop:
            text = self._text()
            behind = [at + len(stop) for stop in self._stop if (at := text.rfind(stop)) >= 0]
            if behind:
                self.finish = "stop"
                return text[max(behind) :]
        return self.end("length") if self.tokens >= self._most else ""

    def end(self, finish: Finish) -> str:
        self.finish = finish
        return self._text()

    def _text(self) -> str:
        characters = self._engine.detokenizer()
        return "".join(map(characters.push, reversed(self._drawn)))
