"""Does another engine do exactly what transformers does with this model? Each check returns a small report.

* `token_ids`: text becomes the same ids, special tokens written out by a user included;
* `chat`: the template in the file renders the same text, and that text gives the ids the model was trained on;
* `greedy`: the most likely tokens are the same, step by step;
* `perplexity`: the same held-out text is equally likely.

Greedy output is compared along transformers' own: where another token is chosen, this is a difference, unless
transformers itself finds that token as good as its own to within `TIE`; such ties are counted, and the comparison goes
on behind them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.convert.llamacpp import LlamaCpp
from hanmo.errors import HanmoError
from hanmo.models.folder import resolve

#: Logits this close are a tie: fp32 sums in another order move them by as much.
TIE = 1e-4

Report = dict[str, Any]
Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Continuation:
    """What transformers continues a prompt with, greedily, in fp32.

    Attributes:
        prompt: ids.
        ids: the most likely token of every step (end tokens do not end it).
        near: of every step, the tokens whose logit is within `TIE` of the best, the best among them.
    """

    prompt: list[int]
    ids: list[int]
    near: list[list[int]]


def prompts(model_dir: Path | str) -> list[list[int]]:
    """20 prompts as ids of the model's tokenizer: texts to continue, and questions in the chat format."""
    from hanmo.convert.trials import OPENINGS, QUESTIONS
    from hanmo.tokenizer import load
    from hanmo.tokenizer.chat import ChatFormat

    form = ChatFormat(load(resolve(model_dir)))
    questions = [form.encode([{"role": "user", "content": text}], True)[0] for text in QUESTIONS]
    return [form.tokenizer.encode(text) for text in OPENINGS] + questions


def continuations(model_dir: Path | str, prompts: Iterable[Sequence[int]], tokens: int) -> list[Continuation]:
    """Run the model folder in transformers, fp32, for `tokens` steps behind each prompt."""
    import torch

    model = _load(model_dir)
    result = []
    for prompt in prompts:
        ids: list[int] = []
        near: list[list[int]] = []
        fed, cache = torch.tensor([list(prompt)]), None
        with torch.inference_mode():
            for _ in range(tokens):
                output = model(fed, past_key_values=cache, use_cache=True)
                logits, cache = output.logits[0, -1], output.past_key_values
                best = int(logits.argmax())
                ids.append(best)
                near.append((logits >= logits[best] - TIE).nonzero().flatten().tolist())
                fed = torch.tensor([[best]])
        result.append(Continuation(list(prompt), ids, near))
    return result


def judge(references: Sequence[Continuation], chosen: Sequence[Sequence[int]]) -> Report:
    """Compare what an engine chose behind every prompt, step by step along transformers' ids, with those ids.

    Args:
        references: from `continuations`.
        chosen: of each reference, the engine's token at every step given transformers' tokens before it; it may end
            early, behind its first difference.
    """
    identical = ties = steps = 0
    differences = []
    for index, (reference, picks) in enumerate(zip(references, chosen, strict=True)):
        apart = [step for step, (pick, best) in enumerate(zip(picks, reference.ids, strict=False)) if pick != best]
        wrong = [step for step in apart if picks[step] not in reference.near[step]]
        ties += len(apart) - len(wrong)
        steps += len(picks)
        identical += not apart and len(picks) == len(reference.ids)
        if wrong:
            step = wrong[0]
            differences.append({"prompt": index, "step": step, "expected": reference.ids[step], "got": picks[step]})
        elif len(picks) != len(reference.ids):
            differences.append({"prompt": index, "step": len(picks), "expected": "more", "got": "nothing"})
    return {
        "prompts": len(references),
        "steps": steps,
        "identical": identical,
        "ties": ties,
        "differences": differences,
    }


def greedy(
    model_dir: Path | str,
    gguf: Path | str,
    prompts: Iterable[Sequence[int]],
    *,
    tokens: int = 64,
    threads: int = 1,
) -> Report:
    """Greedy continuations of `prompts` (ids) in llama.cpp against transformers. See `judge` for the report."""
    references = continuations(model_dir, prompts, tokens)
    longest = max((len(reference.prompt) for reference in references), default=0)
    engine = LlamaCpp(gguf, longest + tokens, threads=threads)
    chosen = []
    for reference in references:
        engine.start()
        picks = []
        fed = reference.prompt
        for best in reference.ids:
            picks.append(int(engine.feed(fed)[-1].argmax()))
            fed = [best]
        chosen.append(picks)
    return judge(references, chosen)


def token_ids(model_dir: Path | str, gguf: Path | str, lines: Iterable[str]) -> Report:
    """Ids of every line in the Hugging Face tokenizer and in llama.cpp, as plain text and with special tokens.

    Plain text is what a user writes: a literal `<|im_end|>` is ten characters. With special tokens is how a rendered
    conversation is read.
    """
    from hanmo.tokenizer import encode_text, load

    tokenizer, engine = load(resolve(model_dir)), LlamaCpp(gguf)
    report: Report = {"lines": 0, "identical": 0, "identical_special": 0, "first_difference": None}
    for line in lines:
        report["lines"] += 1
        for key, special, expected in (
            ("identical", False, encode_text(tokenizer, line)),
            ("identical_special", True, tokenizer.encode(line, add_special_tokens=False)),
        ):
            got = engine.encode(line, special=special)
            report[key] += got == expected
            if got != expected and report["first_difference"] is None:
                report["first_difference"] = {
                    "line": line,
                    "special": special,
                    "expected": expected,
                    "got": got,
                }
    return report


