"""Exams: asking a model every item, and saying how sure the score is.

A **chat** model is asked as people ask it: one user turn through the house's `ChatFormat`, the reply written greedily
and judged by `items.score`.

A **base** model has never seen a turn. Asked that way it would fail for the form alone, so it gets what is fair to it:

* a document begins, as in training, behind an end-of-text token;
* worked examples first, the same for every item (fewer where the context is short), each as 问题：, question, 答案：,
  answer on lines of their own. The tokenizer always cuts at a line end, so the model goes on from a place it knows;
* a short item is continued greedily and the first line is judged like any reply;
* a choice item is not asked for a letter. Every option's text is scored as the answer's line, by its log-likelihood per
  UTF-8 byte (the line's end included in the likelihood), and the likeliest option is the model's choice.

The method is part of the result. Scores carry n, k, Wilson's 95 % interval, the chance level and on which side of it
the interval lies; two models that sat the same exam are compared item by item (`significance.compare`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hanmo.evaluate.bpb import document_end
from hanmo.evaluate.continuations import likelihoods
from hanmo.evaluate.generate import generate
from hanmo.evaluate.items import LETTERS, ExamItem, chance, render_question, score
from hanmo.evaluate.significance import tally
from hanmo.files import read_jsonl
from hanmo.tokenizer.chat import ChatFormat, encode_text

#: A worked example is one line of question and a short line of answer.
_LONGEST_QUESTION, _LONGEST_ANSWER = 80, 24


@dataclass
class Sitting:
    """What one model made of one exam: `replies` holds a record per item, in the order of the items."""

    method: dict[str, Any]
    replies: list[dict[str, Any]]
    seconds: float
    summary: dict[str, Any]

    def result(self) -> dict[str, Any]:
        """For eval.json: everything but the single replies."""
        return {"method": self.method, **self.summary, "seconds": self.seconds}


def sit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[ExamItem],
    *,
    chat: bool,
    examples: Sequence[tuple[str, str]] = (),
    by_likelihood: bool = False,
    answer_tokens: int = 48,
    context: int | None = None,
    batch_prompts: int = 64,
    batch_tokens: int = 4096,
    advance: Callable[[int], None] | None = None,
) -> Sitting:
    """Let a model sit an exam.

    Args:
        items: the questions.
        chat: whether the model was trained to chat; decides the method (see the module).
        examples: (question, answer) pairs put in front of every question of a base model.
        by_likelihood: a chat model's choice is the option that is the likeliest reply per byte, and not what it writes.
        answer_tokens: longest reply.
        context: longest sequence in tokens (default: the model's own). Items that leave no room for an answer count as
            wrong and under "too_long".
        advance: told how many items were finished.
    """
    began = time.perf_counter()
    limit = context or model.config.max_position_embeddings

    def write(asked: Sequence[ExamItem], prompts: Sequence[list[int]], stop_ids: list[int]) -> list[dict[str, Any]]:
        fits = [index for index, prompt in enumerate(prompts) if len(prompt) < limit]
        answers = generate(
            model,
            [prompts[index] for index in fits],
            stop_ids=stop_ids,
            max_new_tokens=answer_tokens,
            context=limit,
            batch_prompts=batch_prompts,
            advance=advance,
        )
        replies = [_record(item, "", too_long=True) for item in asked]
        for index, ids in zip(fits, answers, strict=True):
            text = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
            cut = len(ids) >= min(answer_tokens, limit - len(prompts[index]))
            replies[index] = _record(asked[index], text, cut=cut)
        return replies

    if chat:
        ask = ChatFormat(tokenizer)

        def turns(questions: Iterable[str]) -> list[list[int]]:
            said = ([{"role": "user", "content": question}] for question in questions)
            return [ask.encode(messages, add_generation_prompt=True)[0] for messages in said]

        choice = [item for item in items if item.choices and by_likelihood]
        short = [item for item in items if not (item.choices and by_likelihood)]
        method = {"name": "chat", "shots": 0}
        if choice:
            method["choice"] = "likelihood per byte of each option"
        made = write(short, turns(map(render_question, short)), ask.stop_ids)
        asked = turns(item.question for item in choice)
        reply = lambda option: [*encode_text(tokenizer, option), ask.turn_end]  # noqa: E731
        made += _likeliest(model, choice, asked, limit, batch_tokens, reply)
        if advance:
            advance(len(choice))
    else:
        longest = max((item.question for item in items), key=len)
        shown = [f"问题：\n{question}\n答案：\n{answer}\n\n" for question, answer in examples]
        while shown and len(encode_text(tokenizer, "".join(shown) + longest)) + answer_tokens + 16 > limit:
            shown.pop()
        examples_text = "".join(shown)
        method = {"name": "completion", "shots": len(shown), "choice": "likelihood per byte of each option"}
        end_of_text = document_end(tokenizer)

        def prompts_of(asked: Sequence[ExamItem]) -> list[list[int]]:
            asking = (f"{examples_text}问题：\n{item.question}\n答案：\n" for item in asked)
            return [[end_of_text, *encode_text(tokenizer, text)] for text in asking]

        short = [item for item in items if not item.choices]
        choice = [item for item in items if item.choices]
        stop_ids = [end_of_text, *line_ends(tokenizer)]
        made = write(short, prompts_of(short), stop_ids)
        line = lambda option: encode_text(tokenizer, f"{option}\n")  # noqa: E731
        made += _likeliest(model, choice, prompts_of(choice), limit, batch_tokens, line)
        if advance:
            advance(len(choice))
    by_id = {reply["id"]: reply for reply in made}
    replies = [by_id[item.id] for item in items]
    return Sitting(method, replies, time.perf_counter() - began, summarise(items, replies))


def line_ends(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of all byte-level tokens that hold a line end (shown as Ċ in the vocabulary)."""
    return [index for token, index in tokenizer.get_vocab().items() if "Ċ" in token]


def _likeliest(
    model: PreTrainedModel,
    items: Sequence[ExamItem],
    prompts: Sequence[list[int]],
    limit: int,
    batch_tokens: int,
    encode: Callable[[str], list[int]],
) -> list[dict[str, Any]]:
    """The option with the highest log-likelihood per byte, judged as the letter it stands under.

    Args:
        encode: an option's ids, with what ends an answer.
    """
    pairs: list[tuple[list[int], list[int]]] = []
    owners: list[tuple[int, int]] = []
    for index, (item, prompt) in enumerate(zip(items, prompts, strict=True)):
        for option in item.choices or []:
            answer = encode(option)
            if len(prompt) + len(answer) <= limit + 1:
                pairs.append((prompt, answer))
                owners.append((index, len(option.encode())))
    found = likelihoods(model, pairs, context=limit, batch_tokens=batch_tokens)
    costs: list[list[float]] = [[] for _ in items]
    for (index, size), one in zip(owners, found, strict=True):
        costs[index].append(-one.nats / size)
    replies = []
    for item, cost in zip(items, costs, strict=True):
        if len(cost) < len(item.choices or []):
            replies.append(_record(item, "", too_long=True))
            continue
        letter = LETTERS[int(np.argmin(cost))]
        replies.append(_record(item, letter, nats_per_byte=[round(value, 4) for value in cost]))
    return replies


def _record(item: ExamItem, reply: str, **more: Any) -> dict[str, Any]:
    return {
        "id": item.id,
        "category": item.category,
        "kind": item.kind,
        "hops": item.hops,
        "question": render_question(item),
        "answer": item.answer,
        "reply": reply,
        "right": bool(reply) and bool(score(reply, item)),
        **{key: value for key, value in more.items() if value},
    }


def summarise(items: Sequence[ExamItem], replies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a sitting: in total, by category, by kind and by hops; replies that were cut, empty or never asked."""

    def by(key: str) -> dict[str, Any]:
        names = sorted({str(getattr(item, key)) for item in items})
        return {name: part(lambda item, n=name: str(getattr(item, key)) == n) for name in names}

    def part(wanted: Callable[[ExamItem], bool]) -> dict[str, Any]:
        pairs = [(item, reply) for item, reply in zip(items, replies, strict=True) if wanted(item)]
        return tally([reply["right"] for _, reply in pairs], [chance(item) for item, _ in pairs])

    return {
        "total": part(lambda _: True),
        "categories": by("category"),
        "kinds": by("kind"),
        "hops": by("hops"),
        "cut": sum(bool(reply.get("cut")) for reply in replies),
        "too_long": sum(bool(reply.get("too_long")) for reply in replies),
        "empty": sum(not reply["reply"] and not reply.get("too_long") for reply in replies),
    }


def choose_items(items: Sequence[ExamItem], limit: int | None) -> list[ExamItem]:
    """At most `limit` items, drawn by a hash of their id, so that a smaller exam is a part of a larger one."""
    if limit is None or limit >= len(items):
        return list(items)
    drawn = sorted(items, key=lambda item: xxhash.xxh64_intdigest(item.id.encode()))[:limit]
    kept = {item.id for item in drawn}
    return [item for item in items if item.id in kept]


def worked_examples(path: Path, shots: int, seed: int) -> list[tuple[str, str]]:
    """Short question-and-answer pairs out of the first 2,000 training dialogues in `path`, drawn by `seed`.

    Only dialogues of one user turn and one reply, each on one line, are taken: the form of an answer is what they are
    to show.
    """
    found: list[tuple[str, str]] = []
    for _, record in _first(read_jsonl(path), 2000):
        turns = record.get("messages", [])
        if [turn.get("role") for turn in turns] != ["user", "assistant"]:
            continue
        question, answer = (turn["content"].strip() for turn in turns)
        single = "\n" not in question and "\n" not in answer
        if single and 0 < len(question) <= _LONGEST_QUESTION and 0 < len(answer) <= _LONGEST_ANSWER:
            found.append((question, answer))
    return random.Random(seed).sample(found, min(shots, len(found)))


def _first(rows: Iterable[Any], count: int) -> Iterable[Any]:
    for _, row in zip(range(count), rows, strict=False):
        yield row
