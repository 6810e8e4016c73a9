"""The engine for many users on a GPU: vLLM as a child process, or one that is running already, asked over HTTP.

vLLM pins its own torch and transformers, so it lives in an environment of its own. Prompts go to it as ids that we
made, and the ids that it draws come back: text, stop strings and log probabilities are made of them here, as
everywhere. The draw is vLLM's: the settings mean the same as elsewhere and a seed repeats an answer, but not the answer
of another engine.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from transformers import AutoConfig

from hanmo.errors import HanmoError
from hanmo.models.families import must_write
from hanmo.models.folder import resolve, title
from hanmo.serve.engines.asking import Refused, Server, complaint_about, events
from hanmo.serve.engines.attached import AttachedServer
from hanmo.serve.engines.base import DEFAULT_CONTEXT
from hanmo.serve.engines.process import ServerProcess
from hanmo.serve.engines.words import WordedEngine, Words
from hanmo.serve.sampler import ScoredToken
from hanmo.serve.sampling import MOST_LOGPROBS, Sampling, seed_of

#: Which vLLM: the URL of a running one, a `vllm` program, or the Python of its environment; else the PATH is searched.
VARIABLE = "HANMO_VLLM"
#: The key of a running one; more arguments for one that we start.
KEY_VARIABLE, ARGUMENTS_VARIABLE = "HANMO_VLLM_KEY", "HANMO_VLLM_ARGS"
#: Seconds to be ready: a large model is read, compiled and captured.
_PATIENCE = 1800.0
#: Rows of the embedding that only pad it get the lowest bias that vLLM takes; of so many rows at most.
_MOST_PADDING, _NEVER = 1024, -100.0
#: What another model's tokenizer would split otherwise.
_SAMPLE = "春眠不觉晓，处处闻啼鸟。Spring sleep, 2024年3月5日 def f(x): return x ** 2"


class VllmEngine(WordedEngine):
    """A model folder behind vLLM.

    Args:
        folder: the model; of a running vLLM's, a copy of its tokenizer and configuration is enough.
        parallel: answers computed at once.
        context, device, threads: see `open_engine`.

    Raises:
        HanmoError: there is no vLLM, it does not start, or a running one serves another model.
    """

    can_bind = True

    def __init__(
        self,
        folder: Path,
        *,
        parallel: int,
        context: int | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        super().__init__()
        folder = resolve(folder)
        must_write(folder)
        if device not in ("auto", "cpu", "cuda"):
            raise HanmoError(
                f"device {device!r}: vLLM takes the devices that CUDA_VISIBLE_DEVICES names; leave it auto"
            )
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        self.name, self.parallel = title(folder), parallel
        self.lock = threading.BoundedSemaphore(parallel)
        text_config = config.get_text_config()
        own = getattr(text_config, "max_position_embeddings", None) or DEFAULT_CONTEXT
        self.context = min(own, context or DEFAULT_CONTEXT)
        self._words = words = Words(folder, config)
        if words.backward or config.model_type.startswith(("hanmo_", "linglong")):
            raise HanmoError(f"{folder}: vLLM does not know this class of ours; --engine transformers runs it")
        self.vocab_size, self.stop_ids, self.can_chat = words.vocab_size, words.stop_ids, words.can_chat
        padding = range(self.vocab_size, min(text_config.vocab_size, self.vocab_size + _MOST_PADDING))
        self._bias = {str(row): _NEVER for row in padding}
        self.process, self._model = self._open(folder, device, threads)

    def _open(self, folder: Path, device: str, threads: int | None) -> tuple[Server, str]:
        """The server, and what it calls the model."""
        named = os.environ.get(VARIABLE, "")
        if "://" in named:
            server = AttachedServer(f"{self.name}'s vLLM", named, os.environ.get(KEY_VARIABLE, ""))
            try:
                return server, self._find_model(server, folder)
            except BaseException:
                server.close()
                raise
        arguments = [
            *(f"--max-model-len={self.context}", f"--max-num-seqs={self.parallel}"),
            *(f"--served-model-name={self.name}", f"--max-logprobs={MOST_LOGPROBS}", "--host=127.0.0.1"),
            # What a request leaves out is decided by us, not by the folder.
            *("--generation-config=vllm", "--disable-uvicorn-access-log"),
            # A small model that may write white space anywhere in its JSON writes nothing else.
            '--structured-outputs-config={"backend":"xgrammar","disable_any_whitespace":true}',
            # As our other engines compute on a CPU.
            *(["--dtype=float32"] if device == "cpu" else []),
            *shlex.split(os.environ.get(ARGUMENTS_VARIABLE, "")),
        ]
        program = _program(named)
        environment = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        try:
            started = ServerProcess(
                f"{self.name}'s vLLM",
                lambda port: [*program, str(folder), *arguments, f"--port={port}"],
                key_variable="VLLM_API_KEY",
                environment=environment,
                patience=_PATIENCE,
            )
        except HanmoError as error:
            raise HanmoError(f"{folder}: {error}; {ARGUMENTS_VARIABLE} has more arguments for it") from None
        return started, self.name

    def _find_model(self, server: Server, folder: Path) -> str:
        """What a running server calls the folder's model; the context becomes its own where that is less."""
        try:
            models = orjson.loads(server.get("/v1/models"))["data"]
            here = [one for one in models if Path(str(one.get("root", ""))) == folder.absolute()]
            here = here or [one for one in models if one["id"] == self.name] or (models if len(models) == 1 else [])
            if not here:
                names = ", ".join(one["id"] for one in models)
                raise HanmoError(f"{server.name}: serves {names}, none of them called '{self.name}'; use NAME=PATH")
            asked = {"model": here[0]["id"], "prompt": _SAMPLE, "add_special_tokens": False}
            ids = orjson.loads(b"".join(server.ask("/tokenize", asked, threading.Event())))["tokens"]
        except (ValueError, KeyError, TypeError, OSError):
            raise HanmoError(f"{server.name}: what answers at {server.address[0]} is no vLLM") from None
        if ids != self._words.tokenizer.backend_tokenizer.encode(_SAMPLE, add_special_tokens=False).ids:
            raise HanmoError(f"{server.name}: serves '{here[0]['id']}', whose tokenizer is not that of {folder}")
        self.context = min(self.context, here[0].get("max_model_len") or self.context)
        return here[0]["id"]

    @property
    def ready(self) -> bool:
        return self.process.ready

    def tokens(
        self, prompt: Sequence[int], sampling: Sampling, cancel: threading.Event, index: int = 0
    ) -> Iterator[int]:
        body = self._body(prompt, sampling, index)
        with contextlib.closing(self.process.ask("/v1/completions", body, cancel)) as answer:
            try:
                for _, value in events(answer):
                    if value.strip() == b"[DONE]":
                        return
                    yield from self._drawn(orjson.loads(value), sampling)
            except Refused as error:
                raise complaint_about(sampling, error, "vLLM") from None

    def _drawn(self, event: dict[str, Any], sampling: Sampling) -> Iterator[int]:
        """The tokens of an object of vLLM's stream."""
        if "error" in event:
            error = event["error"]
            raise Refused(self.process.name, error.get("code", 500), " ".join(str(error.get("message")).split())[:500])
        for choice in event.get("choices", ()):
            ids = choice.get("token_ids")
            if ids is None:
                raise HanmoError(f"{self.process.name} does not tell the ids that it draws; vLLM 0.11 or newer does")
            yield from ids if sampling.logprobs is None else _scored(ids, choice["logprobs"], sampling.logprobs)
            # Where its own token of the end is none of the folder's.
            if choice.get("finish_reason") == "stop" and not (ids and ids[-1] in self.stop_ids):
                yield from sorted(self.stop_ids)[:1]

    def _body(self, prompt: Sequence[int], sampling: Sampling, index: int) -> dict[str, Any]:
        room = self.context - len(prompt)
        held: dict[str, Any] = {}
        if sampling.json_schema is not None:
            held["structured_outputs"] = {"json": orjson.loads(sampling.json_schema)}
        elif sampling.grammar is not None:
            held["structured_outputs"] = {"grammar": sampling.grammar}
        if sampling.logprobs is not None:
            held |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
        if sampling.seed is not None:
            held["seed"] = seed_of(sampling.seed, index) % 2**63
        bias = {**self._bias, **{str(token): value for token, value in sampling.logit_bias}}
        if bias:
            held["logit_bias"] = bias
        return {
            **held,
            "model": self._model,
            "prompt": list(prompt),
            "stream": True,
            "return_token_ids": True,
            "max_tokens": room if sampling.max_tokens is None else min(room, sampling.max_tokens),
            "stop_token_ids": sorted(self.stop_ids),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p or 1e-9,  # it takes no 0, which means the likeliest alone
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
        }

    def close(self) -> None:
        self.process.close()


def _program(named: str) -> list[str]:
    """The command that serves a model, up to its path.

    Raises:
        HanmoError: there is none.
    """
    found = shutil.which(named or "vllm")
    if found is None:
        what = f"{VARIABLE}={named}: not a program" if named else f"vLLM is not there, and {VARIABLE} is not set"
        raise HanmoError(
            f"{what}; name the URL of a running one, its `vllm` program, or the Python of the environment that it is in"
        )
    # `vllm serve` asks for a package of that name, which the builds for CPUs are not.
    if Path(found).name.startswith("python"):
        return [found, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    return [found, "serve"]


def _scored(ids: Sequence[int], told: dict[str, Any], most: int) -> Iterator[ScoredToken]:
    """`ids` with their log probabilities, of which vLLM tells with ids in the form "token_id:7"."""
    for token, logprob, top in zip(ids, told["token_logprobs"], told["top_logprobs"] or [{}] * len(ids), strict=True):
        scored = ScoredToken(token)
        scored.logprob = logprob
        best = sorted((top or {}).items(), key=lambda item: -item[1])[:most]
        scored.top = [(int(name.rpartition(":")[2]), value) for name, value in best]
        yield scored