def chat(model_dir: Path | str, gguf: Path | str, conversations: Iterable[Conversation]) -> Report:
    """Conversations through the GGUF file's template and llama.cpp, against `ChatFormat`, text and ids."""
    from hanmo.tokenizer import load
    from hanmo.tokenizer.chat import ChatFormat

    form, engine = ChatFormat(load(resolve(model_dir))), LlamaCpp(gguf)
    report: Report = {"conversations": 0, "same_text": 0, "same_ids": 0, "first_difference": None}
    for messages in conversations:
        report["conversations"] += 1
        opening = messages[-1]["role"] != "assistant"
        text = engine.render(messages, add_generation_prompt=opening)
        expected, _ = form.encode(messages, add_generation_prompt=opening)
        same_text = text == form.render(messages, add_generation_prompt=opening)
        same_ids = engine.encode(text, special=True) == expected
        report["same_text"] += same_text
        report["same_ids"] += same_ids
        if not (same_text and same_ids) and report["first_difference"] is None:
            report["first_difference"] = {"messages": messages, "text": text}
    return report


def perplexity(
    model_dir: Path | str,
    files: Mapping[str, Path],
    texts: Iterable[str],
    *,
    context: int = 256,
    threads: int = 1,
    half_cache: bool = True,
) -> Report:
    """Perplexity of `texts` (joined as documents, cut into windows of `context` tokens) in both engines.

    Every token but a window's first is scored. transformers runs in fp32 and llama.cpp as its users run it, with
    keys and values in F16, or with `half_cache` False in F32. Of every file in `files` (format -> path), `relative`
    is its perplexity over transformers', minus 1.
    """
    import torch

    from hanmo.tokenizer import encode_text, load
    from hanmo.tokenizer.chat import ChatFormat

    tokenizer, model = load(resolve(model_dir)), _load(model_dir)
    end = ChatFormat(tokenizer).end_of_text
    ids = [token for text in texts for token in (*encode_text(tokenizer, text), end)]
    windows = [ids[start : start + context] for start in range(0, len(ids) - 1, context)]
    scored = len(ids) - len(windows)
    if scored < 1:
        raise HanmoError("perplexity needs at least two tokens of text")
    with torch.inference_mode():
        total = sum(_surprise(model(torch.tensor([window])).logits[0].numpy(), window) for window in windows)
    ours = math.exp(total / scored)
    report: Report = {"tokens": scored, "transformers": ours, "llama_cpp": {}}
    for form, path in files.items():
        engine = LlamaCpp(path, context, threads=threads, half_cache=half_cache)
        total = 0.0
        for window in windows:
            engine.start()
            total += _surprise(engine.feed(window), window)
        theirs = math.exp(total / scored)
        report["llama_cpp"][form] = {"perplexity": theirs, "relative": theirs / ours - 1}
    return report


def check(
    model_dir: Path | str,
    files: Mapping[str, Path],
    texts: Iterable[str],
    *,
    lines: int = 1000,
    tokens: int = 64,
    threads: int = 1,
) -> Report:
    """All of the comparisons of a model folder with its GGUF files; `agrees` says whether they meet the limits.

    Args:
        model_dir: a chat model's folder.
        files: format -> GGUF file of it; greedy output is compared in "f32" where that is among them.
        texts: held-out documents, for the perplexity; F32 and F16 must be within 0.5 % of transformers.
        lines: how many hard lines to tokenise.
        tokens: length of the greedy continuations.
        threads: for llama.cpp.
    """
    from hanmo.convert.trials import conversations, hard_lines

    any_file = next(iter(files.values()))
    report: Report = {
        "token_ids": token_ids(model_dir, any_file, hard_lines(lines)),
        "chat": chat(model_dir, any_file, conversations()),
        "perplexity": perplexity(model_dir, files, texts, threads=threads),
    }
    if "f32" in files:
        report["greedy"] = greedy(model_dir, files["f32"], prompts(model_dir), tokens=tokens, threads=threads)
    ids, talks = report["token_ids"], report["chat"]
    exact = {form: file for form, file in report["perplexity"]["llama_cpp"].items() if form in ("f32", "f16")}
    report["agrees"] = (
        ids["identical"] == ids["identical_special"] == ids["lines"]
        and talks["same_text"] == talks["same_ids"] == talks["conversations"]
        and not report.get("greedy", {}).get("differences")
        and all(abs(file["relative"]) < 0.005 for file in exact.values())
    )
    return report


def _surprise(logits: np.ndarray, ids: list[int]) -> float:
    """Sum of -ln p(next id) over a window; `logits` float32 [len(ids), vocabulary]."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(rows).sum(axis=1))
    return float((normaliser - rows[np.arange(len(rows)), ids[1:]]).sum())


def _load(model_dir: Path | str) -> Any:
    """The model folder in transformers, fp32, on the CPU, without remote code."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(resolve(model_dir), dtype=torch.float32).eval()
