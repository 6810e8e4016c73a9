"""The engine for .gguf files that answers several at once: llama.cpp's own `llama-server` as a child process.

It batches what its slots compute at the same moment, and its crash is not ours. Prompts go to it as ids that we made (a
conversation is encoded piece by piece, as in training), and text comes back. The draw is llama.cpp's: the settings mean
the same as elsewhere and a seed repeats an answer, but not the answer that another engine gives to that seed; penalties
also count the prompt. Stop strings are ours, as everywhere.

It does not tell of tokens that end within a character, so that log probabilities would have holes: answers with those
are computed in this process, one at a time, from the same file.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from hanmo.errors import HanmoError
from hanmo.serve.engines.asking import Refused, complaint_about, events
from hanmo.serve.engines.base import Delta, Engine, Finish
from hanmo.serve.engines.gguf import Gguf, PieceStream, threads_of
from hanmo.serve.engines.llamacpp import LlamaCppEngine
from hanmo.serve.engines.process import ServerProcess
from hanmo.serve.sampling import Sampling, SamplingError, seed_of
from hanmo.serve.text import REPLACEMENT, StopStrings
from hanmo.tokenizer.chat import Message

_MOST_PADDING = 1024
#: As in `sampler.py`.
_ORDER = ["penalties", "temperature", "top_k", "top_p", "min_p"]


class LlamaServerEngine(Engine):
    """A .gguf file behind `llama-server`.

    Args:
        path: the file.
        program: the server, see `binary.py`.
        parallel: answers computed at once; each has `context` tokens of its own.
        context, device, threads: see `open_engine`.

    Raises:
        HanmoError: the file cannot be loaded, or the server does not start.
    """

    def __init__(
        self,
        path: Path,
        program: Path,
        *,
        parallel: int,
        context: int | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        self._file = file = Gguf(path, context, only_words=True)
        self.name, self.context, self.vocab_size = file.name, file.context, file.vocab_size
        self.stop_ids, self.can_chat = file.stop_ids, file.can_chat
        self.parallel, self.can_bind = parallel, True
        self._scoring: LlamaCppEngine | None = None
        self._open_scoring = functools.partial(LlamaCppEngine, path, context=context, device=device, threads=threads)
        self._scoring_lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(parallel)

        count = str(threads_of(threads))
        arguments = [
            *("--model", str(path), "--ctx-size", str(self.context * parallel), "--parallel", str(parallel)),
            *("--threads", count, "--threads-batch", count, "--gpu-layers", "0" if device == "cpu" else "999"),
            *("--host", "127.0.0.1", "--no-ui", "--no-slots", "--offline", "--log-verbosity", "2"),
            *("--cache-ram", "0"),
        ]
        if file.exact:
            arguments += ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
        # Rows that only pad the matrix are no tokens. A command line has no room for more than some.
        self._padding = range(file.vocab_size, min(file.vocabulary.size, file.vocab_size + _MOST_PADDING))
        for row in self._padding:
            arguments += ["--logit-bias", f"{row}-inf"]
        try:
            self.process = ServerProcess(
                f"{self.name}'s llama-server",
                lambda port: [str(program), *arguments, "--port", str(port)],
                key_variable="LLAMA_API_KEY",
            )
        except HanmoError as error:
            file.close()
            raise HanmoError(f"{path}: {error}; a smaller --context or --parallel needs less memory") from None

    @property
    def ready(self) -> bool:
        return self.process.ready

    def encode(self, text: str) -> list[int]:
        return self._file.encode(text)

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        return self._file.encode_chat(messages, tools)

    def piece(self, token: int) -> bytes:
        return self._file.vocabulary.spelling(token)

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
        if sampling.logprobs is not None:
            yield from self._scored(prompt, sampling, cancel, index)
            return
        stops = StopStrings(sampling.stop)
        room = self.context - len(prompt)
        most = room if sampling.max_tokens is None else min(room, sampling.max_tokens)
        text, tokens, finish = "", 0, None
        with self._slots:
            steps = self._events(_body(prompt, sampling, most, index, self._padding), sampling, cancel)
            try:
                for event in steps:
                    tokens = event["tokens_predicted"]
                    # Bytes that made no character, and what a model learnt from damaged text.
                    text = stops.push(event["content"].replace(REPLACEMENT, ""))
                    if stops.found is not None:
                        finish = "stop"
                    elif event["stop"]:
                        finish = _FINISH.get(event["stop_type"], "length")
                        text += stops.flush()
                    if finish is not None:
                        break
                    if text:
                        yield Delta(text, tokens)
            finally:
                steps.close()
        if finish is None:
            text, finish = stops.flush(), "cancelled"
        yield Delta(text, tokens, finish)

    def _scored(
        self, prompt: Sequence[int], sampling: Sampling, cancel: threading.Event, index: int
    ) -> Iterator[Delta]:
        if sampling.bound:
            raise SamplingError("logprobs", "cannot be told of an answer that a grammar or a schema holds")
        with self._scoring_lock:
            if self._scoring is None:
                self._scoring = self._open_scoring()
        yield from self._scoring.stream(prompt, sampling, cancel=cancel, index=index)

    def _events(self, body: dict[str, Any], sampling: Sampling, cancel: threading.Event) -> Generator[dict[str, Any]]:
        """The objects of llama-server's stream, up to the one that has "stop" unless it is cancelled."""
        with contextlib.closing(self.process.ask("/completion", body, cancel)) as answer:
            try:
                for kind, value in events(answer):
                    event = orjson.loads(value)
                    if "error" in event or kind == b"error":
                        raise HanmoError(f"llama-server gave up: {orjson.dumps(event).decode()[:300]}")
                    yield event
            except Refused as error:
                raise complaint_about(sampling, error, "llama.cpp") from None

    def decode(self, tokens: Sequence[int]) -> str:
        characters = PieceStream(self._file.vocabulary)
        return "".join(map(characters.push, tokens))

    def close(self) -> None:
        self.process.close()
        if self._scoring is not None:
            self._scoring.close()
        self._file.close()


_FINISH: dict[str, Finish] = {"eos": "stop", "word": "stop", "limit": "length"}


def _body(prompt: Sequence[int], sampling: Sampling, most: int, index: int, padding: range) -> dict[str, Any]:
    """A request of llama-server's own interface; ids in `padding` are no tokens."""
    seed = -1 if sampling.seed is None else seed_of(sampling.seed, index) % 0xFFFFFFFF
    # Biases of its own would take the place of those that it was started with.
    biases: dict[str, Any] = {}
    if sampling.logit_bias:
        biases = {"logit_bias": [*([row, False] for row in padding), *map(list, sampling.logit_bias)]}
    held = {"json_schema": sampling.json_schema, "grammar": sampling.grammar}
    held = {name: text for name, text in held.items() if text is not None}
    if "json_schema" in held:
        held["json_schema"] = orjson.loads(held["json_schema"])
    return {
        **biases,
        **held,
        "prompt": prompt,
        "stream": True,
        "n_predict": most,
        # Reading a prompt in other portions rounds differently; who asks for repeatable answers gets a clean start.
        "cache_prompt": not sampling.repeatable,
        "samplers": ["penalties", "top_k"] if sampling.greedy else _ORDER,
        "temperature": sampling.temperature,
        "top_k": 1 if sampling.greedy else sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": len(prompt) + most,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": seed,
    }
