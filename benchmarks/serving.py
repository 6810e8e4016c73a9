"""What our API costs over llama.cpp's own server, and whether it stays up under load.

    python benchmarks/serving.py speed [--work FOLDER]     tokens/s and time to first token, against llama-server itself
    python benchmarks/serving.py latency [--work FOLDER]   time to first token alone, request by request
    python benchmarks/serving.py load [--seconds 120]      64 clients at once: every answer, status and the memory
    python benchmarks/serving.py requests [--count 2000]   requests made up by schemathesis from our own description

Each writes its part of benchmarks/results/serving.json. `speed` makes a Qwen3 of 0.5B random parameters as Q8_0, serves
it by `hanmo serve --engine llama-server` and by the same program with the same arguments, and asks both the same, one
after the other, in `ROUNDS` pairs that begin with either in turn; prompts differ, so that no cache answers. `latency`
does so request by request, with that model and with a tiny one, whose own time is next to nothing. `load` and
`requests` need no more than the tiny one.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from hanmo.child import machine, versions
from hanmo.files import read_json, write_json

if TYPE_CHECKING:
    from hanmo.serve.engines import Engine

RESULT = Path(__file__).parent / "results" / "serving.json"
ROUNDS = 5
#: Tokens of a prompt and of an answer, and answers of each client in a round.
PROMPT, ANSWER, ANSWERS = 32, 48, 3
#: Pairs of requests for `latency`.
PAIRS = 40
PARALLEL = 8
CONTEXT = 512


def make(folder: Path, layers: int, width: int) -> Path:
    """A Qwen3 with random weights and a byte tokenizer, as folder/model; returns the folder."""
    import torch
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from hanmo.tokenizer import build, skeleton
    from hanmo.tokenizer.chat import SPECIAL_TOKENS

    model = folder / "model"
    if (model / "config.json").is_file():
        return model
    tokenizer = skeleton()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["春天到了，花园里的花都开了。小猫在树下睡觉。" * 4], trainer)
    build(tokenizer, model)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 128),
        head_dim=128 if width >= 512 else 32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=[2, 0],
    )
    network: Any = Qwen3ForCausalLM(config)
    network.to(torch.bfloat16).save_pretrained(model)
    return model


def gguf_of(model: Path, dtype: str) -> Path:
    """The model as a .gguf file beside it."""
    from hanmo.convert.gguf import convert_gguf

    path = model.parent / f"model-{dtype}.gguf"
    if not path.is_file():
        convert_gguf(model, path, dtype)
    return path


@contextmanager
def served(*arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """`hanmo serve` as a process: its URL, and the process."""
    command = [sys.executable, "-m", "hanmo", "serve", *arguments, "--port", "0"]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stderr=log, env={**os.environ, "HANMO_API_KEY": ""})
        try:
            url, end = None, time.monotonic() + 300
            while url is None:
                log.seek(0)
                told = log.read().decode("utf-8", "replace")
                found = re.search(r"http://127\.0\.0\.1:\d+", told)
                url = found[0] if found else None
                if child.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"the server did not start: {told[-2000:]}")
                time.sleep(0.1)
            yield url, psutil.Process(child.pid)
        finally:
            child.terminate()
            child.wait(30)


# ---- speed ----


def biases(engine: Engine) -> dict[str, float]:
    """What keeps random weights from ending an answer, and from bytes that are no character: those are never shown."""

    def shown(token: int) -> bool:
        try:
            return token not in engine.stop_ids and bool(engine.piece(token).decode())
        except UnicodeDecodeError:
            return False

    return {str(token): -100.0 for token in range(engine.vocab_size) if not shown(token)}


async def _one(
    client: httpx.AsyncClient,
    url: str,
    headers: dict[str, str],
    draw: random.Random,
    bias: dict[str, float],
    longest: int = ANSWER,
) -> tuple[float, int]:
    """Stream one answer; returns seconds to the first token and how many tokens came."""
    body = {
        "prompt": [draw.randrange(3, 300) for _ in range(PROMPT)],
        "max_tokens": longest,
        "temperature": 0,
        "logit_bias": bias,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", f"{url}/v1/completions", json=body, headers=headers) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if not first and any(choice["text"] for choice in chunk["choices"]):
                first = time.perf_counter() - began
            if used := chunk.get("usage"):
                tokens = used["completion_tokens"]
    return first, tokens


async def _round(url: str, key: str, clients: int, seed: int, bias: dict[str, float]) -> dict[str, float]:
    """Tokens per second of all clients together, and the median time to the first token in milliseconds."""
    headers = {"authorization": f"Bearer {key}"}
    # A connection of its own for each answer: llama-server closes them as it likes.
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_keepalive_connections=0)) as client:

        async def ask(number: int) -> list[tuple[float, int]]:
            draw = random.Random(seed * 1000 + number)
            return [await _one(client, url, headers, draw, bias) for _ in range(ANSWERS)]

        began = time.perf_counter()
        found = [one for each in await asyncio.gather(*map(ask, range(clients))) for one in each]
        seconds = time.perf_counter() - began
    return {
        "tokens_per_second": sum(tokens for _, tokens in found) / seconds,
        "first_token_ms": 1000 * statistics.median(first for first, _ in found),
    }


def speed(work: Path, threads: int) -> dict[str, Any]:
    """See the module."""
    from hanmo.serve.engines.binary import build_llama_server, find_llama_server
    from hanmo.serve.engines.llamaserver import LlamaServerEngine

    path = gguf_of(make(work, 34, 1024), "q8_0")
    program = find_llama_server() or build_llama_server()
    options = ["--engine", "llama-server", "--parallel", str(PARALLEL), "--threads", str(threads), "--device", "cpu"]
    theirs = LlamaServerEngine(path, program, parallel=PARALLEL, device="cpu", threads=threads)
    bias = biases(theirs)
    found: dict[str, Any] = {"file": "Qwen3, 0.5B random parameters, Q8_0", "threads": threads}
    try:
        with served(str(path), *options) as (url, _):
            for clients in (1, 8):
                pairs: list[dict[str, dict[str, float]]] = []
                for number in range(-1, ROUNDS):
                    pair = {}
                    # Who is first changes from round to round.
                    for which in ("ours", "llama_server") if number % 2 else ("llama_server", "ours"):
                        where = (url, "none") if which == "ours" else theirs.process.address
                        # Prompts of its own for each, so that neither finds one in a cache.
                        seed = (2 * number + (which == "ours")) * 10 + clients
                        pair[which] = asyncio.run(_round(*where, clients, seed, bias))
                    if number >= 0:  # the first warms up
                        pairs.append(pair)
                        print(clients, pair, flush=True)
                shares = [
                    pair["ours"]["tokens_per_second"] / pair["llama_server"]["tokens_per_second"] for pair in pairs
                ]
                later = [pair["ours"]["first_token_ms"] - pair["llama_server"]["first_token_ms"] for pair in pairs]
                found[f"clients_{clients}"] = {
                    "share_of_llama_server": statistics.median(shares),
                    "first_token_later_ms": statistics.median(later),
                    "pairs": pairs,
                }
    finally:
        theirs.close()
    return found


# ---- latency ----


async def _paired(url: str, theirs: tuple[str, str], bias: dict[str, float]) -> dict[str, float]:
    """Medians of the milliseconds to the first token, and of what we are later by, over `PAIRS` pairs."""
    found: dict[str, list[float]] = {"ours": [], "llama_server": []}
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        for number in range(-3, PAIRS):
            for which in ("ours", "llama_server") if number % 2 else ("llama_server", "ours"):
                where, key = (url, "none") if which == "ours" else theirs
                draw = random.Random(2 * number + (which == "ours"))
                first, _ = await _one(client, where, {"authorization": f"Bearer {key}"}, draw, bias, longest=2)
                if number >= 0:
                    found[which].append(1000 * first)
    later = [a - b for a, b in zip(*found.values(), strict=True)]
    return {**{name: statistics.median(values) for name, values in found.items()}, "later": statistics.median(later)}


def latency(work: Path, threads: int) -> dict[str, Any]:
    """See the module."""
    from hanmo.serve.engines.binary import build_llama_server, find_llama_server
    from hanmo.serve.engines.llamaserver import LlamaServerEngine

    program = find_llama_server() or build_llama_server()
    found: dict[str, Any] = {"threads": threads, "pairs": PAIRS, "milliseconds": {}}
    for name, path in (
        ("0.5B", gguf_of(make(work, 34, 1024), "q8_0")),
        ("tiny", gguf_of(make(work / "tiny", 2, 64), "f16")),
    ):
        options = ["--engine", "llama-server", "--parallel", "2", "--threads", str(threads), "--device", "cpu"]
        theirs = LlamaServerEngine(path, program, parallel=2, device="cpu", threads=threads)
        try:
            with served(str(path), *options) as (url, _):
                found["milliseconds"][name] = asyncio.run(_paired(url, theirs.process.address, biases(theirs)))
        finally:
            theirs.close()
    return found


# ---- load ----


def _memory(process: psutil.Process) -> int:
    """Resident bytes of a process and its children."""
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])


def load(work: Path, seconds: float, clients: int = 64) -> dict[str, Any]:
    """Clients that ask without pause; some stream, some leave in the middle."""
    path = gguf_of(make(work / "tiny", 2, 64), "f16")
    statuses: collections.Counter[str] = collections.Counter()
    memory: list[int] = []

    async def client_of(url: str, number: int, until: float) -> None:
        draw = random.Random(number)
        async with httpx.AsyncClient(timeout=60) as client:
            while time.monotonic() < until:
                body: dict[str, Any] = {"prompt": "小猫" * draw.randrange(1, 60), "max_tokens": draw.randrange(1, 200)}
                try:
                    if draw.random() < 0.5:
                        answer = await client.post(f"{url}/v1/completions", json=body)
                        statuses[str(answer.status_code)] += 1
                        if answer.status_code in (429, 503) and not answer.headers.get("retry-after"):
                            statuses["refused without retry-after"] += 1
                        if answer.status_code in (429, 503):
                            await asyncio.sleep(draw.random())
                        continue
                    async with client.stream("POST", f"{url}/v1/completions", json={**body, "stream": True}) as answer:
                        left, whole = draw.random() < 0.3, answer.status_code != 200
                        async for line in answer.aiter_lines():
                            if '"error"' in line and answer.status_code == 200:
                                statuses[f"in a stream: {line[:80]}"] += 1
                            whole = whole or line == "data: [DONE]"
                            if left:
                                break
                        kind = (
                            "left"
                            if left and answer.status_code == 200
                            else str(answer.status_code)
                            if whole
                            else "broken stream"
                        )
                        statuses[kind] += 1
                    if answer.status_code in (429, 503):
                        await asyncio.sleep(draw.random())
                except httpx.HTTPError as error:
                    statuses[type(error).__name__] += 1

    async def all_of(url: str, process: psutil.Process) -> None:
        until = time.monotonic() + seconds

        async def watch() -> None:
            while time.monotonic() < until:
                memory.append(_memory(process))
                await asyncio.sleep(1)

        await asyncio.gather(watch(), *(client_of(url, number, until) for number in range(clients)))

    engine = ["--engine", "llama-server", "--parallel", "8", "--threads", "2", "--device", "cpu"]
    with served(str(path), *engine) as (url, process):
        asyncio.run(all_of(url, process))
        end = time.monotonic() + 10
        while (health := httpx.get(f"{url}/health").json())["active"] and time.monotonic() < end:
            time.sleep(0.2)
    tenth = max(1, len(memory) // 10)
    return {
        "seconds": seconds,
        "clients": clients,
        "answers": dict(statuses.most_common()),
        "megabytes_after_a_tenth": memory[tenth] / 1e6,
        "megabytes_at_the_end": statistics.median(memory[-tenth:]) / 1e6,
        "health_at_the_end": health,
    }


# ---- requests ----


def requests(work: Path, count: int) -> dict[str, Any]:
    """Requests that schemathesis makes up; what counts is that none is answered by 5xx and that the server lives."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    model = make(work / "tiny", 2, 64)
    path = gguf_of(model, "f16")
    statuses: collections.Counter[int] = collections.Counter()
    bad: list[str] = []
    names = ["gguf", "folder"]
    defaults = ["--max-tokens", "16", "--context", "128", "--waiting", "1000", "--device", "cpu", "--threads", "1"]
    with served(f"{names[0]}={path}", f"{names[1]}={model}", *defaults) as (url, process):
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[attr-defined]
        for operation in operations:
            strategy = operation.as_strategy()

            @settings(
                max_examples=max(1, count // len(operations)),
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),  # type: ignore[arg-type]
                database=None,
            )
            @given(case=strategy)
            def ask(case: Any) -> None:
                # Made-up names of models are all unknown: most requests shall come further than that.
                if isinstance(case.body, dict) and sum(statuses.values()) % 8:
                    case.body["model"] = names[sum(statuses.values()) % 2]
                answer = case.call(timeout=60)
                statuses[answer.status_code] += 1
                if answer.status_code >= 500:
                    bad.append(f"{case.method} {case.path}: {answer.status_code} {answer.text[:300]}")

            ask()
            print(operation.label, dict(statuses), flush=True)
        alive = httpx.get(f"{url}/health").status_code == 200 and process.is_running()
    return {"requests": sum(statuses.values()), "statuses": dict(sorted(statuses.items())), "bad": bad, "alive": alive}


def main() -> None:
    """Run one part and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "latency", "load", "requests"])
    parser.add_argument("--work", type=Path, help="where models are made and kept; else a temporary folder")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of llama-server, for speed and latency"
    )
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--count", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if given.part == "speed":
            found = speed(work, given.threads)
        elif given.part == "latency":
            found = latency(work, given.threads)
        elif given.part == "load":
            found = load(work, given.seconds)
        else:
            found = requests(work, given.count)
    before = read_json(RESULT) if RESULT.is_file() else {}
    write_json(RESULT, {**before, given.part: {"machine": machine(), "versions": versions(), **found}})
    print(json.dumps(found, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
