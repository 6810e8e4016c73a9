"""One GGUF file on trial: what it costs, how well it predicts held-out text, and how far it is from the model.

The model itself, in float32, leaves its log-probabilities on disk (`Reference`); each file is then measured in a
process of its own, so that its memory is its own.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.evaluate.items import ExamItem

#: Most bytes of log-probabilities on disk: with a large vocabulary less text is compared.
_DISK = 1_000_000_000
#: Tokens of the prompt and of the answer whose speed is measured, and how often.
_PROMPT, _ANSWER, _TIMES = 64, 64, 3


@dataclass(frozen=True)
class Reference:
    """Held-out text as rows of ids, and what the model itself says to it.

    Attributes:
        rows: int64 [ids] each; the tokens from `starts` on are scored, each once.
        size: UTF-8 bytes of the text.
        path: float32 [scored tokens, vocabulary], natural logarithms, as an array file.
        vocabulary: ids that a tokenizer has; rows of the embedding beyond them are left out.
    """

    rows: list[np.ndarray]
    starts: list[int]
    size: int
    path: Path
    vocabulary: int


def reference(model_dir: Path, texts: Sequence[str], folder: Path, threads: int, context: int) -> Reference:
    """Let the model, in float32, read `texts` and leave its log-probabilities in `folder`."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    from hanmo.evaluate.bpb import document_end
    from hanmo.evaluate.likelihood import document_rows
    from hanmo.tokenizer import encode_text, load

    if threads:
        torch.set_num_threads(threads)
    tokenizer = load(model_dir)
    transformers.utils.logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True).eval()
    vocabulary, end = len(tokenizer), document_end(tokenizer)
    context = min(context, getattr(model.config, "max_position_embeddings", None) or context)
    rows: list[np.ndarray] = []
    starts: list[int] = []
    size = scored = 0
    for owner, text in enumerate(texts):
        cut = document_rows(encode_text(tokenizer, text), context, end, owner)
        many = sum(len(row.ids) - row.start for row in cut)
        if rows and (scored + many) * vocabulary * 4 > _DISK:
            break
        rows += [row.ids for row in cut]
        starts += [row.start for row in cut]
        size, scored = size + len(text.encode()), scored + many
    path = folder / "reference.npy"
    kept = np.lib.format.open_memmap(path, "w+", np.float32, (scored, vocabulary))
    at = 0
    with torch.inference_mode():
        for ids, start in zip(rows, starts, strict=True):
            logits = model(input_ids=torch.from_numpy(ids[None, :-1])).logits[0, start - 1 :, :vocabulary]
            kept[at : at + len(logits)] = logits.log_softmax(-1).numpy()
            at += len(logits)
    kept.flush()
    return Reference(rows, starts, size, path, vocabulary)


def try_reference(model: Reference) -> dict[str, float]:
    """Bits per byte of the model itself."""
    said = np.load(model.path, mmap_mode="r")
    targets = np.concatenate([ids[start:] for ids, start in zip(model.rows, model.starts, strict=True)])
    nats = -float(said[np.arange(len(targets)), targets].sum(dtype=np.float64))
    return {"bits_per_byte": nats / math.log(2) / model.size}


def judge(model: Reference, logits: Path) -> dict[str, float]:
    """bits_per_byte, kl and same_choice (see `try_file`) of logits on disk, float32 [scored tokens, vocabulary]."""
    said = np.load(logits, mmap_mode="r")
    lengths = [len(ids) - start for ids, start in zip(model.rows, model.starts, strict=True)]
    ends = np.cumsum(lengths)
    return _judged(model, (said[end - length : end] for end, length in zip(ends, lengths, strict=True)))


def _judged(model: Reference, rows: Iterable[np.ndarray]) -> dict[str, float]:
    """The same of the logits of each row's scored tokens, [tokens, at least the vocabulary]."""
    said = np.load(model.path, mmap_mode="r")
    nats = divergence = 0.0
    same = at = 0
    for ids, start, given in zip(model.rows, model.starts, rows, strict=True):
        logits = given[:, : model.vocabulary].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        own = np.asarray(said[at : at + len(logits)], np.float64)
        nats -= float(logits[np.arange(len(logits)), ids[start:]].sum())
        divergence += float((np.exp(own) * (own - logits)).sum())
        same += int((own.argmax(axis=1) == logits.argmax(axis=1)).sum())
        at += len(logits)
    return {
        "bits_per_byte": nats / math.log(2) / model.size,
        "kl": max(0.0, divergence / at),
        "same_choice": same / at,
    }


def try_file(path: Path, model: Reference, items: Sequence[ExamItem], threads: int) -> dict[str, Any]:
    """Measure one file, in the process that calls.

    Returns:
        bytes, bits_per_byte, kl (nats a token, of the model's own distribution against the file's), same_choice (share
        of tokens at which both find the same token likeliest), tokens_per_second of an answer,
        prompt_tokens_per_second, memory_mb that loading and answering took, and exam (right, items) where items are
        given.
    """
    import psutil

    from hanmo.convert.llamacpp import LlamaCpp

    before = psutil.Process().memory_info().rss
    longest = max(max(map(len, model.rows)), _PROMPT + _ANSWER)
    engine = LlamaCpp(path, longest, threads=threads, half_cache=True)
    speed = _speed(engine, model.rows[0])
    memory = psutil.Process().memory_info().rss - before
    found = _judged(model, _fed(engine, model))
    del engine
    return {
        "bytes": path.stat().st_size,
        **found,
        **speed,
        "memory_mb": round(memory / 1e6, 1),
        **({"exam": _exam(path, items, threads)} if items else {}),
    }


def _fed(engine: Any, model: Reference) -> Iterator[np.ndarray]:
    """The engine's logits of each row's scored tokens."""
    for ids, start in zip(model.rows, model.starts, strict=True):
        engine.start()
        yield engine.feed(ids[:-1].tolist())[start - 1 :]


def _speed(engine: Any, ids: np.ndarray) -> dict[str, float]:
    """Tokens a second of reading a prompt, and of writing behind it, greedily; medians."""
    prompt = np.resize(ids, _PROMPT).tolist()
    read, written = [], []
    for _ in range(_TIMES):
        engine.start()
        began = time.perf_counter()
        logits = engine.feed(prompt)
        read.append(time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(_ANSWER):
            logits = engine.feed([int(logits[-1].argmax())])
        written.append(time.perf_counter() - began)
    return {
        "prompt_tokens_per_second": round(_PROMPT / statistics.median(read), 1),
        "tokens_per_second": round(_ANSWER / statistics.median(written), 1),
    }


def _exam(path: Path, items: Sequence[ExamItem], threads: int) -> dict[str, int]:
    """Questions answered in the file's chat format, greedily, judged as in the eval stage."""
    from hanmo.evaluate.items import render_question, score
    from hanmo.serve.engines import open_engine
    from hanmo.serve.sampling import Sampling

    engine = open_engine(path, device="cpu", threads=threads or None)
    right = 0
    for item in items:
        prompt = engine.encode_chat([{"role": "user", "content": render_question(item)}])
        (answer,) = engine.complete([prompt], Sampling(temperature=0, max_tokens=48))
        right += bool(score(answer.text.strip(), item))
    engine.close()
    return {"right": right, "items": len(items)}
