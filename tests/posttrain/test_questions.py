"""A domain's records in two parts: nothing that is asked was learnt, and length tells no answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hanmo.errors import HanmoError
from hanmo.evaluate.exam import sit
from hanmo.evaluate.generation.files import read_items
from hanmo.evaluate.generation.settings import TaskSettings
from hanmo.evaluate.generation.tasks import task
from hanmo.evaluate.items import ExamItem, load_items
from hanmo.posttrain.questions import run
from hanmo.posttrain.settings import QuestionsSettings
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import ChatFormat, encode_text


def record(number: int, length: int = 0) -> dict[str, Any]:
    return {
        "instruction": f"第{number}种病怎么办？",
        "input": "",
        "output": f"吃第{number}种药" + "，" * (length or number % 9),
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_is_asked_is_not_learnt(jsonl: Callable[..., Path], tmp_path: Path) -> None:
    rows = [record(number) for number in range(200)]
    rows += [record(7) | {"output": "另一种说法"}, record(300, 200)]  # a prompt that comes again; an answer too long
    path = jsonl(rows)
    counts = run(QuestionsSettings(held=40), {"records": [path]}, tmp_path)
    learnt = [line["messages"][0]["content"] for line in lines(tmp_path / "sft.jsonl")]
    exam = load_items(tmp_path / "exam.jsonl")
    asked = [item.question for item in exam]
    assert counts["records"] == len(learnt) and counts["held"] == len(exam)
    assert counts["records"] + counts["held"] + counts["held_but_not_asked"] == len(rows)
    assert 30 <= len(exam) <= 41 and not set(learnt) & set(asked)
    right = {row["instruction"]: row["output"].strip() for row in rows}
    for item in exam:
        assert item.answer_text == right[item.question] or item.question.startswith("第7种")
        assert item.choices is not None and len(item.choices) == 4 and set(item.choices) <= set(right.values())
        sizes = [len(choice) for choice in item.choices]
        assert max(sizes) - min(sizes) <= 6
    assert 5 < sum(item.answer == "A" for item in exam) < 20
    first = {name: (tmp_path / name).read_bytes() for name in ("sft.jsonl", "exam.jsonl", "heldout.jsonl")}
    (tmp_path / "again").mkdir()
    run(QuestionsSettings(held=40), {"records": [path]}, tmp_path / "again")
    assert first == {name: (tmp_path / "again" / name).read_bytes() for name in first}
    settings = TaskSettings(task="text", source="question", target="answer")
    written, _ = read_items([tmp_path], task("text"), settings)
    assert [(item.source, item.references[0]) for item in written] == [
        (item.question, item.answer_text) for item in exam
    ]


def test_too_few_to_ask(jsonl: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="only 2 held-out questions can be asked, 4 answers are to be shown"):
        run(QuestionsSettings(), {"records": [jsonl(record(number) for number in range(10))]}, tmp_path)
    assert not (tmp_path / "sft.jsonl").exists()


def test_a_chat_model_chooses_by_likelihood(tiny_model_dir: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval(), load(tiny_model_dir)
    choices = ["小猫", "一只白色的小鱼", "公园"]
    items = [ExamItem(id="1", category="词", kind="choice", question="谁在睡觉？", choices=choices, answer="A")]
    sitting = sit(model, tokenizer, items, chat=True, by_likelihood=True)
    chat = ChatFormat(tokenizer)
    prompt = chat.encode([{"role": "user", "content": "谁在睡觉？"}], add_generation_prompt=True)[0]
    costs = []
    for choice in choices:
        answer = [*encode_text(tokenizer, choice), chat.turn_end]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        nats = -logits.gather(-1, torch.tensor(answer)[:, None]).sum().item()
        costs.append(nats / len(choice.encode()))
    (reply,) = sitting.replies
    assert reply["nats_per_byte"] == pytest.approx(costs, abs=2e-3)
    assert reply["reply"] == "ABC"[costs.index(min(costs))]
    assert sitting.method == {"name": "chat", "shots": 0, "choice": "likelihood per byte of each option"}
