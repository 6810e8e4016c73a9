"""The answers stage: a teacher answers prompts, and what it writes becomes records for a student.

Prompts are answered in portions of a fixed size, each a file in `parts/` that is there whole or not at all; a killed
run goes on with the first that is missing. A prompt draws from a random stream of its own, so that the records are the
same wherever a run was killed. Answers that are empty, were cut, or came before for the same prompt are counted and
left out.

Out: `sft.jsonl`, and `answers.json` with what became of every prompt.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from hanmo.console import console, progress
from hanmo.errors import HanmoError, nearest
from hanmo.files import atomic_write, fingerprint_json, read_json, read_jsonl, write_json
from hanmo.posttrain import forms
from hanmo.posttrain.faults import Fault, kind_of
from hanmo.posttrain.forms import Dialogue, Record
from hanmo.posttrain.records import Kind, opening, read_items
from hanmo.posttrain.settings import FileRule
from hanmo.serve.engines import Engine, open_engine
from hanmo.serve.prompt import PromptTooLong
from hanmo.serve.sampling import Sampling
from hanmo.serve.settings import AnswersSettings

#: Prompts of a portion.
_PORTION = 64
_FORM = "prompt"


def run(settings: AnswersSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Answer prompts; see the module for what is written.

    Inputs: "teacher" (one model), "prompts" (record files).

    Raises:
        HanmoError: faulty prompts; a teacher that cannot be loaded or holds no conversations; no answer worth keeping.
    """
    items, account = read_items(inputs["prompts"], settings, _kind(settings))
    for line in account.lines({}):
        console.print(line, style="dim", soft_wrap=True, markup=False)
    prompts: list[Dialogue] = [item.value for item in items]
    parts = _parts(settings, prompts, out)
    engine: Engine | None = None
    with progress() as bar:
        shown = bar.add_task("prompts", total=len(prompts), info="")
        for first in range(0, len(prompts), _PORTION):
            portion = prompts[first : first + _PORTION]
            path = parts / f"{first:09}.jsonl"
            if not path.is_file():
                engine = engine or _teacher(settings, inputs["teacher"][0])
                _answer(engine, portion, first, settings, path)
            bar.advance(shown, len(portion))
    if engine is not None:
        engine.close()
    tally: Counter[str] = Counter()
    tokens = kept = 0
    with atomic_write(out / "sft.jsonl", "wb") as file:
        for path in sorted(parts.glob("*.jsonl")):
            for _, record in read_jsonl(path):
                tally.update(record["left_out"])
                tokens += record["tokens"]
                for answer in record["answers"]:
                    said = [*record["prompt"], {"role": "assistant", "content": answer}]
                    file.write(orjson.dumps({"messages": said}, option=orjson.OPT_APPEND_NEWLINE))
                    kept += 1
        if not kept:
            raise HanmoError(f"none of the {len(prompts)} prompts has an answer worth keeping ({dict(tally)})")
    found = {"prompts": len(prompts), "records": kept, "answer_tokens": tokens, "left_out": dict(tally.most_common())}
    write_json(out / "answers.json", account.as_json() | found)
    shutil.rmtree(parts)
    left = "; ".join(f"{count} × {why}" for why, count in tally.most_common())
    console.print(f"{kept} answers to {len(prompts)} prompts{f'; left out: {left}' if left else ''}", markup=False)
    return found


def _kind(settings: AnswersSettings) -> Kind:
    """Prompts: {prompt: text}, and dialogues up to their first answer."""
    known = [_FORM, *forms.PARSERS]

    def recognise(record: Record) -> str:
        if isinstance(record.get(_FORM), str) and not any(answer in record for _, answer in forms.QUESTION_ANSWER):
            return _FORM
        return forms.recognise(record)

    def parse(record: Record, form: str, rule: FileRule, notes: Counter[str]) -> list[Dialogue]:
        if form == _FORM:
            text = record.get(_FORM)
            if not isinstance(text, str) or not text.strip():
                raise Fault(_FORM, "is empty" if isinstance(text, str) else f"is {kind_of(text)} instead of text")
            found = [[{"role": "user", "content": text}]]
        else:
            found = [opening(dialogue) for dialogue in forms.dialogues_of(record, form, rule, notes)]
        system = rule.system or settings.system
        first = [{"role": "system", "content": system}] if system.strip() else []
        return [prompt if prompt[0]["role"] == "system" else [*first, *prompt] for prompt in found]

    if settings.form not in (*known, "auto", "each"):
        raise HanmoError(f"form: '{settings.form}' is none{nearest(settings.form, known)} (known: {', '.join(known)})")
    return Kind("prompt", "sft.jsonl", known, recognise, parse, lambda prompt: prompt)


def _parts(settings: AnswersSettings, prompts: Sequence[Dialogue], out: Path) -> Path:
    """The folder of portions; what another try with other prompts or settings left in it is removed."""
    parts = out / "parts"
    key = fingerprint_json([settings.model_dump(mode="json"), prompts])
    begun = parts / "begun.json"
    if not begun.is_file() or read_json(begun)["key"] != key:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        write_json(begun, {"key": key})
    return parts


def _teacher(settings: AnswersSettings, model: Path) -> Engine:
    engine = open_engine(model, context=settings.context, device=settings.device)
    if not engine.can_chat:
        raise HanmoError(f"{model}: has no chat template (a base model?), so it answers no prompts; tune it first")
    return engine


def _answer(engine: Engine, prompts: Sequence[Dialogue], first: int, settings: AnswersSettings, path: Path) -> None:
    """Write a portion's file: a line a prompt, {prompt, answers, tokens, left_out}."""
    found: list[dict[str, Any]] = [{"prompt": prompt, "answers": [], "tokens": 0, "left_out": []} for prompt in prompts]
    asked: list[tuple[int, list[int]]] = []
    for number, prompt in enumerate(prompts):
        ids = engine.encode_chat(prompt)
        try:
            engine.check_room(ids)
        except PromptTooLong:
            found[number]["left_out"].append("prompt longer than the context")
            continue
        asked.append((number, ids))
    for sample in range(settings.samples):
        # Draws go by the seed and a prompt's number: samples are told apart by their seeds.
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.answer_tokens,
            seed=settings.seed * 1_000_003 + sample,
        )
        for at in range(0, len(asked), settings.batch_prompts):
            batch = asked[at : at + settings.batch_prompts]
            answers = engine.complete([ids for _, ids in batch], sampling, first=first + at)
            for (number, _), answer in zip(batch, answers, strict=True):
                _take(found[number], answer.text.strip(), answer.completion_tokens, answer.finish, settings.keep_cut)
    with atomic_write(path, "wb") as file:
        for record in found:
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def _take(record: dict[str, Any], text: str, tokens: int, finish: str, keep_cut: bool) -> None:
    record["tokens"] += tokens
    if not text:
        record["left_out"].append("empty answer")
    elif finish == "length" and not keep_cut:
        record["left_out"].append("answer cut at its longest")
    elif text in record["answers"]:
        record["left_out"].append("answer that came before")
    else:
        record["answers"].append(text)
